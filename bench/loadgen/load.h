/* velocity-load: an HTTP/3 client that puts load on a server, on ngtcp2, nghttp3 and OpenSSL.
 *
 *   main.c        options and the report
 *   loop.c        the loop, and the three kinds of load
 *   connection.c  one QUIC connection: opened, read, written, closed
 *   quic.c        what ngtcp2 calls
 *   http.c        requests
 *   tls.c         TLS and tickets
 *   socket.c      trains in and out
 *   samples.c     latencies and their percentiles
 *
 * A file calls only files below it. One thread, one epoll. A connection owns its socket, its TLS session and its
 * requests; the loop owns the connections. Callbacks of the libraries only note what happened; the loop opens and
 * frees connections.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <nghttp3/nghttp3.h>
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_ossl.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull

/* What all connections of a run share. */
struct target {
    struct sockaddr_storage address;
    socklen_t address_length;
    const char *server_name;
    const char *authority;
    const char *path;
    SSL_CTX *tls;
    bool resume;
    /* Body length of a correct response; -1: any. */
    int64_t expected_bytes;
    uint64_t idle_timeout_ns;
};

struct samples {
    uint32_t *us;
    size_t length, capacity;
};

/* Totals since `measure_from_ns`; nothing is counted before it (warm-up). */
struct totals {
    uint64_t measure_from_ns;
    uint64_t requests, bad_answers, failed_requests, lost_connections, bytes;
    uint64_t handshakes, resumed, failed_handshakes;
    struct samples request_us, handshake_us, connection_us;
};

struct request {
    struct request *next, *next_free;
    /* When it was due: a late start counts as latency. */
    uint64_t due_ns;
    uint64_t bytes;
    int status;
    bool answered;
};

struct connection {
    const struct target *target;
    struct totals *totals;
    int fd;
    struct sockaddr_storage local;
    socklen_t local_length;

    ngtcp2_conn *quic;
    nghttp3_conn *http;
    SSL *tls;
    ngtcp2_crypto_ossl_ctx *tls_context;
    ngtcp2_crypto_conn_ref reference;
    /* Newest ticket; kept after close for the next connection of this place. */
    SSL_SESSION *session;

    uint64_t due_ns, answered_ns, expiry_ns;
    unsigned in_flight, answers, tickets;
    bool handshake_completed;
    /* The connection failed: the loop closes it. */
    bool dead;
    /* All requests ever made, freed with the connection; and those that no stream uses. */
    struct request *requests, *free_requests;
};

enum mode { HANDSHAKES, REQUESTS, IDLE };

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

static inline uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

static inline bool measured(const struct connection *connection, uint64_t now) {
    return now >= connection->totals->measure_from_ns;
}

static inline void random_bytes(uint8_t *destination, size_t length) {
    if (RAND_bytes(destination, (int)length) != 1) {
        abort();
    }
}

_Noreturn static inline void fail(const char *what) {
    fprintf(stderr, "velocity-load: %s\n", what);
    exit(2);
}

static inline bool connection_is_open(const struct connection *connection) {
    return connection->quic != NULL;
}

/* samples.c */
void samples_add(struct samples *samples, uint64_t duration_ns);
void samples_sort(struct samples *samples);
double samples_ms(const struct samples *sorted, double quantile);

/* socket.c */
int socket_open(struct connection *connection);
/* One train, or -1 with errno. `segment`: the length of its datagrams, except the last one. */
ssize_t socket_receive(int fd, uint8_t *train, size_t size, size_t *segment);
void socket_send(int fd, const uint8_t *data, size_t length, size_t segment);

/* tls.c */
SSL_CTX *tls_client_context(const char *groups);
/* False: no memory. */
bool tls_start(struct connection *connection);

/* http.c */
bool http_start(struct connection *connection);
/* Give flow-control credit for bytes that were received. */
void http_consume(struct connection *connection, int64_t stream, size_t length);
/* False while the server allows no further stream, or before the handshake completes. */
bool connection_request(struct connection *connection, uint64_t due_ns);

/* quic.c */
extern const ngtcp2_callbacks quic_callbacks;

/* connection.c */
/* Open a socket and send the first flight. `due_ns` is when it should have begun. False: no socket. */
bool connection_open(struct connection *connection, const struct target *target, struct totals *totals,
                     uint64_t due_ns);
void connection_read(struct connection *connection);
void connection_write(struct connection *connection);
void connection_expire(struct connection *connection);
/* Send CONNECTION_CLOSE (unless dead) and free everything but the session. */
void connection_close(struct connection *connection);

/* loop.c */
void load_run(struct load *load);

#endif
