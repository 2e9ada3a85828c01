/* An HTTP/2 connection to an upstream: its beginning and end, and which attempts fit. */
#include "upstream_h2.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "engine.h"

/* Buffers that are read before other connections have their turn. */
enum { READS = 4 };

static int begin(ve_upstream *upstream) {
    const ve_pool *pool = upstream->pool;
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, VE_H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
         (uint32_t)(pool->max_head_bytes < UINT32_MAX ? pool->max_head_bytes : UINT32_MAX)},
    };
    ve_h2 *h2 = calloc(1, sizeof *h2);
    if (h2 == NULL) {
        return -1;
    }
    h2->upstream = upstream;
    h2->session = ve_h2_session(h2);
    if (h2->session == NULL ||
        nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof settings[0]) != 0 ||
        nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0, VE_H2_CONNECTION_WINDOW) != 0) {
        nghttp2_session_del(h2->session);
        free(h2);
        return -1;
    }
    upstream->state = h2;
    ve_h2_later(h2);
    return 0;
}

static void end(ve_upstream *upstream) {
    /* GOAWAY, NO_ERROR: a server that is told does not log an error. */
    static const uint8_t goaway[17] = {0, 0, 8, NGHTTP2_GOAWAY};
    ve_h2 *h2 = upstream->state;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)goaway, .iov_len = sizeof goaway};
    if (h2->out_length == 0 && h2->settings && !h2->broken && !h2->write_failed) {
        ve_wire_write(upstream, &piece, 1);
    }
    while (h2->streams != NULL) {
        ve_h2_stream_free(h2, h2->streams);
    }
    nghttp2_session_del(h2->session);
    free(h2->out);
    free(h2);
}

static bool has_room(const ve_upstream *upstream) {
    const ve_h2 *h2 = upstream->state;
    const ve_pool *pool = upstream->pool;
    return !upstream->retiring && !h2->broken && upstream->running < ve_h2_most_streams(h2) &&
           (pool->max_requests == 0 || upstream->requests < pool->max_requests) &&
           nghttp2_session_check_request_allowed(h2->session);
}

static void ready(ve_upstream *upstream, uint32_t events) {
    ve_h2 *h2 = upstream->state;
    if (events & EPOLLOUT) {
        h2->blocked = false;
        if (!ve_h2_settle(h2)) {
            return;
        }
    }
    for (int i = 0; i < READS; i++) {
        if (!ve_h2_read_once(h2)) {
            return;
        }
    }
}

static void start(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h2 *h2 = upstream->state;
    ve_h2_stream *stream = ve_h2_stream_new(h2, attempt);
    if (stream == NULL) {
        ve_attempt_end(attempt, VE_CONNECT_FAILED, "no memory");
        ve_h2_later(h2);
        return;
    }
    if (!h2->settings && (attempt->websocket || h2->began)) {
        /* The upstream has not said whether it accepts WebSocket, and how many requests at a time. */
        ve_wait(upstream->pool->owner, &attempt->waiter, &upstream->pool->responding);
        ve_h2_later(h2);
        return;
    }
    if (attempt->websocket) {
        ve_h2_later(h2); /* begin_waiting() asks whether it is accepted */
        return;
    }
    h2->began = true;
    if (ve_h2_submit(h2, stream)) {
        ve_h2_settle(h2);
    }
}

static void body(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h2 *h2 = upstream->state;
    const ve_h2_stream *stream = attempt->state;
    if (stream != NULL && stream->id > 0 && !stream->request_ended) {
        nghttp2_session_resume_data(h2->session, stream->id);
        ve_h2_settle(h2);
    }
}

static void resume(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h2_stream *stream = attempt->state;
    stream->resumed = true;
    ve_h2_later(upstream->state);
}

static void abandon(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h2 *h2 = upstream->state;
    ve_h2_stream *stream = attempt->state;
    const ve_waiter *waiter = &attempt->waiter;
    if (!attempt->head_sent && waiter->list == &upstream->pool->responding &&
        waiter->since_ns + waiter->list->timeout_ns <= upstream->pool->owner->engine->now_ns) {
        upstream->retiring = true; /* no response in time: nothing new is asked there */
    }
    if (stream == NULL) {
        return; /* it is on its way to another connection */
    }
    ve_h2_detach(stream);
    if (stream->id > 0) {
        nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
    } else {
        ve_h2_stream_free(h2, stream);
    }
    ve_h2_later(h2);
}

const ve_protocol ve_protocol_h2 = {
    .alpn = "h2",
    .begin = begin,
    .has_room = has_room,
    .start = start,
    .ready = ready,
    .body = body,
    .resume = resume,
    .abandon = abandon,
    .end = end,
};
