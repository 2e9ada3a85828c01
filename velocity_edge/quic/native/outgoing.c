/* The body of a response: a queue of chunks, a file read piece by piece, bytes in flight. */
#include "stream.h"

#include <errno.h>
#include <unistd.h>

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "module.h"

enum {
    /* One read of a file: as large as a GSO train, and still in the cache when it is encrypted. */
    FILE_PIECE = 64 * 1024,
    /* One DATA frame. */
    BYTES_PIECE = 256 * 1024,
};

bool ve_stream_answered(const ve_stream *stream) {
    return stream->eof_given && stream->unacked == 0 && stream->unsent == 0;
}

/* Bytes given to nghttp3 that are acknowledged or abandoned. */
static void no_longer_in_flight(ve_stream *stream, size_t length) {
    stream->unacked -= length;
    stream->connection->unacked -= length;
    stream->connection->engine->unacked -= length;
}

ve_chunk *ve_chunk_new(size_t capacity) {
    ve_chunk *chunk = malloc(sizeof *chunk + capacity);
    if (chunk != NULL) {
        memset(chunk, 0, sizeof *chunk);
        chunk->data = (const uint8_t *)(chunk + 1);
    }
    return chunk;
}

void ve_chunk_free(ve_chunk *chunk) {
    Py_XDECREF(chunk->owner);
    free(chunk);
}

void ve_stream_forget_response(ve_stream *stream) {
    no_longer_in_flight(stream, stream->unacked);
    if (stream->paused) {
        stream->connection->paused_streams--;
    }
    if (stream->broken) {
        stream->connection->broken_streams--;
    }
    while (stream->first != NULL) {
        ve_chunk *chunk = stream->first;
        stream->first = chunk->next;
        ve_chunk_free(chunk);
    }
    stream->last = stream->last_piece = stream->reading = NULL;
    stream->unsent = 0;
    stream->file_left = 0;
    Py_CLEAR(stream->file);
}

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

/* A piece of the file goes after the earlier pieces, and before what was written since. */
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
    ve_chunk *chunk = ve_chunk_new(0);
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

void ve_stream_push_chunk(ve_stream *stream, ve_chunk *chunk) {
    stream->unsent += chunk->length;
    append(stream, chunk);
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
        PyErr_SetString(PyExc_ValueError, "a FileRange must have an open descriptor, and no negative offset or length");
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

/* Read the next piece of the file. False: the file is shorter than promised, or cannot be read. */
static bool read_piece(ve_stream *stream) {
    size_t length = stream->file_left < FILE_PIECE ? (size_t)stream->file_left : FILE_PIECE;
    ve_chunk *chunk = ve_chunk_new(length);
    if (chunk == NULL) {
        return false;
    }
    uint8_t *bytes = (uint8_t *)(chunk + 1);
    ssize_t got;
    do {
        got = pread(stream->fd, bytes, length, (off_t)stream->file_offset);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        ve_chunk_free(chunk);
        return false;
    }
    chunk->length = (size_t)got;
    stream->unsent += (size_t)got;
    stream->file_offset += (uint64_t)got;
    stream->file_left -= (uint64_t)got;
    insert_piece(stream, chunk);
    if (stream->file_left == 0) {
        Py_CLEAR(stream->file); /* retransmission uses the chunks */
    }
    return true;
}

bool ve_connection_has_room(const ve_connection *connection) {
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
    /* The pieces of a file come first. The next one is read when nghttp3 has all of the one before. */
    bool wants_piece = stream->file_left > 0 && (stream->last_piece == NULL || is_given(stream->last_piece));
    if (wants_piece && ve_connection_has_room(connection) && !read_piece(stream)) {
        stream->broken = true; /* the body must not end here: the stream is reset after this write */
        connection->broken_streams++;
        stream->file_left = 0;
    }
    *end = false;
    if (stream->broken) {
        return 0;
    }
    if ((stream->reading != NULL || stream->file_left > 0) && !ve_connection_has_room(connection)) {
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
        if (stream->carrier != NULL) {
            stream->carrier->type->writable(stream->carrier);
        } else if (!stream->over && !stream->ended) {
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
        ve_chunk_free(chunk);
    }
}
