/* HTTP/3 of a connection: requests, and what is measured when a response is complete. */
#include <stdlib.h>
#include <string.h>

#include "load.h"

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

void http_consume(struct connection *connection, int64_t stream, size_t length) {
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
    http_consume(connection, stream, length);
    return 0;
}

static int on_deferred_consume(nghttp3_conn *http, int64_t stream, size_t length, void *user, void *stream_user) {
    (void)http, (void)stream_user;
    http_consume(user, stream, length);
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

bool http_start(struct connection *connection) {
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
