/* Attempts: the request body from the client's stream, the response's body into it, and the end.
 *
 * Long because every way in which an attempt goes on or ends is here, one short function each. */
#include "upstream.h"

#include <ctype.h>

#include "connection.h"
#include "engine.h"
#include "http.h"
#include "module.h"

enum {
    /* A read buffer becomes part of the response when at least half of it is used. */
    WORTH_KEEPING = VE_READ_BYTES / 2,
};

/* --- what the stream tells --- */

/* Then the attempt has ended. */
static bool is_too_large(ve_attempt *attempt) {
    const ve_stream *stream = attempt->stream;
    uint64_t bytes = attempt->request_bytes + (stream->body_length - stream->body_start);
    if (attempt->content_length > 0 && (uint64_t)attempt->content_length > bytes) {
        bytes = (uint64_t)attempt->content_length;
    }
    if (bytes <= attempt->max_body_bytes || attempt->websocket) {
        return false;
    }
    ve_attempt_abandon(attempt, VE_REQUEST_TOO_LARGE, "the request body is too large");
    return true;
}

static void on_body(ve_carrier *carrier) {
    ve_attempt *attempt = VE_OWNER(ve_attempt, carrier, carrier);
    if (is_too_large(attempt)) {
        return;
    }
    if (attempt->upstream != NULL && attempt->upstream->protocol != NULL) {
        attempt->upstream->protocol->body(attempt->upstream, attempt);
    }
}

static void on_writable(ve_carrier *carrier) {
    ve_attempt *attempt = VE_OWNER(ve_attempt, carrier, carrier);
    if (attempt->resumable) {
        attempt->resumable = false;
        ve_attempt_moves(attempt);
        attempt->upstream->protocol->resume(attempt->upstream, attempt);
    }
}

static void on_gone(ve_carrier *carrier) {
    ve_attempt *attempt = VE_OWNER(ve_attempt, carrier, carrier);
    attempt->stream = NULL;
    ve_attempt_abandon(attempt, VE_CLIENT_GONE, "the client has gone");
}

static const ve_carrier_type carrier_type = {on_body, on_writable, on_gone};

/* --- the request body --- */

const uint8_t *ve_attempt_body(ve_attempt *attempt, size_t *length, bool *end) {
    const ve_stream *stream = attempt->stream;
    *length = stream->body_length - stream->body_start;
    *end = ve_stream_request_whole(stream);
    return stream->body + stream->body_start;
}

void ve_attempt_sent(ve_attempt *attempt, size_t length) {
    if (length == 0) {
        return;
    }
    attempt->body_sent = true;
    attempt->request_bytes += length;
    ve_stream_take(attempt->stream, length);
    ve_attempt_moves(attempt);
}

void ve_attempt_request_done(ve_attempt *attempt) {
    attempt->request_done = true;
    if (!attempt->head_sent) {
        ve_wait(attempt->owner, &attempt->waiter, &attempt->pool->responding);
    }
}

void ve_attempt_moves(ve_attempt *attempt) {
    if (attempt->resumable || (attempt->waiter.list == &attempt->pool->responding && !attempt->head_sent)) {
        return; /* the client is behind; or one time holds for all of the head */
    }
    ve_wait(attempt->owner, &attempt->waiter, &attempt->pool->moving);
}

/* --- the response --- */

bool ve_attempt_is_behind(ve_attempt *attempt) {
    ve_stream *stream = attempt->stream;
    if (stream->unsent < attempt->owner->engine->limits.send_high_bytes) {
        return false;
    }
    stream->wants_writable = true;
    attempt->resumable = true;
    ve_waiter_stop(&attempt->waiter); /* the client may be slow as long as its connection allows (deadlines.c) */
    return true;
}

bool ve_attempt_data(ve_attempt *attempt, const uint8_t *data, size_t length, ve_chunk *chunk, bool *failed) {
    bool keeps = chunk != NULL && length >= WORTH_KEEPING;
    if (length == 0) {
        return false;
    }
    if (!keeps) {
        chunk = ve_chunk_new(length);
        if (chunk == NULL) {
            *failed = true;
            return false;
        }
        memcpy(chunk + 1, data, length);
        data = (const uint8_t *)(chunk + 1);
    }
    *chunk = (ve_chunk){.data = data, .length = length};
    ve_stream_push_chunk(attempt->stream, chunk);
    ve_http_resume(attempt->stream);
    attempt->response_bytes += length;
    ve_attempt_moves(attempt);
    return keeps;
}

void ve_attempt_complete(ve_attempt *attempt, const nghttp3_nv *trailers, size_t count) {
    ve_stream *stream = attempt->stream;
    if (count == 0 || stream->ended || ve_http_submit_trailers(stream, trailers, count) <= 0) {
        stream->ended = true; /* trailers are optional: without those that are not allowed in HTTP/3 */
        ve_http_resume(stream);
    }
    ve_attempt_end(attempt, VE_COMPLETE, "");
}

/* --- the end --- */

void ve_attempt_attach(ve_upstream *upstream, ve_attempt *attempt) {
    attempt->upstream = upstream;
    attempt->next = upstream->attempts;
    upstream->attempts = attempt;
    upstream->running++;
}

void ve_attempt_detach(ve_attempt *attempt) {
    ve_upstream *upstream = attempt->upstream;
    if (upstream == NULL) {
        return;
    }
    for (ve_attempt **at = &upstream->attempts; *at != NULL; at = &(*at)->next) {
        if (*at == attempt) {
            *at = attempt->next;
            break;
        }
    }
    upstream->running--;
    attempt->upstream = NULL;
}

static PyObject *text_of(const char *reason) {
    char text[160];
    snprintf(text, sizeof text, "%s", reason);
    if (text[0] != 0 && islower((unsigned char)text[1])) {
        text[0] = (char)tolower((unsigned char)text[0]); /* of strerror(); not an abbreviation */
    }
    return PyUnicode_DecodeASCII(text, (Py_ssize_t)strlen(text), "replace");
}

static uint64_t since(const ve_attempt *attempt, uint64_t then_ns) {
    return then_ns == 0 ? 0 : then_ns > attempt->begun_ns ? then_ns - attempt->begun_ns : 1;
}

static void emit(ve_attempt *attempt, ve_outcome outcome, const char *reason) {
    ve_engine *engine = attempt->owner->engine;
    if (attempt->owner->ending) {
        return;
    }
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(attempt->handle),
        PyLong_FromUnsignedLongLong(attempt->pool->handle),
        PyLong_FromLong(outcome),
        PyLong_FromLong(attempt->status),
        PyBool_FromLong(attempt->head_sent),
        PyBool_FromLong(attempt->body_sent),
        PyBool_FromLong(attempt->reused),
        PyLong_FromUnsignedLongLong(attempt->request_bytes),
        PyLong_FromUnsignedLongLong(attempt->response_bytes),
        PyLong_FromUnsignedLongLong(since(attempt, attempt->connected_ns)),
        PyLong_FromUnsignedLongLong(since(attempt, attempt->head_ns)),
        PyLong_FromUnsignedLongLong(since(attempt, engine->now_ns)),
        text_of(reason),
    };
    ve_engine_event(engine, ve_record_new(&engine->module->upstream_ended, values));
    ve_upstreams_wake(attempt->owner);
}

/* After the head only these are possible beside what the client did. */
static ve_outcome after_head(ve_outcome outcome) {
    return outcome == VE_CLOSED_EARLY || outcome == VE_INVALID || outcome == VE_RESPONSE_TIMEOUT ? VE_TRUNCATED
                                                                                                 : outcome;
}

void ve_attempt_end(ve_attempt *attempt, ve_outcome outcome, const char *reason) {
    ve_stream *stream = attempt->stream;
    ve_pool *pool = attempt->pool;
    ve_attempt_detach(attempt);
    ve_waiter_stop(&attempt->waiter);
    emit(attempt, attempt->head_sent ? after_head(outcome) : outcome, reason);
    if (stream != NULL) {
        stream->carrier = NULL;
        stream->wants_writable = false;
        if (attempt->owner->ending) {
            stream->held = true;
        } else if (outcome == VE_COMPLETE) {
            ve_stream_discard(stream);
        } else if (attempt->head_sent) {
            ve_stream_reset(stream, VE_H3_INTERNAL_ERROR);
        } else {
            stream->held = true;
        }
    }
    for (size_t i = 0; i < sizeof attempt->edits / sizeof attempt->edits[0]; i++) {
        Py_XDECREF(attempt->edits[i]);
    }
    free(attempt);
    pool->running--;
    ve_pool_settle(pool);
}

void ve_attempt_abandon(ve_attempt *attempt, ve_outcome outcome, const char *reason) {
    ve_upstream *upstream = attempt->upstream;
    if (upstream != NULL && upstream->protocol != NULL) {
        upstream->protocol->abandon(upstream, attempt); /* it closes the connection, or a stream on it */
    } else if (upstream != NULL && upstream->running == 1) {
        ve_upstream_close(upstream); /* nobody else waits for it to be connected */
    }
    ve_attempt_end(attempt, outcome, reason);
}

bool ve_attempt_begin(ve_attempt *attempt, ve_pool *pool, ve_stream *stream) {
    attempt->carrier.type = &carrier_type;
    attempt->owner = pool->owner;
    attempt->pool = pool;
    attempt->stream = stream;
    attempt->handle = stream->handle;
    attempt->is_head = stream->head;
    attempt->begun_ns = pool->owner->engine->now_ns;
    stream->carrier = &attempt->carrier;
    stream->held = false;
    pool->running++;
    pool->requests++;
    if (attempt->websocket) {
        attempt->max_body_bytes = UINT64_MAX; /* it is a tunnel */
    }
    return !is_too_large(attempt);
}
