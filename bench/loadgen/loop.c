/* The loop, and the three kinds of load:
 *
 *   handshakes  every place opens a connection with a new socket, sends one GET, closes, and begins again
 *   requests    every place keeps its connection, with N requests in flight on it
 *   idle        every place opens a connection, sends one GET, and keeps it until standard input ends
 *
 * With a rate the load is open: request or connection k is due at k / rate, whatever the server does, and its latency
 * is measured from then (no coordinated omission). Without a rate the load is closed.
 */
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

/* How long a place waits for the ticket after its response, in resumption runs. */
#define TICKET_PATIENCE_NS (100 * NS_PER_MS)
/* A connection without a response after this time has failed (handshakes, idle). */
#define ANSWER_PATIENCE_NS (10 * NS_PER_S)
/* Concurrent handshakes while idle connections are opened: fewer than any server allows half-open. */
#define IDLE_OPENING_AT_ONCE 32

/* Whether something may begin now, and since when it is due; in an open load by the schedule. */
static bool take_due(struct load *load, uint64_t now, uint64_t *due_ns) {
    if (load->rate <= 0) {
        *due_ns = now;
        return true;
    }
    uint64_t due = load->began_ns + (uint64_t)((double)load->scheduled / load->rate * 1e9);
    if (due > now) {
        return false;
    }
    load->scheduled++;
    *due_ns = due;
    return true;
}

static bool open_place(struct load *load, struct connection *connection, uint64_t due_ns) {
    if (!connection_open(connection, &load->target, &load->totals, due_ns)) {
        return false;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0) {
        fail("cannot watch a socket");
    }
    return true;
}

/* Do for a place what its mode requires now. */
static void tend(struct load *load, struct connection *connection, uint64_t now) {
    uint64_t due_ns;
    bool answered = connection->answers > 0;
    if (connection_is_open(connection)) {
        bool over = connection->dead;
        if (load->mode == HANDSHAKES && answered) {
            bool ticket_due = load->target.resume && connection->tickets == 0;
            over = over || !ticket_due || now - connection->answered_ns > TICKET_PATIENCE_NS;
            if (over && !connection->dead && connection->answered_ns >= load->totals.measure_from_ns) {
                samples_add(&load->totals.connection_us, connection->answered_ns - connection->due_ns);
            }
        }
        if (load->mode != REQUESTS && !answered && now - connection->due_ns > ANSWER_PATIENCE_NS) {
            load->totals.failed_handshakes++;
            over = true;
        }
        if (over) {
            connection_close(connection);
            if (load->mode == IDLE) {
                return; /* a lost connection is not replaced */
            }
        }
    }
    if (!connection_is_open(connection) && load->mode != IDLE) {
        if (load->mode == REQUESTS) {
            open_place(load, connection, now);
        } else if (take_due(load, now, &due_ns)) {
            open_place(load, connection, due_ns);
        }
    }
    if (!connection_is_open(connection) || connection->http == NULL) {
        return;
    }
    if (load->mode != REQUESTS) {
        if (!answered && connection->in_flight == 0) {
            connection_request(connection, connection->due_ns);
        }
        return;
    }
    while (connection->in_flight < load->streams && take_due(load, now, &due_ns)) {
        if (!connection_request(connection, due_ns)) {
            /* The server allows no more streams now: the request remains due. */
            load->scheduled -= load->rate > 0;
            break;
        }
    }
}

/* Open all idle connections, a few at a time. Returns how many are open and have a response. */
static unsigned tend_idle(struct load *load, uint64_t now) {
    unsigned ready = 0, opening = 0;
    for (unsigned i = 0; i < load->places; i++) {
        struct connection *connection = &load->connections[i];
        if (connection_is_open(connection)) {
            tend(load, connection, now);
        } else if (connection->totals == NULL && opening < IDLE_OPENING_AT_ONCE) {
            open_place(load, connection, now);
        }
        if (connection_is_open(connection) && connection->answers > 0) {
            ready++;
        } else if (connection_is_open(connection)) {
            opening++;
        }
    }
    return ready;
}

static bool input_ended(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

static unsigned lost_places(const struct load *load) {
    unsigned lost = 0;
    for (unsigned i = 0; i < load->places; i++) {
        lost += load->connections[i].totals != NULL && !connection_is_open(&load->connections[i]);
    }
    return lost;
}

void load_run(struct load *load) {
    uint64_t now = load->began_ns = now_ns();
    uint64_t end_ns = now + (uint64_t)((load->warmup_s + load->duration_s) * 1e9);
    uint64_t timers_ns = 0;
    bool announced = false;
    load->totals.measure_from_ns = now + (uint64_t)(load->warmup_s * 1e9);
    struct epoll_event events[256];

    while (load->mode == IDLE || now < end_ns) {
        int count = epoll_wait(load->epoll, events, 256, 1);
        now = now_ns();
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection_is_open(connection)) {
                continue;
            }
            connection_read(connection);
            tend(load, connection, now);
            if (connection_is_open(connection) && !connection->dead) {
                connection_write(connection);
            }
        }
        /* Once per millisecond: timers of all connections, empty places, requests that are due. */
        if (now - timers_ns < NS_PER_MS) {
            continue;
        }
        timers_ns = now;
        for (unsigned i = 0; i < load->places; i++) {
            struct connection *connection = &load->connections[i];
            if (connection_is_open(connection) && !connection->dead && connection->expiry_ns <= now) {
                connection_expire(connection);
            }
            if (load->mode == IDLE) {
                continue;
            }
            unsigned before = connection->in_flight;
            bool was_open = connection_is_open(connection);
            tend(load, connection, now);
            if (was_open && connection_is_open(connection) && connection->in_flight != before) {
                connection_write(connection);
            }
        }
        if (load->mode == IDLE) {
            unsigned ready = tend_idle(load, now);
            if (!announced && ready + lost_places(load) == load->places) {
                announced = true;
                printf("{\"open\": %u, \"lost\": %u}\n", ready, load->places - ready);
                fflush(stdout);
            }
            if (input_ended()) {
                return;
            }
        }
    }
}
