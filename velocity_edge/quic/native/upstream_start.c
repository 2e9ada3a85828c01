/* Which connection an attempt gets: one with room (HTTP/2), an idle one, or a new one. */
#include "upstream.h"

#include "engine.h"

/* Attempts that wait for one connection, when it will take several. */
enum { MOST_WAITING = 100 };

static void start(ve_upstream *upstream, ve_attempt *attempt) {
    ve_pool *pool = upstream->pool;
    ve_upstream_wake(upstream);
    attempt->connected_ns = pool->owner->engine->now_ns;
    attempt->reused = upstream->requests > 0;
    pool->reused += attempt->reused;
    upstream->requests++;
    ve_wait(pool->owner, &attempt->waiter, &pool->moving);
    upstream->protocol->start(upstream, attempt);
}

/* By ALPN; without TLS as configured. NULL: it does not speak what it must (RFC 9113 section 3.3). */
static const ve_protocol *protocol_of(const ve_upstream *upstream) {
    const uint8_t *alpn = NULL;
    unsigned length = 0;
    bool must = upstream->pool->speaks == VE_SPEAKS_H2;
    if (upstream->tls == NULL) {
        return must ? &ve_protocol_h2 : &ve_protocol_h1;
    }
    SSL_get0_alpn_selected(upstream->tls, &alpn, &length);
    if (length == 2 && memcmp(alpn, "h2", 2) == 0) {
        return &ve_protocol_h2;
    }
    return must ? NULL : &ve_protocol_h1;
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
    const ve_protocol *protocol = protocol_of(upstream);
    if (protocol == NULL) {
        fail_all(upstream, VE_CONNECT_FAILED, "the upstream does not speak HTTP/2 (ALPN)");
        return;
    }
    if (!upstream->only_h1) {
        upstream->pool->shares = protocol == &ve_protocol_h2;
    }
    upstream->protocol = protocol;
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

/* A connection that runs other requests and has room for one more, or is being made. */
static ve_upstream *with_room(const ve_pool *pool) {
    if (!pool->shares && pool->speaks != VE_SPEAKS_H2) {
        return NULL;
    }
    for (ve_upstream *upstream = pool->connections; upstream != NULL; upstream = upstream->next) {
        bool fits = upstream->protocol == NULL ? upstream->running < MOST_WAITING && !upstream->retiring
                                               : upstream->running > 0 && upstream->protocol->has_room(upstream);
        if (fits && !upstream->only_h1) {
            return upstream;
        }
    }
    return NULL;
}

void ve_attempt_place(ve_attempt *attempt) {
    ve_pool *pool = attempt->pool;
    /* Few servers have WebSocket over HTTP/2; those that have it have it over HTTP/1.1, too. */
    bool only_h1 = attempt->websocket && pool->speaks == VE_SPEAKS_AUTO && pool->tls != NULL;
    ve_upstream *upstream = only_h1 ? NULL : with_room(pool);
    if (upstream == NULL && !only_h1) {
        upstream = ve_pool_take_idle(pool);
    }
    if (upstream != NULL) {
        ve_attempt_attach(upstream, attempt);
        if (upstream->protocol != NULL) {
            start(upstream, attempt);
        }
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
    upstream->only_h1 = only_h1;
    ve_attempt_attach(upstream, attempt);
    ve_upstream_dialled(upstream, ve_dial_begin(upstream));
}

void ve_upstream_displace(ve_upstream *upstream) {
    ve_attempt *next;
    upstream->displaces = false;
    for (ve_attempt *attempt = upstream->attempts; attempt != NULL; attempt = next) {
        next = attempt->next;
        if (attempt->displaced) {
            attempt->displaced = false;
            ve_attempt_detach(attempt);
            ve_attempt_place(attempt);
        }
    }
    if (upstream->running == 0 && !upstream->closed && !upstream->idle) {
        ve_upstream_rest(upstream);
    }
}
