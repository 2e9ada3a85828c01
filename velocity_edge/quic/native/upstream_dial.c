/* Connecting: addresses in their order, a second one beside the first after a quarter of a second (RFC 8305), then TLS.
 *
 * The first socket that is connected wins, and the others are closed. When it is TLS that fails, no other address is
 * tried: a server that answers with the wrong certificate is a fault to be seen.
 */
#include "upstream.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine.h"

static void set_options(int fd, const ve_pool *pool, int family) {
    int one = 1;
    if (family == AF_UNIX) {
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int seconds = (int)(pool->tcp_keepalive_ns / VE_SECOND_NS);
    if (seconds > 0) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
    }
}

const char *ve_dial_reason(const ve_upstream *upstream) {
    return upstream->dial == NULL || upstream->dial->reason[0] == 0 ? "no memory" : upstream->dial->reason;
}

ve_upstream *ve_dial_of(ve_waiter *waiter) {
    return VE_OWNER(ve_dial, waiter, waiter)->upstream;
}

static void note(ve_dial *dial, int error) {
    snprintf(dial->reason, sizeof dial->reason, "%s", strerror(error));
}

/* The handshake goes on. */
static ve_dialled shake_hands(ve_upstream *upstream) {
    ve_upstreams *owner = upstream->pool->owner;
    ERR_clear_error();
    int rv = SSL_do_handshake(upstream->tls);
    if (rv == 1) {
        return VE_DIALLED;
    }
    switch (SSL_get_error(upstream->tls, rv)) {
    case SSL_ERROR_WANT_READ:
        ve_source_change(owner, &upstream->source, EPOLLIN);
        return VE_DIALLING;
    case SSL_ERROR_WANT_WRITE:
        ve_source_change(owner, &upstream->source, EPOLLOUT);
        return VE_DIALLING;
    default:
        ve_tls_client_reason(upstream->tls, upstream->dial->reason, sizeof upstream->dial->reason);
        return VE_DIAL_FAILED;
    }
}

/* This socket is connected: it becomes the connection's. */
static ve_dialled win(ve_upstream *upstream, ve_source *source) {
    ve_dial *dial = upstream->dial;
    ve_upstreams *owner = upstream->pool->owner;
    if (source->interest != 0) {
        ve_source_change(owner, source, 0); /* it is another pointer in epoll from now on */
    }
    source->kind = VE_SOURCE_DEAD;
    dial->open--;
    upstream->source.fd = source->fd;
    upstream->peer = dial->peers[source - dial->sources];
    for (size_t i = 0; i < dial->count; i++) {
        ve_dial_close_source(dial, &dial->sources[i]);
    }
    ve_waiter_stop(&dial->waiter);
    if (upstream->pool->tls == NULL) {
        return VE_DIALLED;
    }
    upstream->tls = ve_tls_client(upstream->pool, upstream->source.fd);
    if (upstream->tls == NULL) {
        note(dial, ENOMEM);
        return VE_DIAL_FAILED;
    }
    if (upstream->only_h1) {
        SSL_set_alpn_protos(upstream->tls, (const uint8_t *)"\x08http/1.1", 9);
    }
    return shake_hands(upstream);
}

ve_dialled ve_dial_next(ve_upstream *upstream) {
    ve_dial *dial = upstream->dial;
    ve_pool *pool = upstream->pool;
    ve_waiter_stop(&dial->waiter);
    while (dial->next < dial->count) {
        ve_source *source = &dial->sources[dial->next];
        const ve_peer *peer = &dial->peers[dial->next++];
        int fd = socket(peer->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            note(dial, errno);
            continue;
        }
        set_options(fd, pool, peer->any.sa_family);
        *source = (ve_source){.kind = VE_SOURCE_DIAL, .fd = fd, .upstream = upstream};
        dial->open++;
        int rv = connect(fd, &peer->any, peer->length);
        if (rv == 0) {
            return win(upstream, source);
        }
        if (errno != EINPROGRESS) { /* EAGAIN: the queue of a unix socket is full */
            note(dial, errno);
            ve_dial_close_source(dial, source);
            continue;
        }
        ve_source_add(pool->owner, source, EPOLLOUT);
        if (dial->next < dial->count) {
            ve_wait(pool->owner, &dial->waiter, &pool->owner->staggered);
        }
        break;
    }
    return dial->open > 0 ? VE_DIALLING : VE_DIAL_FAILED;
}

ve_dialled ve_dial_begin(ve_upstream *upstream) {
    ve_pool *pool = upstream->pool;
    ve_dial *dial = calloc(1, sizeof *dial);
    if (dial == NULL) {
        return VE_DIAL_FAILED;
    }
    upstream->dial = dial;
    dial->upstream = upstream;
    dial->count = pool->peer_count;
    memcpy(dial->peers, pool->peers, pool->peer_count * sizeof pool->peers[0]);
    if (dial->count == 0) {
        snprintf(dial->reason, sizeof dial->reason, "no address is known");
    }
    ve_wait(pool->owner, &upstream->waiter, &pool->connecting);
    pool->connects++;
    return ve_dial_next(upstream);
}

ve_dialled ve_dial_ready(ve_upstream *upstream, ve_source *source) {
    ve_dial *dial = upstream->dial;
    int error = 0;
    socklen_t length = sizeof error;
    if (source == &upstream->source) {
        return shake_hands(upstream);
    }
    if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) {
        error = errno;
    }
    if (error == 0) {
        return win(upstream, source);
    }
    note(dial, error);
    ve_dial_close_source(dial, source);
    return ve_dial_next(upstream);
}
