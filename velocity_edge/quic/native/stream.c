/* A request stream: opened, waiting for the peer, its request body, closed.
 *
 * Long because the three takers of a request body must be seen side by side: Python, a carrier, nobody. */
#include "stream.h"

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "module.h"

void ve_stream_wait(ve_stream *stream, uint64_t now_ns) {
    ve_connection *connection = stream->connection;
    stream->begun_ns = now_ns;
    stream->incomplete = true;
    stream->incomplete_previous = connection->incomplete_last;
    stream->incomplete_next = NULL;
    if (connection->incomplete_last != NULL) {
        connection->incomplete_last->incomplete_next = stream;
    } else {
        connection->incomplete_first = stream;
    }
    connection->incomplete_last = stream;
}

void ve_stream_not_incomplete(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    if (!stream->incomplete) {
        return;
    }
    stream->incomplete = false;
    if (stream->incomplete_previous != NULL) {
        stream->incomplete_previous->incomplete_next = stream->incomplete_next;
    } else {
        connection->incomplete_first = stream->incomplete_next;
    }
    if (stream->incomplete_next != NULL) {
        stream->incomplete_next->incomplete_previous = stream->incomplete_previous;
    } else {
        connection->incomplete_last = stream->incomplete_previous;
    }
}

ve_stream *ve_stream_new(ve_connection *connection, int64_t id, uint64_t now_ns) {
    ve_engine *engine = connection->engine;
    ve_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return NULL;
    }
    stream->handle = ve_handle_new(&engine->streams, stream);
    if (stream->handle == 0) {
        free(stream);
        return NULL;
    }
    stream->connection = connection;
    stream->id = id;
    stream->fd = -1;
    stream->next = connection->streams;
    if (stream->next != NULL) {
        stream->next->previous = stream;
    }
    connection->streams = stream;
    connection->stream_count++;
    engine->stream_count++;
    ve_stream_wait(stream, now_ns);
    return stream;
}

void ve_stream_drop_section(ve_stream *stream) {
    stream->connection->section_bytes -= stream->section_length;
    stream->section_length = 0;
    free(stream->section);
    stream->section = NULL;
}

void ve_stream_over(ve_stream *stream, bool complete, uint64_t error_code) {
    ve_engine *engine = stream->connection->engine;
    if (stream->over) {
        return;
    }
    ve_stream_not_incomplete(stream);
    if (stream->carrier != NULL && complete && stream->body_listed) {
        /* The end of a tunnel: its last bytes came with the end of the stream. They get no credit any more. */
        uint64_t uncredited = stream->uncredited;
        stream->uncredited = 0;
        stream->body_listed = false;
        stream->carrier->type->body(stream->carrier);
        stream->uncredited = uncredited;
        if (stream->over) {
            return; /* the upstream failed just now */
        }
    }
    if (stream->carrier != NULL) {
        ve_carrier *carrier = stream->carrier;
        stream->carrier = NULL;
        stream->held = true; /* what it has not taken is nobody's */
        carrier->type->gone(carrier);
    }
    if (stream->headers_done) {
        if (!stream->discards) {
            ve_stream_body_event(stream);
        }
        PyObject *values[] = {PyLong_FromUnsignedLongLong(stream->handle), PyBool_FromLong(complete),
                              PyLong_FromUnsignedLongLong(error_code)};
        ve_engine_event(engine, ve_record_new(&engine->module->stream_closed, values));
    }
    ve_stream_drop_section(stream);
    stream->over = true;
    ve_handle_release(&engine->streams, stream->handle);
}

void ve_stream_reset(ve_stream *stream, uint64_t code) {
    ve_connection *connection = stream->connection;
    connection->engine->counters[VE_streams_reset]++;
    ve_stream_over(stream, false, code);
    /* It fails only without memory, and then the next call into ngtcp2 fails as well. */
    if (ngtcp2_conn_shutdown_stream(connection->quic, 0, stream->id, code) != 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
    }
    if (connection->http != NULL) {
        nghttp3_conn_shutdown_stream_write(connection->http, stream->id);
    }
    ve_connection_mark(connection);
}

void ve_stream_free(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    ve_stream_over(stream, false, VE_H3_INTERNAL_ERROR);
    ve_stream_forget_response(stream);
    if (stream->previous != NULL) {
        stream->previous->next = stream->next;
    } else {
        connection->streams = stream->next;
    }
    if (stream->next != NULL) {
        stream->next->previous = stream->previous;
    }
    connection->stream_count--;
    connection->engine->stream_count--;
    Py_XDECREF(stream->trailers);
    free(stream->body);
    free(stream);
}

static int list_body(ve_stream *stream) {
    ve_engine *engine = stream->connection->engine;
    if (stream->body_listed) {
        return 0;
    }
    if (engine->body_count == engine->body_capacity) {
        size_t capacity = engine->body_capacity == 0 ? 64 : engine->body_capacity * 2;
        uint64_t *bodies = realloc(engine->bodies, capacity * sizeof *bodies);
        if (bodies == NULL) {
            return -1;
        }
        engine->bodies = bodies;
        engine->body_capacity = capacity;
    }
    engine->bodies[engine->body_count++] = stream->handle;
    stream->body_listed = true;
    return 0;
}

static int keep_body(ve_stream *stream, const uint8_t *data, size_t length) {
    /* Bounded by the window of the stream: the peer may not send more than was credited. */
    if (stream->body_length + length > stream->body_capacity && stream->body_start > 0) {
        stream->body_length -= stream->body_start;
        memmove(stream->body, stream->body + stream->body_start, stream->body_length);
        stream->body_start = 0;
    }
    if (stream->body_length + length > stream->body_capacity) {
        size_t capacity = stream->body_capacity == 0 ? 4096 : stream->body_capacity;
        while (capacity < stream->body_length + length) {
            capacity *= 2;
        }
        uint8_t *body = realloc(stream->body, capacity);
        if (body == NULL) {
            return -1;
        }
        stream->body = body;
        stream->body_capacity = capacity;
    }
    if (length > 0) {
        memcpy(stream->body + stream->body_length, data, length);
    }
    stream->body_length += length;
    return list_body(stream);
}

int ve_stream_body(ve_stream *stream, const uint8_t *data, size_t length) {
    stream->uncredited += length;
    return keep_body(stream, data, length);
}

int ve_stream_body_end(ve_stream *stream) {
    stream->body_fin = true;
    return list_body(stream);
}

int ve_stream_unread(ve_stream *stream, const uint8_t *data, size_t length, bool fin) {
    if (fin) {
        stream->fin_given = false;
    }
    return keep_body(stream, data, length);
}

bool ve_stream_request_whole(const ve_stream *stream) {
    return stream->request_ended && !stream->fin_given;
}

static void free_body(ve_stream *stream) {
    free(stream->body);
    stream->body = NULL;
    stream->body_start = stream->body_length = stream->body_capacity = 0;
}

void ve_stream_credit(ve_stream *stream, uint64_t bytes) {
    ve_connection *connection = stream->connection;
    bytes = bytes < stream->uncredited ? bytes : stream->uncredited;
    if (bytes == 0) {
        return;
    }
    stream->uncredited -= bytes;
    ngtcp2_conn_extend_max_offset(connection->quic, bytes);
    if (ngtcp2_conn_extend_max_stream_offset(connection->quic, stream->id, bytes) != 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
        connection->close_requested = true;
    }
    ve_connection_mark(connection);
}

void ve_stream_take(ve_stream *stream, size_t length) {
    stream->body_start += length;
    if (stream->body_start == stream->body_length) {
        stream->body_start = stream->body_length = 0;
        if (stream->body_capacity > 65536 || stream->request_ended) {
            free_body(stream);
        }
    }
    ve_stream_credit(stream, length);
}

void ve_stream_discard(ve_stream *stream) {
    stream->discards = true;
    stream->held = false;
    ve_stream_credit(stream, stream->body_length - stream->body_start);
    free_body(stream);
}

void ve_stream_body_event(ve_stream *stream) {
    ve_engine *engine = stream->connection->engine;
    if (!stream->body_listed || stream->over) {
        return;
    }
    stream->body_listed = false;
    if (stream->discards) {
        ve_stream_discard(stream);
        return;
    }
    if (stream->carrier != NULL) {
        stream->carrier->type->body(stream->carrier);
        return;
    }
    if (stream->held) {
        return;
    }
    PyObject *trailers = stream->body_fin ? stream->trailers : NULL;
    PyObject *values[] = {PyLong_FromUnsignedLongLong(stream->handle),
                          PyBytes_FromStringAndSize((char *)stream->body + stream->body_start,
                                                    (Py_ssize_t)(stream->body_length - stream->body_start)),
                          PyBool_FromLong(stream->body_fin),
                          trailers != NULL ? trailers : Py_NewRef(engine->module->no_fields)};
    if (trailers != NULL) {
        stream->trailers = NULL; /* the event has the reference */
    }
    ve_engine_event(engine, ve_record_new(&engine->module->body_received, values));
    stream->body_start = stream->body_length = 0;
    if (stream->body_fin) {
        stream->fin_given = true;
        free_body(stream);
    }
}
