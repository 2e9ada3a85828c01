/*
 * Options, the loop, and the three kinds of load:
 *
 *   handshakes  every place opens a connection with a new socket, GETs once, closes, and begins again
 *   requests    every place keeps its connection and N requests in flight on it
 *   idle        every place opens a connection, GETs once, and keeps it until our standard input ends
 *
 * With --rate the load is open: request or connection k is due at k / rate, whatever the server does, and its latency
 * counts from then (no coordinated omission). Without, it is closed. One line of JSON comes out.
 */
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load.h"

enum mode { HANDSHAKES, REQUESTS, IDLE };

/* How long a place waits for the ticket after its answer, in resumption runs. */
#define TICKET_PATIENCE_NS (100 * NS_PER_MS)
/* A connection that has not had its answer by then has failed (handshakes, idle). */
#define ANSWER_PATIENCE_NS (10 * NS_PER_S)
/* Handshakes at once while opening idle connections: below every peer's limit of half-open ones. */
#define IDLE_OPENING_AT_ONCE 32

struct load {
    enum mode mode;
    struct target target;
    struct totals totals;
    unsigned places, streams;
    double rate, warmup_s, duration_s;
    struct connection *connections;
    int epoll;
    uint64_t began_ns, scheduled;
};

static void fail(const char *what) {
    fprintf(stderr, "velocity-load: %s\n", what);
    exit(2);
}

/* Whether something may begin now, and since when it is due: in an open load the schedule says so. */
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

/* Bring a place to what its mode wants of it now. */
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
                return; /* a lost one stays lost */
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
            /* The server allows no more streams for now: what was due stays due. */
            load->scheduled -= load->rate > 0;
            break;
        }
    }
}

/* Open all idle connections, a few handshakes at a time. Returns how many are open and answered. */
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

static void run(struct load *load) {
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
        /* Once per millisecond: timers of all, places to fill, requests that have become due. */
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

static void report(struct load *load, double cpu_s, double wall_s) {
    struct totals *totals = &load->totals;
    samples_sort(&totals->request_us);
    samples_sort(&totals->handshake_us);
    samples_sort(&totals->connection_us);
    printf("{\"seconds\": %.3f, \"requests\": %llu, \"bad_answers\": %llu, \"failed_requests\": %llu, "
           "\"lost_connections\": %llu, \"bytes\": %llu, \"handshakes\": %llu, \"resumed\": %llu, "
           "\"failed_handshakes\": %llu, ",
           load->duration_s, (unsigned long long)totals->requests, (unsigned long long)totals->bad_answers,
           (unsigned long long)totals->failed_requests, (unsigned long long)totals->lost_connections,
           (unsigned long long)totals->bytes, (unsigned long long)totals->handshakes,
           (unsigned long long)totals->resumed, (unsigned long long)totals->failed_handshakes);
    const struct {
        const char *name;
        const struct samples *samples;
    } rows[] = {
        {"request", &totals->request_us}, {"handshake", &totals->handshake_us}, {"connection", &totals->connection_us}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("\"%s_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f}, ", rows[i].name,
               samples_ms(rows[i].samples, 0.5), samples_ms(rows[i].samples, 0.9), samples_ms(rows[i].samples, 0.99),
               samples_ms(rows[i].samples, 1));
    }
    printf("\"cpu_share\": %.3f}\n", cpu_s / wall_s);
}

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static const char usage[] =
    "velocity-load handshakes|requests|idle --address HOST --port N [options]\n"
    "  --name NAME         server name and authority (localhost)   --path PATH   what to GET (/)\n"
    "  --groups LIST       key exchange groups (X25519MLKEM768)    --resume      use tickets\n"
    "  --connections N     places, each one connection (1)         --streams N   requests in flight on each (1)\n"
    "  --rate N            open load, per second, in all           --bytes N     body length of a good answer\n"
    "  --warmup S (0.5)    --duration S (3)";

int main(int argc, char **argv) {
    static const struct option options[] = {{"address", required_argument, NULL, 'a'},
                                            {"port", required_argument, NULL, 'p'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"path", required_argument, NULL, 'u'},
                                            {"groups", required_argument, NULL, 'g'},
                                            {"resume", no_argument, NULL, 'r'},
                                            {"connections", required_argument, NULL, 'c'},
                                            {"streams", required_argument, NULL, 'm'},
                                            {"rate", required_argument, NULL, 'R'},
                                            {"bytes", required_argument, NULL, 'b'},
                                            {"warmup", required_argument, NULL, 'w'},
                                            {"duration", required_argument, NULL, 'd'},
                                            {0}};
    struct load load = {.places = 1, .streams = 1, .warmup_s = 0.5, .duration_s = 3};
    const char *address = "127.0.0.1", *port = "4433", *groups = "X25519MLKEM768";
    load.target.server_name = "localhost";
    load.target.path = "/";
    load.target.expected_bytes = -1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'a':
            address = optarg;
            break;
        case 'p':
            port = optarg;
            break;
        case 'n':
            load.target.server_name = optarg;
            break;
        case 'u':
            load.target.path = optarg;
            break;
        case 'g':
            groups = optarg;
            break;
        case 'r':
            load.target.resume = true;
            break;
        case 'c':
            load.places = (unsigned)atoi(optarg);
            break;
        case 'm':
            load.streams = (unsigned)atoi(optarg);
            break;
        case 'R':
            load.rate = atof(optarg);
            break;
        case 'b':
            load.target.expected_bytes = atoll(optarg);
            break;
        case 'w':
            load.warmup_s = atof(optarg);
            break;
        case 'd':
            load.duration_s = atof(optarg);
            break;
        default:
            fail(usage);
        }
    }
    if (optind != argc - 1) {
        fail(usage);
    }
    const char *mode = argv[optind];
    load.mode = strcmp(mode, "handshakes") == 0 ? HANDSHAKES : strcmp(mode, "idle") == 0 ? IDLE : REQUESTS;
    if (load.mode == REQUESTS && strcmp(mode, "requests") != 0) {
        fail(usage);
    }
    load.target.idle_timeout_ns = (load.mode == IDLE ? 600 : 30) * NS_PER_S;

    struct addrinfo *found, hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    if (getaddrinfo(address, port, &hints, &found) != 0) {
        fail("cannot use that address or port: both must be numeric");
    }
    memcpy(&load.target.address, found->ai_addr, found->ai_addrlen);
    load.target.address_length = found->ai_addrlen;
    freeaddrinfo(found);
    char authority[300];
    snprintf(authority, sizeof authority, "%s:%s", load.target.server_name, port);
    load.target.authority = authority;
    load.target.tls = tls_client_context(groups);
    if (load.target.tls == NULL) {
        fail("cannot use these groups");
    }

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    load.connections = calloc(load.places, sizeof *load.connections);
    if (load.epoll < 0 || load.connections == NULL) {
        fail("cannot begin: out of memory or descriptors");
    }

    double cpu_before = cpu_s();
    run(&load);
    uint64_t wall_ns = now_ns() - load.began_ns;
    report(&load, cpu_s() - cpu_before, (double)wall_ns / 1e9);
    for (unsigned i = 0; i < load.places; i++) {
        if (connection_is_open(&load.connections[i])) {
            connection_close(&load.connections[i]);
        }
    }
    return 0;
}
