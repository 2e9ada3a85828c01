#include "http.h"

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "module.h"
#include "stream.h"

static PyObject *to_bytes(nghttp3_rcbuf *buffer) {
    nghttp3_vec v = nghttp3_rcbuf_get_buf(buffer);
    return PyBytes_FromStringAndSize((const char *)v.base, (Py_ssize_t)v.len);
}

/* Names that QPACK knows come as a token: one bytes object for all requests. */
static PyObject *field_name(ve_module *module, int32_t token, nghttp3_rcbuf *name) {
    if (token < 0 || token >= VE_FIELD_NAMES) {
        return to_bytes(name);
    }
    if (module->field_names[token] == NULL) {
        module->field_names[token] = to_bytes(name);
    }
    return Py_XNewRef(module->field_names[token]);
}

static PyObject *shared_or_new(nghttp3_rcbuf *value, PyObject *common) {
    nghttp3_vec v = nghttp3_rcbuf_get_buf(value);
    if (v.len == (size_t)PyBytes_GET_SIZE(common) && memcmp(v.base, PyBytes_AS_STRING(common), v.len) == 0) {
        return Py_NewRef(common);
    }
    return to_bytes(value);
}

static int begin_headers(nghttp3_conn *http, int64_t id, void *user, void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = connection->receiving;
    (void)stream_user;
    if (stream == NULL || stream->id != id) {
        return NGHTTP3_ERR_CALLBACK_FAILURE; /* can't be: without a dynamic table nothing waits */
    }
    if (nghttp3_conn_set_stream_user_data(http, id, stream) != 0) {
        return NGHTTP3_ERR_CALLBACK_FAILURE;
    }
    stream->headers = PyList_New(0);
    if (stream->headers == NULL) {
        PyErr_Clear();
        return NGHTTP3_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

/* RFC 9114 section 4.2.2: the size of a field is both lengths and 32. The peer was told the limit and may ignore it. */
static bool fits(ve_stream *stream, nghttp3_rcbuf *name, nghttp3_rcbuf *value) {
    stream->field_bytes += nghttp3_rcbuf_get_buf(name).len + nghttp3_rcbuf_get_buf(value).len + 32;
    if (stream->field_bytes > stream->connection->max_field_section_bytes) {
        stream->too_large = true;
    }
    return !stream->too_large;
}

static int add_field(ve_stream *stream, int32_t token, nghttp3_rcbuf *name, nghttp3_rcbuf *value) {
    ve_module *module = stream->connection->engine->module;
    PyObject **where = NULL;
    PyObject *object;
    switch (token) {
    case NGHTTP3_QPACK_TOKEN__METHOD:
        where = &stream->method;
        object = shared_or_new(value, module->get);
        break;
    case NGHTTP3_QPACK_TOKEN__SCHEME:
        where = &stream->scheme;
        object = shared_or_new(value, module->https);
        break;
    case NGHTTP3_QPACK_TOKEN__AUTHORITY:
        where = &stream->authority;
        object = to_bytes(value);
        break;
    case NGHTTP3_QPACK_TOKEN__PATH:
        where = &stream->path;
        object = to_bytes(value);
        break;
    case NGHTTP3_QPACK_TOKEN__PROTOCOL:
        return 0;
    default:
        object = NULL;
    }
    if (where != NULL) {
        Py_XSETREF(*where, object); /* nghttp3 lets each come once */
        return object == NULL ? -1 : 0;
    }
    PyObject *pair = PyTuple_New(2);
    if (pair == NULL) {
        return -1;
    }
    PyObject *key = field_name(module, token, name);
    object = to_bytes(value);
    PyTuple_SET_ITEM(pair, 0, key);
    PyTuple_SET_ITEM(pair, 1, object);
    int result = key == NULL || object == NULL ? -1 : PyList_Append(stream->headers, pair);
    if (result == 0 && token == NGHTTP3_QPACK_TOKEN_HOST && stream->authority == NULL) {
        stream->authority = Py_NewRef(object); /* RFC 9114 section 4.3.1: either names the host */
    }
    Py_DECREF(pair);
    return result;
}

static int recv_header(nghttp3_conn *http, int64_t id, int32_t token, nghttp3_rcbuf *name, nghttp3_rcbuf *value,
                       uint8_t flags, void *user, void *stream_user) {
    ve_stream *stream = stream_user;
    (void)http;
    (void)id;
    (void)flags;
    (void)user;
    if (stream == NULL || stream->over || stream->too_large || !fits(stream, name, value)) {
        return 0;
    }
    if (add_field(stream, token, name, value) != 0) {
        PyErr_Clear();
        return NGHTTP3_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

/* Trailers are counted against the same limit and dropped: no handler of ours wants them. */
static int recv_trailer(nghttp3_conn *http, int64_t id, int32_t token, nghttp3_rcbuf *name, nghttp3_rcbuf *value,
                        uint8_t flags, void *user, void *stream_user) {
    ve_stream *stream = stream_user;
    (void)http;
    (void)id;
    (void)token;
    (void)flags;
    (void)user;
    if (stream != NULL) {
        fits(stream, name, value);
    }
    return 0;
}

static PyObject *or_empty(ve_module *module, PyObject *value) {
    return Py_NewRef(value != NULL ? value : module->empty);
}

static int end_headers(nghttp3_conn *http, int64_t id, int fin, void *user, void *stream_user) {
    ve_connection *connection = user;
    ve_engine *engine = connection->engine;
    ve_stream *stream = stream_user;
    (void)http;
    (void)id;
    if (stream == NULL || stream->over || stream->too_large) {
        return 0;
    }
    ve_stream_not_incomplete(stream);
    stream->headers_done = true;
    stream->request_ended = fin;
    stream->head = stream->method != NULL && PyBytes_GET_SIZE(stream->method) == 4 &&
                   memcmp(PyBytes_AS_STRING(stream->method), "HEAD", 4) == 0;
    engine->counters[VE_requests]++;
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        PyLong_FromUnsignedLongLong(stream->handle),
        or_empty(engine->module, stream->method),
        or_empty(engine->module, stream->scheme),
        or_empty(engine->module, stream->authority),
        or_empty(engine->module, stream->path),
        Py_NewRef(stream->headers),
        PyBool_FromLong(fin),
        PyBool_FromLong(stream->early),
    };
    ve_engine_event(engine, ve_record_new(&engine->module->request_received, values));
    Py_CLEAR(stream->method);
    Py_CLEAR(stream->scheme);
    Py_CLEAR(stream->authority);
    Py_CLEAR(stream->path);
    Py_CLEAR(stream->headers);
    return 0;
}

static int recv_data(nghttp3_conn *http, int64_t id, const uint8_t *data, size_t length, void *user,
                     void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    (void)http;
    if (stream == NULL || stream->over) {
        /* Nobody will consume it: the windows must not close for that. */
        int rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, id, length);
        ngtcp2_conn_extend_max_offset(connection->quic, length);
        return rv == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
    }
    return ve_stream_body(stream, data, length) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static int end_stream(nghttp3_conn *http, int64_t id, void *user, void *stream_user) {
    ve_stream *stream = stream_user;
    (void)http;
    (void)id;
    (void)user;
    if (stream == NULL || stream->over || stream->request_ended || !stream->headers_done) {
        return 0;
    }
    stream->request_ended = true;
    return ve_stream_body_end(stream) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static int deferred_consume(nghttp3_conn *http, int64_t id, size_t length, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user;
    int rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, id, length);
    ngtcp2_conn_extend_max_offset(connection->quic, length);
    return rv == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

/* nghttp3 found a malformed request, or one after our GOAWAY; it says both ends of the stream, one by one. */
static void rejected(ve_connection *connection, ve_stream *stream, uint64_t code) {
    if (code != NGHTTP3_H3_REQUEST_REJECTED && (stream == NULL || !stream->glitched)) {
        if (stream != NULL) {
            stream->glitched = true;
        }
        ve_connection_glitch(connection);
    }
    if (stream != NULL) {
        ve_stream_over(stream, false, code);
    }
}

static int stop_sending(nghttp3_conn *http, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user; /* nghttp3 doesn't know our stream yet when it rejects it */
    if (connection->receiving != NULL && connection->receiving->id == id) {
        rejected(connection, connection->receiving, code);
    }
    return ngtcp2_conn_shutdown_stream_read(connection->quic, 0, id, code) == 0 ? 0 : NGHTTP3_ERR_CALLBACK_FAILURE;
}

static int reset_stream(nghttp3_conn *http, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user;
    if (connection->receiving != NULL && connection->receiving->id == id) {
        rejected(connection, connection->receiving, code);
    }
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

int ve_http_receive(ve_connection *connection, int64_t id, ve_stream *stream, const uint8_t *data, size_t length,
                    bool fin) {
    if (connection->http == NULL) {
        return NGTCP2_ERR_CALLBACK_FAILURE; /* can't be: keys that open stream data come after our 1-RTT key */
    }
    connection->receiving = stream;
    nghttp3_ssize consumed = nghttp3_conn_read_stream(connection->http, id, data, length, fin);
    connection->receiving = NULL;
    if (consumed < 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION,
                           nghttp3_err_infer_quic_app_error_code((int)consumed), nghttp3_strerror((int)consumed));
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    int rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, id, (uint64_t)consumed);
    if (rv != 0) {
        return rv;
    }
    ngtcp2_conn_extend_max_offset(connection->quic, (uint64_t)consumed);
    if (stream == NULL || stream->over) {
        return 0;
    }
    if (stream->incomplete) {
        stream->wire_bytes += length;
        if (stream->wire_bytes > connection->max_field_section_bytes) {
            stream->too_large = true;
        }
    }
    if (stream->too_large) {
        stream->glitched = true;
        ve_connection_glitch(connection);
        ve_connection_reset_stream(connection, stream, VE_H3_EXCESSIVE_LOAD);
    }
    return 0;
}

static const nghttp3_callbacks CALLBACKS = {
    .acked_stream_data = acked_stream_data,
    .begin_headers = begin_headers,
    .recv_header = recv_header,
    .end_headers = end_headers,
    .recv_trailer = recv_trailer,
    .recv_data = recv_data,
    .deferred_consume = deferred_consume,
    .stop_sending = stop_sending,
    .reset_stream = reset_stream,
    .end_stream = end_stream,
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
                           "HTTP/3 needs three unidirectional streams");
        return -1;
    }
    nghttp3_settings_default(&settings);
    settings.max_field_section_size = connection->max_field_section_bytes;
    settings.qpack_max_dtable_capacity = 0;
    settings.qpack_encoder_max_dtable_capacity = 0;
    settings.qpack_blocked_streams = 0;
    if (nghttp3_conn_server_new(&connection->http, &CALLBACKS, &settings, &connection->memory.http, connection) != 0) {
        connection->http = NULL;
        return -1;
    }
    nghttp3_conn_set_max_client_streams_bidi(connection->http, connection->max_streams_bidi);
    if (ngtcp2_conn_open_uni_stream(connection->quic, &control, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &encoder, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &decoder, NULL) != 0 ||
        nghttp3_conn_bind_control_stream(connection->http, control) != 0 ||
        nghttp3_conn_bind_qpack_streams(connection->http, encoder, decoder) != 0) {
        return -1;
    }
    return 0;
}
