/* Options, and the report: one line of JSON on standard output. */
#include <getopt.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "load.h"

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
    "  --rate N            open load, per second, in all           --bytes N     body length of a correct response\n"
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
    load_run(&load);
    uint64_t wall_ns = now_ns() - load.began_ns;
    report(&load, cpu_s() - cpu_before, (double)wall_ns / 1e9);
    for (unsigned i = 0; i < load.places; i++) {
        if (connection_is_open(&load.connections[i])) {
            connection_close(&load.connections[i]);
        }
    }
    return 0;
}
