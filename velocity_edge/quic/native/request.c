/* Request streams: frames, field sections, bodies (RFC 9114 section 4.1). */
#include "http.h"

#include <stdlib.h>

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "message.h"
#include "module.h"
#include "stream.h"

int ve_http_fail(ve_connection *connection, uint64_t code, const char *reason) {
    ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, code, reason);
    return NGTCP2_ERR_CALLBACK_FAILURE;
}

/* The request is refused, the connection goes on. */
static int refuse(ve_stream *stream, uint64_t code) {
    if (!stream->glitched) {
        stream->glitched = true;
        ve_connection_glitch(stream->connection);
    }
    ve_connection_reset_stream(stream->connection, stream, code);
    return 0;
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
    case VE_FRAME_PUSH_PROMISE: /* a client promises nothing */
    case 0x02:                  /* HTTP/2's PRIORITY, PING, WINDOW_UPDATE, CONTINUATION */
    case 0x06:
    case 0x08:
    case 0x09:
        return true;
    default:
        return false;
    }
}

/* --- field sections --- */

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

/* The value; b"" where there is no such field; one object for all where it is `common`. */
static PyObject *value_of(ve_module *module, const nghttp3_qpack_nv *field, PyObject *common) {
    if (field == NULL) {
        return Py_NewRef(module->empty);
    }
    nghttp3_vec v = nghttp3_rcbuf_get_buf(field->value);
    if (v.len == (size_t)PyBytes_GET_SIZE(common) && memcmp(v.base, PyBytes_AS_STRING(common), v.len) == 0) {
        return Py_NewRef(common);
    }
    return to_bytes(field->value);
}

/* A list of (name, value). NULL with an exception. */
static PyObject *to_pairs(ve_module *module, const nghttp3_qpack_nv *fields, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *pair = PyTuple_New(2);
        PyObject *name = field_name(module, fields[i].token, fields[i].name);
        PyObject *value = to_bytes(fields[i].value);
        if (pair == NULL || name == NULL || value == NULL) {
            Py_XDECREF(pair);
            Py_XDECREF(name);
            Py_XDECREF(value);
            Py_CLEAR(list);
            break;
        }
        PyTuple_SET_ITEM(pair, 0, name);
        PyTuple_SET_ITEM(pair, 1, value);
        PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

/* RFC 9218 section 5; what PRIORITY_UPDATE said before is newer than the request's own field (section 7.1). */
static void prioritise(ve_stream *stream, const ve_sections *section, const ve_head *head) {
    ve_connection *connection = stream->connection;
    nghttp3_pri priority = {.urgency = NGHTTP3_DEFAULT_URGENCY};
    bool said = false;
    if (stream->prioritised) {
        return;
    }
    for (size_t i = head->pseudo; i < section->count; i++) {
        if (section->fields[i].token == NGHTTP3_QPACK_TOKEN_PRIORITY) {
            nghttp3_vec v = nghttp3_rcbuf_get_buf(section->fields[i].value);
            nghttp3_pri parsed = priority;
            if (nghttp3_pri_parse_priority(&parsed, v.base, v.len) != 0) {
                return;
            }
            priority = parsed;
            said = true;
        }
    }
    if (said) {
        nghttp3_conn_set_server_stream_priority(connection->http, stream->id, &priority);
    }
}

static int deliver(ve_stream *stream, const ve_sections *section, const ve_head *head, bool fin) {
    ve_connection *connection = stream->connection;
    ve_engine *engine = connection->engine;
    ve_module *module = engine->module;
    /* A section above the limit that the peer was told is answered with a 431 and not shown (RFC 6585 section 5). */
    bool too_large = section->bytes > connection->max_field_section_bytes;
    const ve_head nothing = {0};
    const ve_head *shown = too_large ? &nothing : head;
    const nghttp3_qpack_nv *authority = shown->authority != NULL ? shown->authority : shown->host;
    nghttp3_vec method = nghttp3_rcbuf_get_buf(head->method->value);
    ve_stream_not_incomplete(stream);
    stream->headers_done = true;
    stream->request_ended = fin;
    stream->head = method.len == 4 && memcmp(method.base, "HEAD", 4) == 0;
    stream->body_left = head->content_length;
    prioritise(stream, section, head);
    engine->counters[VE_requests]++;
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        PyLong_FromUnsignedLongLong(stream->handle),
        value_of(module, head->method, module->get),
        value_of(module, shown->scheme, module->https),
        value_of(module, authority, module->empty),
        value_of(module, shown->path, module->empty),
        too_large ? PyList_New(0) : to_pairs(module, section->fields + head->pseudo, section->count - head->pseudo),
        PyBool_FromLong(fin),
        PyBool_FromLong(stream->early),
        PyBool_FromLong(too_large),
    };
    ve_engine_event(engine, ve_record_new(&module->request_received, values));
    return 0;
}

/* A whole section; `fin`: nothing comes behind it. */
static int end_section(ve_stream *stream, const uint8_t *data, size_t length, bool fin) {
    ve_connection *connection = stream->connection;
    ve_sections *section = &connection->engine->sections;
    ve_head head;
    bool trailers = stream->headers_done;
    int rv = 0;
    switch (ve_sections_decode(section, data, length, ve_most_field_bytes(connection))) {
    case VE_DECODED:
        break;
    case VE_DECODED_TOO_LARGE:
        rv = refuse(stream, VE_H3_EXCESSIVE_LOAD);
        goto done;
    case VE_DECODED_INVALID:
        rv = ve_http_fail(connection, VE_QPACK_DECOMPRESSION_FAILED, "field section is no QPACK");
        goto done;
    case VE_DECODED_NO_MEMORY:
        rv = NGTCP2_ERR_NOMEM;
        goto done;
    }
    if (trailers) {
        /* Counted against the same limit and dropped: no handler of ours wants them. */
        stream->trailers_done = true;
        if (section->bytes > connection->max_field_section_bytes) {
            rv = refuse(stream, VE_H3_EXCESSIVE_LOAD);
        } else if (!ve_message_trailers(section->fields, section->count)) {
            rv = refuse(stream, VE_H3_MESSAGE_ERROR);
        }
    } else if (!ve_message_request(section->fields, section->count, &head) || (fin && head.content_length > 0)) {
        rv = refuse(stream, VE_H3_MESSAGE_ERROR);
    } else {
        rv = deliver(stream, section, &head, fin);
    }
done:
    ve_sections_clear(section);
    return rv;
}

/* A piece of a section that is not whole yet. What is held of all sections of a connection has the connection's
 * window as its bound: the peer had credit for it once. */
static int keep_piece(ve_stream *stream, const uint8_t *data, size_t length) {
    ve_connection *connection = stream->connection;
    size_t needed = stream->section_length + length;
    if (connection->section_bytes + length > connection->engine->limits.connection_window_bytes) {
        return refuse(stream, VE_H3_EXCESSIVE_LOAD);
    }
    uint8_t *section = realloc(stream->section, needed);
    if (section == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    memcpy(section + stream->section_length, data, length);
    stream->section = section;
    stream->section_length = needed;
    connection->section_bytes += length;
    return 0;
}

static int read_section(ve_stream *stream, const uint8_t *data, size_t length, bool fin) {
    if (length == stream->frame_left && stream->section == NULL) {
        return end_section(stream, data, length, fin);
    }
    int rv = keep_piece(stream, data, length);
    if (rv == 0 && length == stream->frame_left && !stream->over) {
        rv = end_section(stream, stream->section, stream->section_length, fin);
        ve_stream_drop_section(stream);
    }
    return rv;
}

/* --- frames --- */

static int begin_frame(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    if (ve_http_is_foreign(stream->frame_type, false)) {
        return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "frame of another kind of stream");
    }
    switch (stream->frame_type) {
    case VE_FRAME_DATA:
        if (!stream->headers_done || stream->trailers_done) {
            return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "DATA outside of a message");
        }
        if (stream->body_left >= 0) {
            if (stream->frame_left > (uint64_t)stream->body_left) {
                return refuse(stream, VE_H3_MESSAGE_ERROR); /* more than content-length */
            }
            stream->body_left -= (int64_t)stream->frame_left;
        }
        break;
    case VE_FRAME_HEADERS:
        if (stream->trailers_done) {
            return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "HEADERS after trailers");
        }
        if (stream->frame_left == 0) {
            return ve_http_fail(connection, VE_QPACK_DECOMPRESSION_FAILED, "field section without a prefix");
        }
        if (stream->frame_left > ve_most_field_bytes(connection)) {
            return refuse(stream, VE_H3_EXCESSIVE_LOAD);
        }
        break;
    default:
        break; /* unknown: thrown away (RFC 9114 section 9) */
    }
    stream->in_frame = stream->frame_left > 0;
    return 0;
}

/* The stream's end. */
static int end_request(ve_stream *stream) {
    if (stream->in_frame || stream->in_frame_head || stream->varint.left > 0) {
        return ve_http_fail(stream->connection, VE_H3_FRAME_ERROR, "the stream ends within a frame");
    }
    if (!stream->headers_done) {
        return refuse(stream, VE_H3_REQUEST_INCOMPLETE);
    }
    if (stream->body_left > 0) {
        return refuse(stream, VE_H3_MESSAGE_ERROR); /* less than content-length */
    }
    ve_stream_not_incomplete(stream);
    if (stream->request_ended) {
        return 0; /* said with the request */
    }
    stream->request_ended = true;
    return ve_stream_body_end(stream) == 0 ? 0 : NGTCP2_ERR_NOMEM;
}

/* Read all frames; `*body`: bytes that wait for credit. */
static int read_request(ve_stream *stream, const uint8_t *at, const uint8_t *end, bool fin, size_t *body) {
    int rv = 0;
    while (at < end && rv == 0 && !stream->over) {
        if (!stream->in_frame && !stream->in_frame_head) {
            if (ve_varint_read(&stream->varint, &at, end)) {
                stream->frame_type = stream->varint.value;
                stream->in_frame_head = true;
            }
            continue;
        }
        if (stream->in_frame_head) {
            if (ve_varint_read(&stream->varint, &at, end)) {
                stream->frame_left = stream->varint.value;
                stream->in_frame_head = false;
                rv = begin_frame(stream);
            }
            continue;
        }
        size_t length = (size_t)(end - at) < stream->frame_left ? (size_t)(end - at) : (size_t)stream->frame_left;
        if (stream->frame_type == VE_FRAME_HEADERS) {
            rv = read_section(stream, at, length, fin && at + length == end);
        } else if (stream->frame_type == VE_FRAME_DATA) {
            *body += length;
            rv = ve_stream_body(stream, at, length) == 0 ? 0 : NGTCP2_ERR_NOMEM;
        }
        at += length;
        stream->frame_left -= length;
        stream->in_frame = stream->frame_left > 0;
    }
    return fin && rv == 0 && !stream->over ? end_request(stream) : rv;
}

/* --- the stream's beginning --- */

/* nghttp3 gets to know the stream, without a byte of it: it sends the answer. After our final GOAWAY it refuses. */
static int begin_stream(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    nghttp3_pri priority;
    stream->begun = true;
    connection->receiving = stream;
    nghttp3_ssize rv = nghttp3_conn_read_stream(connection->http, stream->id, NULL, 0, 0);
    connection->receiving = NULL;
    if (rv < 0 || nghttp3_conn_set_stream_user_data(connection->http, stream->id, stream) != 0) {
        return ve_http_fail(connection, VE_H3_INTERNAL_ERROR, rv < 0 ? nghttp3_strerror((int)rv) : "");
    }
    if (ve_priority_take(connection, stream->id, &priority)) {
        stream->prioritised = true;
        nghttp3_conn_set_server_stream_priority(connection->http, stream->id, &priority);
    }
    return 0;
}

int ve_http_receive(ve_connection *connection, ve_stream *stream, const uint8_t *data, size_t length, bool fin) {
    size_t body = 0;
    if (connection->http == NULL) {
        return NGTCP2_ERR_CALLBACK_FAILURE; /* can't be: keys that open stream data come after our 1-RTT key */
    }
    int rv = stream->begun ? 0 : begin_stream(stream);
    if (rv == 0 && !stream->over && !stream->request_ended) {
        rv = read_request(stream, data, data + length, fin, &body);
    }
    if (rv != 0) {
        return rv;
    }
    /* Framing and field sections are used up, and so is what nobody will ask for; bodies when their handler says so. */
    rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, stream->id, length - body);
    ngtcp2_conn_extend_max_offset(connection->quic, length - body);
    return rv;
}

static int stop_sending(nghttp3_conn *http, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)http;
    (void)stream_user; /* nghttp3 doesn't know our stream yet when it refuses it */
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
    if (ngtcp2_conn_open_uni_stream(connection->quic, &control, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &encoder, NULL) != 0 ||
        ngtcp2_conn_open_uni_stream(connection->quic, &decoder, NULL) != 0 ||
        nghttp3_conn_bind_control_stream(connection->http, control) != 0 ||
        nghttp3_conn_bind_qpack_streams(connection->http, encoder, decoder) != 0) {
        return -1;
    }
    return 0;
}
