/* One turn of all upstreams: sockets that are ready, times that are over. */
#include "upstream.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "connection.h"
#include "engine.h"

enum {
    EVENTS = 256,
    STAGGER_NS = 250 * 1000 * 1000, /* RFC 8305 section 5: Connection Attempt Delay */
};

int ve_upstreams_new(ve_engine *engine) {
    ve_upstreams *owner = calloc(1, sizeof *owner);
    if (owner == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    owner->engine = engine;
    owner->armed_ns = VE_NEVER;
    owner->staggered.timeout_ns = STAGGER_NS;
    owner->epoll = epoll_create1(EPOLL_CLOEXEC);
    owner->timer = (ve_source){.kind = VE_SOURCE_TIMER, .fd = -1};
    owner->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    ve_handles_init(&owner->pools);
    if (owner->epoll < 0 || owner->timer.fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (owner->epoll >= 0) {
            close(owner->epoll);
        }
        if (owner->timer.fd >= 0) {
            close(owner->timer.fd);
        }
        free(owner);
        return -1;
    }
    ve_source_add(owner, &owner->timer, EPOLLIN);
    engine->upstreams = owner;
    return 0;
}

void ve_upstreams_free(ve_engine *engine) {
    ve_upstreams *owner = engine->upstreams;
    if (owner == NULL) {
        return;
    }
    owner->turning = true; /* nobody is woken any more */
    owner->ending = true;
    while (owner->first_pool != NULL) {
        ve_pool *pool = owner->first_pool;
        pool->closing = true;
        pool->running++; /* so that it stays until here */
        while (pool->connections != NULL) {
            ve_upstream *upstream = pool->connections;
            while (upstream->attempts != NULL) {
                ve_attempt_abandon(upstream->attempts, VE_CANCELLED, "the engine ends");
            }
            ve_upstream_close(upstream);
        }
        pool->running--;
        ve_pool_settle(pool);
    }
    ve_bury_all(owner);
    ve_handles_free(&owner->pools);
    close(owner->timer.fd);
    close(owner->epoll);
    free(owner->spare);
    free(owner);
    engine->upstreams = NULL;
}

static void rearm(ve_upstreams *owner) {
    uint64_t due_ns = ve_waiting_due(&owner->staggered);
    for (ve_pool *pool = owner->first_pool; pool != NULL; pool = pool->next) {
        const ve_waiting *const lists[] = {&pool->connecting, &pool->responding, &pool->moving, &pool->resting};
        for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
            uint64_t due = ve_waiting_due(lists[i]);
            due_ns = due < due_ns ? due : due_ns;
        }
    }
    owner->armed_ns = due_ns;
    if (due_ns != VE_NEVER) {
        ve_upstreams_arm(owner, due_ns);
    }
}

/* Nothing moved for too long. Who is to blame? */
static void stop_moving(ve_attempt *attempt) {
    size_t length;
    bool end;
    ve_attempt_body(attempt, &length, &end);
    if (attempt->head_sent) {
        ve_attempt_abandon(attempt, VE_IDLE_TIMEOUT, "the upstream was idle for too long");
    } else if (length > 0 || end) {
        ve_attempt_abandon(attempt, VE_RESPONSE_TIMEOUT, "the upstream does not read the request");
    } else {
        ve_attempt_abandon(attempt, VE_REQUEST_TIMEOUT, "the client does not send its request body");
    }
}

static void expire_pool(ve_pool *pool, uint64_t now_ns) {
    while (ve_waiting_due(&pool->connecting) <= now_ns) {
        ve_upstream *upstream = VE_OWNER(ve_upstream, waiter, pool->connecting.first);
        pool->connects_failed++;
        ve_upstream_close(upstream);
        while (upstream->attempts != NULL) {
            ve_attempt_end(upstream->attempts, VE_CONNECT_TIMEOUT, "no connection in time");
        }
    }
    while (ve_waiting_due(&pool->responding) <= now_ns) {
        ve_attempt_abandon(VE_OWNER(ve_attempt, waiter, pool->responding.first), VE_RESPONSE_TIMEOUT,
                           "no response in time");
    }
    while (ve_waiting_due(&pool->moving) <= now_ns) {
        stop_moving(VE_OWNER(ve_attempt, waiter, pool->moving.first));
    }
    while (ve_waiting_due(&pool->resting) <= now_ns) {
        ve_upstream_close(VE_OWNER(ve_upstream, waiter, pool->resting.first));
    }
}

static void expire(ve_upstreams *owner) {
    uint64_t now_ns = owner->engine->now_ns;
    while (ve_waiting_due(&owner->staggered) <= now_ns) {
        ve_upstream *upstream = ve_dial_of(owner->staggered.first);
        ve_upstream_dialled(upstream, ve_dial_next(upstream));
    }
    ve_pool *next;
    for (ve_pool *pool = owner->first_pool; pool != NULL; pool = next) {
        next = pool->next;
        expire_pool(pool, now_ns);
    }
}

void ve_upstreams_turn(ve_upstreams *owner) {
    struct epoll_event events[EVENTS];
    uint64_t expirations;
    owner->turning = true;
    int n = epoll_wait(owner->epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        ve_source *source = events[i].data.ptr;
        ve_upstream *upstream = source->upstream;
        switch (source->kind) {
        case VE_SOURCE_DEAD:
            break;
        case VE_SOURCE_TIMER:
            if (read(source->fd, &expirations, sizeof expirations) > 0) {
                owner->armed_ns = 0; /* set anew below */
            }
            break;
        case VE_SOURCE_DIAL:
            ve_upstream_dialled(upstream, ve_dial_ready(upstream, source));
            break;
        case VE_SOURCE_CONNECTION:
            if (upstream->dial != NULL) {
                ve_upstream_dialled(upstream, ve_dial_ready(upstream, source));
            } else {
                upstream->protocol->ready(upstream, events[i].events);
                if (upstream->displaces) {
                    ve_upstream_displace(upstream);
                }
            }
            break;
        }
    }
    if (owner->armed_ns <= owner->engine->now_ns) {
        expire(owner);
        rearm(owner);
    }
    owner->turning = false;
    ve_bury_all(owner);
}
