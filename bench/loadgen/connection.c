/* One QUIC connection: opened, read, written, closed.
 *
 * Lifetimes: connection_open makes socket, TLS and QUIC; the HTTP/3 connection is made when the handshake completes;
 * connection_close frees all of them with the requests. A request is in use from connection_request until its stream
 * closes, then goes to the free list.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

#define SCID_LENGTH 17
#define DCID_LENGTH 18
/* Chromium's receive windows. */
#define STREAM_WINDOW (6u << 20)
#define CONNECTION_WINDOW (15u << 20)
#define MAX_TRAIN 65535
/* Trains read before acknowledgements are written: more would make the sender wait for them. */
#define TRAINS_PER_TURN 4

static ngtcp2_path path_of(struct connection *connection) {
    return (ngtcp2_path){
        .local = {(ngtcp2_sockaddr *)&connection->local, connection->local_length},
        .remote = {(ngtcp2_sockaddr *)&connection->target->address, connection->target->address_length},
    };
}

bool connection_open(struct connection *connection, const struct target *target, struct totals *totals,
                     uint64_t due_ns) {
    SSL_SESSION *session = connection->session;
    *connection = (struct connection){.target = target, .totals = totals, .session = session, .due_ns = due_ns};
    connection->fd = socket_open(connection);
    if (connection->fd < 0) {
        return false;
    }
    if (!tls_start(connection)) {
        abort();
    }

    ngtcp2_cid destination = {.datalen = DCID_LENGTH}, source = {.datalen = SCID_LENGTH};
    random_bytes(destination.data, destination.datalen);
    random_bytes(source.data, source.datalen);
    ngtcp2_settings settings;
    ngtcp2_settings_default(&settings);
    settings.initial_ts = now_ns();
    settings.no_pmtud = 1;
    settings.handshake_timeout = 20 * NGTCP2_SECONDS;
    ngtcp2_transport_params parameters;
    ngtcp2_transport_params_default(&parameters);
    parameters.initial_max_streams_uni = 3;
    parameters.initial_max_stream_data_bidi_local = STREAM_WINDOW;
    parameters.initial_max_stream_data_uni = 64 << 10;
    parameters.initial_max_data = CONNECTION_WINDOW;
    parameters.max_idle_timeout = target->idle_timeout_ns;
    ngtcp2_path path = path_of(connection);
    if (ngtcp2_conn_client_new(&connection->quic, &destination, &source, &path, NGTCP2_PROTO_VER_V1, &quic_callbacks,
                               &settings, &parameters, NULL, connection) != 0) {
        abort();
    }
    ngtcp2_conn_set_tls_native_handle(connection->quic, connection->tls_context);
    connection_write(connection);
    return true;
}

static void fail_connection(struct connection *connection) {
    if (connection->dead) {
        return;
    }
    connection->dead = true;
    if (!measured(connection, now_ns())) {
        return;
    }
    if (connection->handshake_completed) {
        connection->totals->lost_connections++;
    } else {
        connection->totals->failed_handshakes++;
    }
    connection->totals->failed_requests += connection->in_flight;
    static int told;
    if (told++ < 3) {
        const ngtcp2_ccerr *error = ngtcp2_conn_get_ccerr2(connection->quic);
        fprintf(stderr, "velocity-load: a connection failed: type %d code 0x%llx %.*s\n", (int)error->type,
                (unsigned long long)error->error_code, (int)error->reasonlen,
                error->reason ? (const char *)error->reason : "");
    }
}

void connection_read(struct connection *connection) {
    static uint8_t train[MAX_TRAIN];
    ngtcp2_path path = path_of(connection);
    ngtcp2_pkt_info info = {0};
    for (int turn = 0; turn < TRAINS_PER_TURN && !connection->dead; turn++) {
        size_t segment;
        ssize_t length = socket_receive(connection->fd, train, sizeof train, &segment);
        if (length < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                fail_connection(connection); /* ECONNREFUSED: no server on this port */
            }
            return;
        }
        uint64_t now = now_ns();
        for (size_t start = 0; start < (size_t)length && !connection->dead; start += segment) {
            size_t rest = (size_t)length - start;
            if (ngtcp2_conn_read_pkt(connection->quic, &path, &info, train + start, rest < segment ? rest : segment,
                                     now) != 0) {
                fail_connection(connection);
            }
        }
    }
}

static ngtcp2_ssize write_packet(ngtcp2_conn *quic, ngtcp2_path *path, ngtcp2_pkt_info *info, uint8_t *destination,
                                 size_t length, ngtcp2_tstamp now, void *user) {
    struct connection *connection = user;
    for (;;) {
        int64_t stream = -1;
        int fin = 0;
        nghttp3_vec vectors[16];
        nghttp3_ssize count = 0;
        if (connection->http != NULL && ngtcp2_conn_get_max_data_left2(quic)) {
            count = nghttp3_conn_writev_stream(connection->http, &stream, &fin, vectors, 16);
            if (count < 0) {
                return NGTCP2_ERR_CALLBACK_FAILURE;
            }
        }
        ngtcp2_ssize taken = -1;
        uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE | (fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : 0u);
        ngtcp2_ssize written = ngtcp2_conn_writev_stream(quic, path, info, destination, length, &taken, flags, stream,
                                                         (const ngtcp2_vec *)vectors, (size_t)count, now);
        if (taken >= 0 && nghttp3_conn_add_write_offset(connection->http, stream, (size_t)taken) != 0) {
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
        switch (written) {
        case NGTCP2_ERR_WRITE_MORE:
            continue;
        case NGTCP2_ERR_STREAM_DATA_BLOCKED:
            nghttp3_conn_block_stream(connection->http, stream);
            continue;
        case NGTCP2_ERR_STREAM_SHUT_WR:
            nghttp3_conn_shutdown_stream_write(connection->http, stream);
            continue;
        default:
            return written;
        }
    }
}

void connection_write(struct connection *connection) {
    static uint8_t train[MAX_TRAIN];
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    ngtcp2_pkt_info info;
    uint64_t now = now_ns();
    while (!connection->dead) {
        size_t segment = 0;
        ngtcp2_ssize length = ngtcp2_conn_write_aggregate_pkt2(connection->quic, &path.path, &info, train, sizeof train,
                                                               &segment, write_packet, 32, now);
        if (length < 0) {
            fail_connection(connection);
        }
        if (length <= 0) {
            break;
        }
        socket_send(connection->fd, train, (size_t)length, segment);
    }
    ngtcp2_conn_update_pkt_tx_time(connection->quic, now);
    connection->expiry_ns = ngtcp2_conn_get_expiry2(connection->quic);
}

void connection_expire(struct connection *connection) {
    if (ngtcp2_conn_handle_expiry(connection->quic, now_ns()) != 0) {
        fail_connection(connection);
    } else {
        connection_write(connection);
    }
}

void connection_close(struct connection *connection) {
    if (!connection->dead) {
        uint8_t packet[1500];
        ngtcp2_path_storage path;
        ngtcp2_path_storage_zero(&path);
        ngtcp2_pkt_info info;
        ngtcp2_ccerr error;
        ngtcp2_ccerr_set_application_error(&error, NGHTTP3_H3_NO_ERROR, NULL, 0);
        ngtcp2_ssize length = ngtcp2_conn_write_connection_close(connection->quic, &path.path, &info, packet,
                                                                 sizeof packet, &error, now_ns());
        if (length > 0) {
            socket_send(connection->fd, packet, (size_t)length, (size_t)length);
        }
    }
    close(connection->fd);
    nghttp3_conn_del(connection->http);
    ngtcp2_conn_del(connection->quic);
    SSL_set_app_data(connection->tls, NULL);
    /* OpenSSL treats the session of a connection without shutdown as broken, and never resumes it. */
    SSL_set_shutdown(connection->tls, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    ngtcp2_crypto_ossl_ctx_del(connection->tls_context);
    SSL_free(connection->tls);
    while (connection->requests != NULL) {
        struct request *request = connection->requests;
        connection->requests = request->next;
        free(request);
    }
    connection->free_requests = NULL;
    connection->http = NULL;
    connection->quic = NULL;
}
