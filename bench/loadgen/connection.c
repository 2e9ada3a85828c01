/*
 * One QUIC connection with its socket, and HTTP/3 requests on it.
 *
 * Lifetimes: connection_open makes socket, TLS and QUIC; the HTTP/3 connection is made when the handshake completes; all
 * are freed by connection_close, with all its requests. A request is used from connection_request until its stream
 * closes, then waits on the free list. Receiving uses UDP_GRO and sending UDP_SEGMENT, so that the client costs less than what it measures.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "load.h"

#define SCID_LENGTH 17
#define DCID_LENGTH 18
/* Chromium's receive windows. */
#define STREAM_WINDOW (6u << 20)
#define CONNECTION_WINDOW (15u << 20)
#define MAX_TRAIN 65535
/* Trains read before acknowledgements are written: reading all that comes would make a sender wait for them. */
#define TRAINS_PER_TURN 4

uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

static bool measured(const struct connection *connection, uint64_t now) {
    return now >= connection->totals->measure_from_ns;
}

static void random_bytes(uint8_t *destination, size_t length) {
    if (RAND_bytes(destination, (int)length) != 1) {
        abort();
    }
}

/* --- HTTP/3 ------------------------------------------------------------------------------------------------------- */

static int on_header(nghttp3_conn *http, int64_t stream, int32_t token, nghttp3_rcbuf *name, nghttp3_rcbuf *value,
                     uint8_t flags, void *user, void *stream_user) {
    (void)http, (void)stream, (void)name, (void)flags, (void)user;
    struct request *request = stream_user;
    if (request != NULL && token == NGHTTP3_QPACK_TOKEN__STATUS) {
        nghttp3_vec text = nghttp3_rcbuf_get_buf(value);
        request->status = 0;
        for (size_t i = 0; i < text.len; i++) {
            request->status = request->status * 10 + (text.base[i] - '0');
        }
    }
    return 0;
}

static void consume(struct connection *connection, int64_t stream, size_t length) {
    ngtcp2_conn_extend_max_stream_offset(connection->quic, stream, length);
    ngtcp2_conn_extend_max_offset(connection->quic, length);
}

static int on_body(nghttp3_conn *http, int64_t stream, const uint8_t *data, size_t length, void *user,
                   void *stream_user) {
    (void)http, (void)data;
    struct connection *connection = user;
    struct request *request = stream_user;
    if (request != NULL) {
        request->bytes += length;
    }
    if (measured(connection, ngtcp2_conn_get_timestamp(connection->quic))) {
        connection->totals->bytes += length;
    }
    consume(connection, stream, length);
    return 0;
}

static int on_deferred_consume(nghttp3_conn *http, int64_t stream, size_t length, void *user, void *stream_user) {
    (void)http, (void)stream_user;
    consume(user, stream, length);
    return 0;
}

static int on_answered(nghttp3_conn *http, int64_t stream, void *user, void *stream_user) {
    (void)http, (void)stream;
    struct connection *connection = user;
    struct request *request = stream_user;
    if (request == NULL || request->answered) {
        return 0;
    }
    request->answered = true;
    connection->in_flight--;
    connection->answers++;
    uint64_t now = connection->answered_ns = now_ns();
    if (measured(connection, now)) {
        struct totals *totals = connection->totals;
        int64_t expected = connection->target->expected_bytes;
        totals->requests++;
        if (request->status != 200 || (expected >= 0 && request->bytes != (uint64_t)expected)) {
            totals->bad_answers++;
        }
        samples_add(&totals->request_us, now - request->due_ns);
    }
    return 0;
}

static int on_http_stream_close(nghttp3_conn *http, int64_t stream, uint64_t error, void *user, void *stream_user) {
    (void)http, (void)stream, (void)error;
    struct connection *connection = user;
    struct request *request = stream_user;
    if (request == NULL) {
        return 0;
    }
    if (!request->answered) {
        connection->in_flight--;
        if (measured(connection, now_ns())) {
            connection->totals->failed_requests++;
        }
    }
    request->next_free = connection->free_requests;
    connection->free_requests = request;
    return 0;
}

static int on_stop_sending(nghttp3_conn *http, int64_t stream, uint64_t error, void *user, void *stream_user) {
    (void)http, (void)stream_user;
    struct connection *connection = user;
    return ngtcp2_conn_shutdown_stream_read(connection->quic, 0, stream, error);
}

static int on_reset_stream(nghttp3_conn *http, int64_t stream, uint64_t error, void *user, void *stream_user) {
    (void)http, (void)stream_user;
    struct connection *connection = user;
    return ngtcp2_conn_shutdown_stream_write(connection->quic, 0, stream, error);
}

static const nghttp3_callbacks http_callbacks = {
    .recv_header = on_header,
    .recv_data = on_body,
    .deferred_consume = on_deferred_consume,
    .end_stream = on_answered,
    .stream_close = on_http_stream_close,
    .stop_sending = on_stop_sending,
    .reset_stream = on_reset_stream,
    .rand = random_bytes,
};

static bool start_http(struct connection *connection) {
    nghttp3_settings settings;
    nghttp3_settings_default(&settings);
    settings.qpack_max_dtable_capacity = 4096;
    settings.qpack_blocked_streams = 100;
    if (nghttp3_conn_client_new(&connection->http, &http_callbacks, &settings, NULL, connection) != 0) {
        return false;
    }
    int64_t control, encoder, decoder;
    return ngtcp2_conn_open_uni_stream(connection->quic, &control, NULL) == 0 &&
           ngtcp2_conn_open_uni_stream(connection->quic, &encoder, NULL) == 0 &&
           ngtcp2_conn_open_uni_stream(connection->quic, &decoder, NULL) == 0 &&
           nghttp3_conn_bind_control_stream(connection->http, control) == 0 &&
           nghttp3_conn_bind_qpack_streams(connection->http, encoder, decoder) == 0;
}

static nghttp3_nv field(const char *name, const char *value) {
    return (nghttp3_nv){
        .name = (const uint8_t *)name,
        .value = (const uint8_t *)value,
        .namelen = strlen(name),
        .valuelen = strlen(value),
        .flags = NGHTTP3_NV_FLAG_NO_COPY_NAME | NGHTTP3_NV_FLAG_NO_COPY_VALUE,
    };
}

bool connection_request(struct connection *connection, uint64_t due_ns) {
    if (connection->http == NULL || connection->dead) {
        return false;
    }
    struct request *request = connection->free_requests;
    if (request != NULL) {
        connection->free_requests = request->next_free;
    } else {
        if ((request = malloc(sizeof *request)) == NULL) {
            return false;
        }
        request->next = connection->requests;
        connection->requests = request;
    }
    *request = (struct request){.next = request->next, .due_ns = due_ns};

    int64_t stream;
    const nghttp3_nv fields[] = {
        field(":method", "GET"),
        field(":scheme", "https"),
        field(":authority", connection->target->authority),
        field(":path", connection->target->path),
        field("user-agent", "velocity-load"),
    };
    if (ngtcp2_conn_open_bidi_stream(connection->quic, &stream, NULL) != 0 ||
        nghttp3_conn_submit_request(connection->http, stream, fields, sizeof fields / sizeof *fields, NULL, request) !=
            0) {
        request->next_free = connection->free_requests;
        connection->free_requests = request;
        return false;
    }
    connection->in_flight++;
    return true;
}

/* --- QUIC --------------------------------------------------------------------------------------------------------- */

static ngtcp2_conn *quic_of(ngtcp2_crypto_conn_ref *reference) {
    return ((struct connection *)reference->user_data)->quic;
}

static void on_rand(uint8_t *destination, size_t length, const ngtcp2_rand_ctx *context) {
    (void)context;
    random_bytes(destination, length);
}

static int on_new_connection_id(ngtcp2_conn *quic, ngtcp2_cid *id, ngtcp2_stateless_reset_token *token, size_t length,
                                void *user) {
    (void)quic, (void)user;
    random_bytes(id->data, length);
    id->datalen = length;
    random_bytes(token->data, sizeof token->data);
    return 0;
}

static int on_handshake_completed(ngtcp2_conn *quic, void *user) {
    (void)quic;
    struct connection *connection = user;
    uint64_t now = now_ns();
    connection->handshake_completed = true;
    if (measured(connection, now)) {
        connection->totals->handshakes++;
        connection->totals->resumed += (uint64_t)SSL_session_reused(connection->tls);
        samples_add(&connection->totals->handshake_us, now - connection->due_ns);
    }
    return start_http(connection) ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t offset, const uint8_t *data,
                          size_t length, void *user, void *stream_user) {
    (void)offset, (void)stream_user;
    struct connection *connection = user;
    if (connection->http == NULL) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    nghttp3_ssize consumed = nghttp3_conn_read_stream2(
        connection->http, stream, data, length, flags & NGTCP2_STREAM_DATA_FLAG_FIN, ngtcp2_conn_get_timestamp(quic));
    if (consumed < 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    consume(connection, stream, (size_t)consumed);
    return 0;
}

static int on_acked(ngtcp2_conn *quic, int64_t stream, uint64_t offset, uint64_t length, void *user,
                    void *stream_user) {
    (void)quic, (void)offset, (void)stream_user;
    struct connection *connection = user;
    return nghttp3_conn_add_ack_offset(connection->http, stream, length) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t error, void *user,
                           void *stream_user) {
    (void)quic, (void)stream_user;
    struct connection *connection = user;
    if (!(flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET)) {
        error = NGHTTP3_H3_NO_ERROR;
    }
    int result = nghttp3_conn_close_stream(connection->http, stream, error);
    return result == 0 || result == NGHTTP3_ERR_STREAM_NOT_FOUND ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_data_limit(ngtcp2_conn *quic, int64_t stream, uint64_t limit, void *user, void *stream_user) {
    (void)quic, (void)limit, (void)stream_user;
    struct connection *connection = user;
    return nghttp3_conn_unblock_stream(connection->http, stream) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

static const ngtcp2_callbacks quic_callbacks = {
    .client_initial = ngtcp2_crypto_client_initial_cb,
    .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
    .encrypt = ngtcp2_crypto_encrypt_cb,
    .decrypt = ngtcp2_crypto_decrypt_cb,
    .hp_mask = ngtcp2_crypto_hp_mask_cb,
    .recv_retry = ngtcp2_crypto_recv_retry_cb,
    .update_key = ngtcp2_crypto_update_key_cb,
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
    .version_negotiation = ngtcp2_crypto_version_negotiation_cb,
    .get_path_challenge_data2 = ngtcp2_crypto_get_path_challenge_data2_cb,
    .rand = on_rand,
    .get_new_connection_id2 = on_new_connection_id,
    .handshake_completed = on_handshake_completed,
    .recv_stream_data = on_stream_data,
    .acked_stream_data_offset = on_acked,
    .stream_close = on_stream_close,
    .extend_max_stream_data = on_stream_data_limit,
};

/* --- TLS ---------------------------------------------------------------------------------------------------------- */

static int on_ticket(SSL *tls, SSL_SESSION *session) {
    ngtcp2_crypto_conn_ref *reference = SSL_get_app_data(tls);
    if (reference == NULL) {
        return 0;
    }
    struct connection *connection = reference->user_data;
    connection->tickets++;
    if (!connection->target->resume) {
        return 0;
    }
    SSL_SESSION_free(connection->session);
    connection->session = session;
    return 1; /* ours now */
}

SSL_CTX *tls_client_context(const char *groups) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || ngtcp2_crypto_ossl_init() != 0 || SSL_CTX_set1_groups_list(context, groups) != 1) {
        return NULL;
    }
    /* What a client pays for checking chains is not what this measures. */
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, on_ticket);
    return context;
}

static bool start_tls(struct connection *connection) {
    connection->tls = SSL_new(connection->target->tls);
    if (connection->tls == NULL || ngtcp2_crypto_ossl_ctx_new(&connection->tls_context, connection->tls) != 0) {
        return false;
    }
    connection->reference = (ngtcp2_crypto_conn_ref){.get_conn = quic_of, .user_data = connection};
    SSL_set_app_data(connection->tls, &connection->reference);
    SSL_set_connect_state(connection->tls);
    if (ngtcp2_crypto_ossl_configure_client_session(connection->tls) != 0) {
        return false;
    }
    SSL_set_alpn_protos(connection->tls, (const unsigned char *)"\x02h3", 3);
    SSL_set_tlsext_host_name(connection->tls, connection->target->server_name);
    if (connection->session != NULL) {
        /* A ticket is used once (RFC 8446 C.4). */
        SSL_set_session(connection->tls, connection->session);
        SSL_SESSION_free(connection->session);
        connection->session = NULL;
    }
    return true;
}

/* --- socket ------------------------------------------------------------------------------------------------------- */

static int open_socket(struct connection *connection) {
    const struct target *target = connection->target;
    int on = 1, buffer_bytes = 4 << 20;
    int fd = socket(target->address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) != 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    }
    connection->local_length = sizeof connection->local;
    if (connect(fd, (const struct sockaddr *)&target->address, target->address_length) != 0 ||
        getsockname(fd, (struct sockaddr *)&connection->local, &connection->local_length) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

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
    connection->fd = open_socket(connection);
    if (connection->fd < 0) {
        return false;
    }
    if (!start_tls(connection)) {
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

static void die(struct connection *connection) {
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
        fprintf(stderr, "velocity-load: a connection died: type %d code 0x%llx %.*s\n", (int)error->type,
                (unsigned long long)error->error_code, (int)error->reasonlen,
                error->reason ? (const char *)error->reason : "");
    }
}

void connection_read(struct connection *connection) {
    static uint8_t train[MAX_TRAIN];
    ngtcp2_path path = path_of(connection);
    ngtcp2_pkt_info info = {0};
    for (int turn = 0; turn < TRAINS_PER_TURN && !connection->dead; turn++) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec vector = {train, sizeof train};
        struct msghdr message = {
            .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(connection->fd, &message, 0);
        if (length < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                die(connection); /* ECONNREFUSED: nobody serves there */
            }
            return;
        }
        size_t segment = (size_t)length;
        struct cmsghdr *item = CMSG_FIRSTHDR(&message);
        if (item != NULL && item->cmsg_level == IPPROTO_UDP && item->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(item), sizeof size);
            segment = (size_t)size;
        }
        uint64_t now = now_ns();
        for (size_t start = 0; start < (size_t)length && !connection->dead; start += segment) {
            size_t rest = (size_t)length - start;
            if (ngtcp2_conn_read_pkt(connection->quic, &path, &info, train + start, rest < segment ? rest : segment,
                                     now) != 0) {
                die(connection);
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

static void send_train(struct connection *connection, const uint8_t *data, size_t length, size_t segment) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
    } control = {0};
    struct iovec vector = {(void *)data, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (segment < length) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *item = CMSG_FIRSTHDR(&message);
        item->cmsg_level = IPPROTO_UDP;
        item->cmsg_type = UDP_SEGMENT;
        item->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = (uint16_t)segment;
        memcpy(CMSG_DATA(item), &size, sizeof size);
    }
    /* A full socket buffer loses the train, as a network would; a refused one shows at the next read. */
    (void)!sendmsg(connection->fd, &message, 0);
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
            die(connection);
        }
        if (length <= 0) {
            break;
        }
        send_train(connection, train, (size_t)length, segment);
    }
    ngtcp2_conn_update_pkt_tx_time(connection->quic, now);
    connection->expiry_ns = ngtcp2_conn_get_expiry2(connection->quic);
}

void connection_expire(struct connection *connection) {
    if (ngtcp2_conn_handle_expiry(connection->quic, now_ns()) != 0) {
        die(connection);
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
            send_train(connection, packet, (size_t)length, (size_t)length);
        }
    }
    close(connection->fd);
    nghttp3_conn_del(connection->http);
    ngtcp2_conn_del(connection->quic);
    SSL_set_app_data(connection->tls, NULL);
    /* OpenSSL takes a session for broken, and never resumes it, when its connection was not shut down. */
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
