/* Pools: their connections from made to buried, which of them are idle, and who waits for a time. */
#include "upstream.h"

#include <openssl/err.h>
#include <unistd.h>

#include "engine.h"

ve_upstream *ve_upstream_new(ve_pool *pool) {
    ve_upstream *upstream = calloc(1, sizeof *upstream);
    if (upstream == NULL) {
        return NULL;
    }
    upstream->pool = pool;
    upstream->source = (ve_source){.kind = VE_SOURCE_CONNECTION, .fd = -1, .upstream = upstream};
    upstream->next = pool->connections;
    if (upstream->next != NULL) {
        upstream->next->previous = upstream;
    }
    pool->connections = upstream;
    pool->open++;
    return upstream;
}

void ve_upstream_wake(ve_upstream *upstream) {
    if (upstream->idle) {
        upstream->idle = false;
        upstream->pool->idle--;
    }
    ve_waiter_stop(&upstream->waiter);
}

void ve_dial_close_source(ve_dial *dial, ve_source *source) {
    if (source->kind == VE_SOURCE_DIAL) {
        close(source->fd);
        source->kind = VE_SOURCE_DEAD;
        dial->open--;
    }
}

void ve_dial_free(ve_upstream *upstream) {
    ve_dial *dial = upstream->dial;
    for (size_t i = 0; i < dial->count; i++) {
        ve_dial_close_source(dial, &dial->sources[i]);
    }
    ve_waiter_stop(&dial->waiter);
    upstream->dial = NULL;
    ve_bury(upstream->pool->owner, &dial->grave);
}

void ve_upstream_close(ve_upstream *upstream) {
    ve_pool *pool = upstream->pool;
    if (upstream->closed) {
        return;
    }
    upstream->closed = true;
    bool idle = upstream->idle;
    ve_upstream_wake(upstream);
    if (upstream->state != NULL) {
        upstream->protocol->end(upstream);
        upstream->state = NULL;
    }
    if (upstream->tls != NULL) {
        if (idle) {
            SSL_shutdown(upstream->tls); /* close_notify, as far as it can be sent now */
            ERR_clear_error();
        }
        SSL_set_shutdown(upstream->tls,
                         SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* or its session could not be resumed */
    }
    if (upstream->dial != NULL) {
        ve_dial_free(upstream);
    }
    if (upstream->tls != NULL) {
        SSL_free(upstream->tls);
        upstream->tls = NULL;
    }
    if (upstream->source.fd >= 0) {
        close(upstream->source.fd); /* epoll forgets it with this */
    }
    upstream->source.kind = VE_SOURCE_DEAD;
    *(upstream->previous != NULL ? &upstream->previous->next : &pool->connections) = upstream->next;
    if (upstream->next != NULL) {
        upstream->next->previous = upstream->previous;
    }
    pool->open--;
    ve_bury(pool->owner, &upstream->grave);
    ve_pool_settle(pool);
}

void ve_upstream_rest(ve_upstream *upstream) {
    ve_pool *pool = upstream->pool;
    if (upstream->running > 0) {
        return;
    }
    if (upstream->retiring || pool->closing || pool->idle >= pool->max_idle ||
        (pool->max_requests > 0 && upstream->requests >= pool->max_requests)) {
        ve_upstream_close(upstream);
        return;
    }
    upstream->idle = true;
    pool->idle++;
    ve_wait(pool->owner, &upstream->waiter, &pool->resting);
    ve_wire_watch(upstream, true, false);
}

ve_upstream *ve_pool_take_idle(ve_pool *pool) {
    if (pool->resting.last == NULL) {
        return NULL;
    }
    ve_upstream *upstream = VE_OWNER(ve_upstream, waiter, pool->resting.last);
    ve_upstream_wake(upstream);
    return upstream;
}

static bool has_peer(const ve_pool *pool, const ve_peer *peer) {
    for (size_t i = 0; i < pool->peer_count; i++) {
        if (pool->peers[i].length == peer->length && memcmp(&pool->peers[i].any, &peer->any, peer->length) == 0) {
            return true;
        }
    }
    return false;
}

void ve_pool_close_idle(ve_pool *pool, bool all) {
    ve_upstream *next;
    for (ve_upstream *upstream = pool->connections; upstream != NULL; upstream = next) {
        next = upstream->next;
        if (upstream->dial == NULL && (all || !has_peer(pool, &upstream->peer))) {
            upstream->retiring = true;
            if (upstream->running == 0) {
                ve_upstream_close(upstream);
            }
        }
    }
}

void ve_pool_settle(ve_pool *pool) {
    if (!pool->closing || pool->open > 0 || pool->running > 0 || pool->owner == NULL) {
        return;
    }
    ve_upstreams *owner = pool->owner;
    *(pool->previous != NULL ? &pool->previous->next : &owner->first_pool) = pool->next;
    if (pool->next != NULL) {
        pool->next->previous = pool->previous;
    }
    SSL_CTX_free(pool->tls);
    SSL_SESSION_free(pool->session);
    free(pool->server_name);
    pool->owner = NULL;
    ve_bury(owner, &pool->grave);
}
