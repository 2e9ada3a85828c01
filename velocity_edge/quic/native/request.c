/* Request streams: frames, field sections, bodies (RFC 9114 section 4.1). */
#include "http.h"

#include <stdlib.h>

#include "connection.h"
#include "engine.h"
#include "message.h"
#include "section.h"
#include "stream.h"

/* Refuse the request; the connection stays open. */
static int refuse(ve_stream *stream, uint64_t code) {
    if (!stream->glitched) {
        stream->glitched = true;
        ve_connection_glitch(stream->connection);
    }
    ve_stream_reset(stream, code);
    return 0;
}

/* A complete field section; `fin`: the stream ends after it. */
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
        rv = ve_http_fail(connection, VE_QPACK_DECOMPRESSION_FAILED, "invalid QPACK field section");
        goto done;
    case VE_DECODED_NO_MEMORY:
        rv = NGTCP2_ERR_NOMEM;
        goto done;
    }
    if (trailers) {
        /* Trailers have a limit of their own, of the same size. They are reported with the end of the request. */
        stream->trailers_done = true;
        if (section->bytes > connection->max_field_section_bytes) {
            rv = refuse(stream, VE_H3_EXCESSIVE_LOAD);
        } else if (!ve_message_trailers(section->fields, section->count)) {
            rv = refuse(stream, VE_H3_MESSAGE_ERROR);
        } else if (section->count > 0) {
            stream->trailers = ve_http_fields(connection->engine->module, section->fields, section->count);
            if (stream->trailers == NULL) {
                PyErr_Clear();
                rv = NGTCP2_ERR_NOMEM;
            }
        }
    } else if (!ve_message_request(section->fields, section->count, &head) || (fin && head.content_length > 0)) {
        rv = refuse(stream, VE_H3_MESSAGE_ERROR);
    } else {
        ve_http_request_event(stream, section, &head, fin);
    }
done:
    ve_sections_clear(section);
    return rv;
}

/* Keep a piece of an incomplete section. All incomplete sections of a connection together are bounded by its
 * flow-control window. */
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

static int begin_frame(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    if (ve_http_is_foreign(stream->frame_type, false)) {
        return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "frame not allowed on a request stream");
    }
    switch (stream->frame_type) {
    case VE_FRAME_DATA:
        if (!stream->headers_done || stream->trailers_done) {
            return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "DATA before the header section or after trailers");
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
        break; /* unknown frame type: ignored (RFC 9114 section 9) */
    }
    stream->in_frame = stream->frame_left > 0;
    return 0;
}

/* The stream ends. */
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
        return 0; /* already reported with the request */
    }
    stream->request_ended = true;
    return ve_stream_body_end(stream) == 0 ? 0 : NGTCP2_ERR_NOMEM;
}

/* Parse all frames; `*body`: body bytes, which wait for credit. */
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

/* Tell nghttp3 about the stream, without its bytes, because it sends the response. After our final GOAWAY it refuses
 * the stream. */
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
        return NGTCP2_ERR_CALLBACK_FAILURE; /* not possible: keys for stream data are installed after our 1-RTT key */
    }
    int rv = stream->begun ? 0 : begin_stream(stream);
    if (rv == 0 && !stream->over && !stream->request_ended) {
        rv = read_request(stream, data, data + length, fin, &body);
    }
    if (rv != 0) {
        return rv;
    }
    /* Give credit for framing, field sections and discarded bytes. Body bytes get credit when their handler consumes
       them. */
    rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, stream->id, length - body);
    ngtcp2_conn_extend_max_offset(connection->quic, length - body);
    return rv;
}
