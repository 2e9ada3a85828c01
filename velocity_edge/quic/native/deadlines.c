#include "deadlines.h"

#include "connection.h"
#include "engine.h"
#include "stream.h"

/* A third of the shorter idle timeout: two PINGs may get lost. */
static uint64_t interval_ns(const ve_connection *connection) {
    const ngtcp2_transport_params *peer = ngtcp2_conn_get_remote_transport_params(connection->quic);
    uint64_t idle_ns = ngtcp2_conn_get_local_transport_params(connection->quic)->max_idle_timeout;
    if (peer != NULL && peer->max_idle_timeout != 0 && (idle_ns == 0 || peer->max_idle_timeout < idle_ns)) {
        idle_ns = peer->max_idle_timeout;
    }
    return idle_ns == 0 ? UINT64_MAX : idle_ns / 3 > 0 ? idle_ns / 3 : 1;
}

void ve_deadlines_update(ve_connection *connection) {
    ve_stall *stall = &connection->stall;
    /* Without connection-level credit nothing is taken from the streams, and nothing may be in flight. */
    bool waiting = connection->unacked > 0 ||
                   (connection->streams != NULL && ngtcp2_conn_get_max_data_left(connection->quic) == 0);
    if (waiting != stall->waiting) {
        stall->waiting = waiting;
        stall->progress_ns = connection->engine->now_ns;
        ngtcp2_conn_set_keep_alive_timeout(connection->quic, waiting ? interval_ns(connection) : UINT64_MAX);
    }
}

void ve_deadlines_progress(ve_connection *connection) {
    connection->stall.progress_ns = connection->engine->now_ns;
}

static uint64_t stall_deadline(const ve_connection *connection) {
    return connection->stall.waiting ? connection->stall.progress_ns + connection->engine->limits.stall_timeout_ns
                                     : VE_NEVER;
}

static void expire_requests(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    while (connection->incomplete_first != NULL && !connection->has_error &&
           connection->incomplete_first->begun_ns + engine->limits.request_timeout_ns <= engine->now_ns) {
        ve_stream *stream = connection->incomplete_first;
        if (stream->headers_done) {
            /* The response is complete: the rest of the request is not needed (RFC 9114 section 4.1). */
            ve_stream_not_incomplete(stream);
            stream->request_ended = true;
            if (ngtcp2_conn_shutdown_stream_read(connection->quic, 0, stream->id, VE_H3_NO_ERROR) != 0) {
                ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
            }
            continue;
        }
        stream->glitched = true;
        ve_connection_glitch(connection);
        ve_stream_reset(stream, VE_H3_REQUEST_INCOMPLETE);
    }
}

void ve_deadlines_expire(ve_connection *connection) {
    expire_requests(connection);
    if (stall_deadline(connection) <= connection->engine->now_ns) {
        connection->engine->counters[VE_stalled]++;
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD,
                           "the client does not read its responses");
    }
}

void ve_deadlines_set_timer(ve_connection *connection) {
    ngtcp2_tstamp expiry = ngtcp2_conn_get_expiry(connection->quic);
    if (connection->incomplete_first != NULL) {
        uint64_t deadline = connection->incomplete_first->begun_ns + connection->engine->limits.request_timeout_ns;
        expiry = deadline < expiry ? deadline : expiry;
    }
    uint64_t stalled = stall_deadline(connection);
    ve_timer_set(&connection->engine->timers, connection, stalled < expiry ? stalled : expiry);
}
