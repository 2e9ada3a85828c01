#include "stream.h"

#include <errno.h>
#include <unistd.h>

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "http.h"
#include "module.h"

enum {
    /* One read of a file: a GSO train's worth, and small enough to still be in the cache when it is encrypted. */
    FILE_PIECE = 64 * 1024,
    /* One DATA frame. */
    BYTES_PIECE = 256 * 1024,
};

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

bool ve_stream_answered(const ve_stream *stream) {
    return stream->eof_given && stream->unacked == 0 && stream->unsent == 0;
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

void ve_stream_drop_section(ve_stream *stream) {
    stream->connection->section_bytes -= stream->section_length;
    stream->section_length = 0;
    free(stream->section);
    stream->section = NULL;
}

/* Bytes that left nghttp3's hands, acknowledged or given up. */
static void no_longer_in_flight(ve_stream *stream, size_t length) {
    stream->unacked -= length;
    stream->connection->unacked -= length;
    stream->connection->engine->unacked -= length;
}

static void free_chunk(ve_chunk *chunk) {
    Py_XDECREF(chunk->owner);
    free(chunk);
}

static void forget_response(ve_stream *stream) {
    while (stream->first != NULL) {
        ve_chunk *chunk = stream->first;
        stream->first = chunk->next;
        free_chunk(chunk);
    }
    stream->last = stream->last_piece = stream->reading = NULL;
    stream->unsent = 0;
    stream->file_left = 0;
    Py_CLEAR(stream->file);
}

void ve_stream_over(ve_stream *stream, bool complete, uint64_t error_code) {
    ve_engine *engine = stream->connection->engine;
    if (stream->over) {
        return;
    }
    ve_stream_not_incomplete(stream);
    if (stream->headers_done) {
        ve_stream_body_event(stream);
        PyObject *values[] = {PyLong_FromUnsignedLongLong(stream->handle), PyBool_FromLong(complete),
                              PyLong_FromUnsignedLongLong(error_code)};
        ve_engine_event(engine, ve_record_new(&engine->module->stream_closed, values));
    }
    ve_stream_drop_section(stream);
    stream->over = true;
    ve_handle_release(&engine->streams, stream->handle);
}

void ve_stream_free(ve_stream *stream) {
    ve_connection *connection = stream->connection;
    ve_stream_over(stream, false, VE_H3_INTERNAL_ERROR);
    no_longer_in_flight(stream, stream->unacked);
    if (stream->paused) {
        connection->paused_streams--;
    }
    if (stream->broken) {
        connection->broken_streams--;
    }
    forget_response(stream);
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
    free(stream->body);
    free(stream);
}

/* --- the request body --- */

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

int ve_stream_body(ve_stream *stream, const uint8_t *data, size_t length) {
    /* Bounded by the stream's window: what was not credited can't be followed by more. */
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
    memcpy(stream->body + stream->body_length, data, length);
    stream->body_length += length;
    stream->uncredited += length;
    return list_body(stream);
}

int ve_stream_body_end(ve_stream *stream) {
    stream->body_fin = true;
    return list_body(stream);
}

void ve_stream_body_event(ve_stream *stream) {
    ve_engine *engine = stream->connection->engine;
    if (!stream->body_listed || stream->over) {
        return;
    }
    PyObject *values[] = {PyLong_FromUnsignedLongLong(stream->handle),
                          PyBytes_FromStringAndSize((char *)stream->body, (Py_ssize_t)stream->body_length),
                          PyBool_FromLong(stream->body_fin)};
    ve_engine_event(engine, ve_record_new(&engine->module->body_received, values));
    stream->body_listed = false;
    stream->body_length = 0;
    if (stream->body_fin) {
        free(stream->body);
        stream->body = NULL;
        stream->body_capacity = 0;
    }
}

/* --- the response --- */

static void append(ve_stream *stream, ve_chunk *chunk) {
    if (stream->last != NULL) {
        stream->last->next = chunk;
    } else {
        stream->first = chunk;
    }
    stream->last = chunk;
    if (stream->reading == NULL) {
        stream->reading = chunk;
    }
}

/* A piece of the file goes behind its pieces that are still there, and before what was written since. */
static void insert_piece(ve_stream *stream, ve_chunk *chunk) {
    ve_chunk **at = &stream->first;
    if (stream->last_piece != NULL) {
        at = &stream->last_piece->next;
    }
    chunk->next = *at;
    *at = chunk;
    if (chunk->next == NULL) {
        stream->last = chunk;
    }
    stream->last_piece = chunk;
    stream->reading = chunk;
}

int ve_stream_push(ve_stream *stream, PyObject *bytes) {
    if (PyBytes_GET_SIZE(bytes) == 0) {
        return 0;
    }
    ve_chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    chunk->owner = Py_NewRef(bytes);
    chunk->data = (const uint8_t *)PyBytes_AS_STRING(bytes);
    chunk->length = (size_t)PyBytes_GET_SIZE(bytes);
    stream->unsent += chunk->length;
    append(stream, chunk);
    return 0;
}

static int64_t attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    int64_t number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return number;
}

int ve_stream_push_file(ve_stream *stream, PyObject *file_range) {
    PyObject *file = PyObject_GetAttrString(file_range, "file");
    int64_t fd = file == NULL ? -1 : attribute(file, "fd");
    int64_t offset = PyErr_Occurred() ? -1 : attribute(file_range, "offset");
    int64_t length = PyErr_Occurred() ? -1 : attribute(file_range, "length");
    if (!PyErr_Occurred() && (fd < 0 || fd > INT32_MAX || offset < 0 || length < 0)) {
        PyErr_SetString(PyExc_ValueError, "a FileRange has an open descriptor, and no negative offset or length");
    }
    if (PyErr_Occurred()) {
        Py_XDECREF(file);
        return -1;
    }
    stream->fd = (int)fd;
    stream->file_offset = (uint64_t)offset;
    stream->file_left = (uint64_t)length;
    if (length > 0) {
        stream->file = file;
    } else {
        Py_DECREF(file);
    }
    return 0;
}

/* The next piece of the file. False: it is shorter than was promised, or can't be read. */
static bool read_piece(ve_stream *stream) {
    size_t length = stream->file_left < FILE_PIECE ? (size_t)stream->file_left : FILE_PIECE;
    ve_chunk *chunk = malloc(sizeof *chunk + length);
    if (chunk == NULL) {
        return false;
    }
    memset(chunk, 0, sizeof *chunk);
    uint8_t *bytes = (uint8_t *)(chunk + 1);
    ssize_t got;
    do {
        got = pread(stream->fd, bytes, length, (off_t)stream->file_offset);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        free(chunk);
        return false;
    }
    chunk->data = bytes;
    chunk->length = (size_t)got;
    stream->unsent += (size_t)got;
    stream->file_offset += (uint64_t)got;
    stream->file_left -= (uint64_t)got;
    insert_piece(stream, chunk);
    if (stream->file_left == 0) {
        Py_CLEAR(stream->file); /* nothing of it is needed for sending again */
    }
    return true;
}

/* What is in flight stays in memory until it is acknowledged: how much that may be. */
static bool has_room(const ve_stream *stream) {
    const ve_connection *connection = stream->connection;
    const ve_limits *limits = &connection->engine->limits;
    size_t most = connection->engine->unacked < limits->max_unacked_bytes_per_worker ? limits->max_unacked_bytes
                                                                                     : limits->send_high_bytes;
    return connection->unacked < most;
}

static bool is_given(const ve_chunk *chunk) {
    return chunk->given == chunk->length;
}

size_t ve_stream_pull(ve_stream *stream, nghttp3_vec *vectors, size_t count, bool *end) {
    ve_connection *connection = stream->connection;
    size_t filled = 0;
    size_t total = 0;
    /* The pieces of a file come first; the next one is read when nghttp3 has the one before. */
    bool wants_piece = stream->file_left > 0 && (stream->last_piece == NULL || is_given(stream->last_piece));
    if (wants_piece && has_room(stream) && !read_piece(stream)) {
        stream->broken = true; /* never an end: it is reset after this write */
        connection->broken_streams++;
        stream->file_left = 0;
    }
    *end = false;
    if (stream->broken) {
        return 0;
    }
    if ((stream->reading != NULL || stream->file_left > 0) && !has_room(stream)) {
        stream->paused = true;
        connection->paused_streams++;
        return 0;
    }
    const ve_chunk *stop = stream->file_left > 0 ? stream->last_piece->next : NULL;
    while (stream->reading != stop && filled < count && total < BYTES_PIECE) {
        ve_chunk *chunk = stream->reading;
        size_t length = chunk->length - chunk->given;
        if (length > BYTES_PIECE - total) {
            length = BYTES_PIECE - total;
        }
        vectors[filled].base = (uint8_t *)(uintptr_t)(chunk->data + chunk->given);
        vectors[filled].len = length;
        filled++;
        total += length;
        chunk->given += length;
        if (is_given(chunk)) {
            stream->reading = chunk->next;
        }
    }
    stream->unsent -= total;
    stream->unacked += total;
    connection->unacked += total;
    connection->engine->unacked += total;
    *end = stream->ended && stream->reading == NULL && stream->file_left == 0;
    if (stream->wants_writable && stream->unsent <= connection->engine->limits.send_low_bytes) {
        stream->wants_writable = false;
        if (!stream->over && !stream->ended) {
            PyObject *values[] = {PyLong_FromUnsignedLongLong(stream->handle)};
            ve_engine_event(connection->engine, ve_record_new(&connection->engine->module->stream_writable, values));
        }
    }
    return filled;
}

void ve_stream_acked(ve_stream *stream, uint64_t length) {
    no_longer_in_flight(stream, (size_t)length);
    stream->acked_of_first += (size_t)length;
    while (stream->first != NULL && is_given(stream->first) && stream->acked_of_first >= stream->first->length) {
        ve_chunk *chunk = stream->first;
        if (chunk == stream->last_piece) {
            stream->last_piece = NULL; /* the next piece goes to the front */
        }
        stream->acked_of_first -= chunk->length;
        stream->first = chunk->next;
        if (stream->first == NULL) {
            stream->last = NULL;
        }
        free_chunk(chunk);
    }
}
