/* Which connection an attempt gets: an idle one, one with room, or a new one. */
#include "upstream.h"

#include "engine.h"

static void start(ve_upstream *upstream, ve_attempt *attempt) {
    ve_pool *pool = upstream->pool;
    attempt->connected_ns = pool->owner->engine->now_ns;
    attempt->reused = upstream->requests > 0;
    pool->reused += attempt->reused;
    upstream->requests++;
    ve_wait(pool->owner, &attempt->waiter, &pool->moving);
    upstream->protocol->start(upstream, attempt);
}

static bool speaks_h2(const ve_upstream *upstream) {
    const uint8_t *alpn = NULL;
    unsigned length = 0;
    if (upstream->tls != NULL) {
        SSL_get0_alpn_selected(upstream->tls, &alpn, &length);
    }
    return upstream->pool->speaks == VE_SPEAKS_H2 || (length == 2 && memcmp(alpn, "h2", 2) == 0);
}

static void fail_all(ve_upstream *upstream, ve_outcome outcome, const char *why) {
    char reason[160];
    snprintf(reason, sizeof reason, "%s", why);
    upstream->pool->connects_failed++;
    ve_upstream_close(upstream);
    while (upstream->attempts != NULL) {
        ve_attempt_end(upstream->attempts, outcome, reason);
    }
}

void ve_upstream_dialled(ve_upstream *upstream, ve_dialled dialled) {
    if (dialled == VE_DIALLING) {
        return;
    }
    if (dialled == VE_DIAL_FAILED) {
        fail_all(upstream, VE_CONNECT_FAILED, ve_dial_reason(upstream));
        return;
    }
    if (speaks_h2(upstream)) {
        fail_all(upstream, VE_CONNECT_FAILED, "HTTP/2 upstreams are not available");
        return;
    }
    upstream->protocol = &ve_protocol_h1;
    ve_waiter_stop(&upstream->waiter);
    ve_dial_free(upstream);
    if (upstream->protocol->begin(upstream) != 0) {
        fail_all(upstream, VE_CONNECT_FAILED, "no memory");
        return;
    }
    /* Attempts that waited for it. What finds no room looks for another connection. */
    ve_attempt *waiting = upstream->attempts;
    upstream->attempts = NULL;
    upstream->running = 0;
    while (waiting != NULL) {
        ve_attempt *attempt = waiting;
        waiting = attempt->next;
        attempt->upstream = NULL;
        if (!upstream->closed && upstream->protocol->has_room(upstream)) {
            ve_attempt_attach(upstream, attempt);
            start(upstream, attempt);
        } else {
            ve_attempt_place(attempt);
        }
    }
}

void ve_attempt_place(ve_attempt *attempt) {
    ve_pool *pool = attempt->pool;
    ve_upstream *upstream = ve_pool_take_idle(pool);
    if (upstream != NULL) {
        ve_attempt_attach(upstream, attempt);
        start(upstream, attempt);
        return;
    }
    if (pool->open >= pool->max_connections) {
        ve_attempt_end(attempt, VE_CONNECT_FAILED, "the pool is full");
        return;
    }
    upstream = ve_upstream_new(pool);
    if (upstream == NULL) {
        ve_attempt_end(attempt, VE_CONNECT_FAILED, "no memory");
        return;
    }
    ve_attempt_attach(upstream, attempt);
    ve_upstream_dialled(upstream, ve_dial_begin(upstream));
}
