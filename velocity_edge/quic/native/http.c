/* HTTP/3 of a whole connection: its nghttp3_conn, connection errors, frame types. */
#include "http.h"

#include "connection.h"
#include "engine.h"
#include "stream.h"

int ve_http_fail(ve_connection *connection, uint64_t code, const char *reason) {
    ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, code, reason);
    return NGTCP2_ERR_CALLBACK_FAILURE;
}

bool ve_http_is_foreign(uint64_t frame_type, bool control) {
    switch (frame_type) {
    case VE_FRAME_DATA:
    case VE_FRAME_HEADERS:
        return control;
    case VE_FRAME_SETTINGS:
    case VE_FRAME_CANCEL_PUSH:
    case VE_FRAME_GOAWAY:
    case VE_FRAME_MAX_PUSH_ID:
    case VE_FRAME_PRIORITY_UPDATE:
    case VE_FRAME_PRIORITY_UPDATE_PUSH:
        return !control;
    case VE_FRAME_PUSH_PROMISE: /* a client never pushes */
    case 0x02:                  /* HTTP/2's PRIORITY, PING, WINDOW_UPDATE, CONTINUATION */
    case 0x06:
    case 0x08:
    case 0x09:
        return true;
    default:
        return false;
    }
}

static int stop_sending(nghttp3_conn *http, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user; /* nghttp3 does not have our stream yet when it refuses one */
    if (connection->receiving != NULL && connection->receiving->id == id) {
        ve_stream_over(connection->receiving, false, code);
    }
    return ngtcp2_conn_shutdown_stream_read(connection->quic, 0, id, code) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static int reset_stream(nghttp3_conn *http, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user;
    connection->engine->counters[VE_streams_reset]++;
    return ngtcp2_conn_shutdown_stream_write(connection->quic, 0, id, code) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static int acked_stream_data(nghttp3_conn *http, int64_t id, uint64_t length, void *user, void *stream_user) {
    (void)http;
    (void)id;
    (void)user;
    if (stream_user != NULL) {
        ve_stream_acked(stream_user, length);
    }
    return 0;
}

static const nghttp3_callbacks CALLBACKS = {
    .acked_stream_data = acked_stream_data,
    .stop_sending = stop_sending,
    .reset_stream = reset_stream,
};

int ve_http_start(ve_connection *connection) {
    nghttp3_settings settings;
    int64_t control;
    int64_t encoder;
    int64_t decoder;
    if (connection->http != NULL) {
        return 0;
    }
    if (ngtcp2_conn_get_streams_uni_left(connection->quic) < 3) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_GENERAL_PROTOCOL_ERROR,
                           "HTTP/3 requires three unidirectional streams");
        return -1;
    }
    nghttp3_settings_default(&settings);
    settings.max_field_section_size = connection->max_field_section_bytes;
    settings.enable_connect_protocol = 1; /* RFC 9220 section 3 */
    settings.qpack_max_dtable_capacity = 0;
    settings.qpack_encoder_max_dtable_capacity = 0;
    settings.qpack_blocked_streams = 0;
    if (nghttp3_conn_server_new(&connection->http, &CALLBACKS, &settings, &connection->memory.http, connection) != 0) {
        connection->http = NULL;
        return -1;
    }
    if (ngtcp2_conn_open_uni_stream(connection->quic, &control, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &encoder, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &decoder, NULL) != 0 ||
        nghttp3_conn_bind_control_stream(connection->http, control) != 0 ||
        nghttp3_conn_bind_qpack_streams(connection->http, encoder, decoder) != 0) {
        return -1;
    }
    return 0;
}

void ve_http_resume(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    if (stream->paused) {
        stream->paused = false;
        connection->paused_streams--;
    }
    if (stream->blocked) {
        stream->blocked = false;
        nghttp3_conn_resume_stream(connection->http, stream->id); /* fails only for a closed stream */
    }
    ve_connection_mark(connection);
}
