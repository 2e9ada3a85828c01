/* Bytes to and from an upstream, over a socket, with or without TLS. */
#include "upstream.h"

#include <errno.h>
#include <openssl/err.h>
#include <sys/epoll.h>
#include <sys/uio.h>

static ssize_t tls_result(SSL *tls, int rv) {
    int error = SSL_get_error(tls, rv);
    ERR_clear_error();
    switch (error) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return VE_WIRE_BLOCKED;
    case SSL_ERROR_ZERO_RETURN:
        return VE_WIRE_END;
    default:
        return VE_WIRE_FAILED; /* also an end without close_notify: it could have been cut */
    }
}

ssize_t ve_wire_read(ve_upstream *upstream, void *buffer, size_t length) {
    if (upstream->tls != NULL) {
        int n = SSL_read(upstream->tls, buffer, length > INT32_MAX ? INT32_MAX : (int)length);
        return n > 0 ? n : tls_result(upstream->tls, n);
    }
    ssize_t n;
    do {
        n = recv(upstream->source.fd, buffer, length, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        return n;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? VE_WIRE_BLOCKED : VE_WIRE_FAILED;
}

static ssize_t tls_write(SSL *tls, const struct iovec *pieces, int count) {
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        size_t done = 0;
        while (done < pieces[i].iov_len) {
            size_t length = pieces[i].iov_len - done;
            int n = SSL_write(tls, (const char *)pieces[i].iov_base + done,
                              length > VE_READ_BYTES ? VE_READ_BYTES : (int)length);
            if (n <= 0) {
                ssize_t result = tls_result(tls, n);
                return total > 0 ? total : result == VE_WIRE_END ? VE_WIRE_FAILED : result;
            }
            done += (size_t)n;
            total += n;
        }
    }
    return total;
}

ssize_t ve_wire_write(ve_upstream *upstream, const struct iovec *pieces, int count) {
    if (upstream->tls != NULL) {
        return tls_write(upstream->tls, pieces, count);
    }
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)pieces, .msg_iovlen = (size_t)count};
    ssize_t n;
    do {
        n = sendmsg(upstream->source.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        return n;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? VE_WIRE_BLOCKED : VE_WIRE_FAILED;
}

void ve_wire_end(ve_upstream *upstream) {
    if (upstream->tls != NULL) {
        SSL_shutdown(upstream->tls); /* close_notify; the peer's is read like any end */
        ERR_clear_error();
    }
    shutdown(upstream->source.fd, SHUT_WR);
}

void ve_wire_watch(ve_upstream *upstream, bool read, bool write) {
    uint32_t interest = (read ? EPOLLIN : 0u) | (write ? EPOLLOUT : 0u);
    if (upstream->tls != NULL && read && SSL_has_pending(upstream->tls)) {
        interest |= EPOLLOUT; /* the socket may have nothing: being writable is what calls us */
    }
    if (interest != upstream->source.interest) {
        ve_source_change(upstream->pool->owner, &upstream->source, interest);
    }
}
