#include "connection.h"

#include "callbacks.h"
#include "engine.h"
#include "http.h"
#include "module.h"
#include "stream.h"

/* --- errors and marks --- */

void ve_connection_fail(ve_connection *connection, ngtcp2_ccerr_type type, uint64_t code, const char *reason) {
    if (connection->has_error) {
        return;
    }
    connection->has_error = true;
    snprintf(connection->reason, sizeof connection->reason, "%s", reason);
    ngtcp2_ccerr_default(&connection->error);
    connection->error.type = type;
    connection->error.error_code = code;
    connection->error.reason = (const uint8_t *)connection->reason;
    connection->error.reasonlen = strlen(connection->reason);
}

void ve_connection_mark(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (connection->dirty) {
        return;
    }
    connection->dirty = true;
    connection->dirty_next = NULL;
    if (engine->dirty_last != NULL) {
        engine->dirty_last->dirty_next = connection;
    } else {
        engine->dirty_first = connection;
    }
    engine->dirty_last = connection;
}

void ve_connection_set_timer(ve_connection *connection) {
    ngtcp2_tstamp expiry = ngtcp2_conn_get_expiry(connection->quic);
    if (connection->incomplete_first != NULL) {
        uint64_t deadline = connection->incomplete_first->begun_ns + connection->engine->limits.request_timeout_ns;
        expiry = deadline < expiry ? deadline : expiry;
    }
    uint64_t stalled = ve_stall_deadline(connection);
    ve_timer_set(&connection->engine->timers, connection, stalled < expiry ? stalled : expiry);
}

void ve_connection_glitch(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    engine->counters[VE_glitches]++;
    if (!ve_rate_allow(&connection->glitches, engine->limits.max_glitches_per_s, engine->now_ns)) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD, "too many failed streams");
    }
}

void ve_connection_reset_stream(ve_connection *connection, ve_stream *stream, uint64_t code) {
    connection->engine->counters[VE_streams_reset]++;
    ve_stream_over(stream, false, code);
    /* It fails only without memory, and then the next call into ngtcp2 says so too. */
    if (ngtcp2_conn_shutdown_stream(connection->quic, 0, stream->id, code) != 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
    }
    if (connection->http != NULL) {
        nghttp3_conn_shutdown_stream_write(connection->http, stream->id);
    }
    ve_connection_mark(connection);
}

/* --- opening --- */

static void link_open(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    connection->next = engine->open_first;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    engine->open_first = connection;
    engine->open_count++;
}

static void fill_settings(const ve_engine *engine, const ve_opening *opening, ngtcp2_settings *settings) {
    const ve_limits *limits = &engine->limits;
    ngtcp2_settings_default(settings);
    settings->cc_algo = engine->congestion_control;
    settings->initial_ts = engine->now_ns;
    settings->handshake_timeout = limits->handshake_timeout_ns;
    /* Ceilings of ngtcp2's auto-tuning: with them equal to the initial windows, only credit() moves a window. */
    settings->max_window = limits->connection_window_bytes;
    settings->max_stream_window = limits->stream_window_bytes;
    /* Out of range, ngtcp2 would abort. */
    settings->max_tx_udp_payload_size = limits->max_datagram_bytes < VE_LEAST_DATAGRAM ? VE_LEAST_DATAGRAM
                                        : limits->max_datagram_bytes > NGTCP2_MAX_PMTUD_UDP_PAYLOAD_SIZE
                                            ? NGTCP2_MAX_PMTUD_UDP_PAYLOAD_SIZE
                                            : limits->max_datagram_bytes;
    if (opening->validated && opening->token_length > 0) {
        settings->token = opening->token;
        settings->tokenlen = opening->token_length;
        settings->token_type = opening->original_dcid != NULL ? NGTCP2_TOKEN_TYPE_RETRY : NGTCP2_TOKEN_TYPE_NEW_TOKEN;
    }
#if NGTCP2_VERSION_NUM >= 0x010f00
    settings->glitch_ratelim_burst = limits->max_glitches_per_s;
    settings->glitch_ratelim_rate = limits->max_glitches_per_s;
#endif
}

static void fill_parameters(const ve_engine *engine, ngtcp2_transport_params *parameters) {
    const ve_limits *limits = &engine->limits;
    ngtcp2_transport_params_default(parameters);
    parameters->initial_max_stream_data_bidi_local = limits->stream_window_bytes;
    parameters->initial_max_stream_data_bidi_remote = limits->stream_window_bytes;
    parameters->initial_max_stream_data_uni = limits->stream_window_bytes;
    parameters->initial_max_data = limits->connection_window_bytes;
    parameters->initial_max_streams_bidi = limits->max_streams_bidi;
    parameters->initial_max_streams_uni = limits->max_streams_uni;
    parameters->max_idle_timeout = limits->idle_timeout_ns;
    parameters->active_connection_id_limit = limits->max_active_cids;
}

/* Frees what ve_connection_new() made so far, without events. */
static void discard(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_timer_remove(&engine->timers, connection);
    ve_id_remove_all(&engine->ids, connection);
    if (connection->quic != NULL) {
        ngtcp2_conn_del(connection->quic);
    }
    ve_handle_release(&engine->connections, connection->handle);
    free(connection);
}

ve_connection *ve_connection_new(ve_engine *engine, const ve_opening *opening) {
    ngtcp2_settings settings;
    ngtcp2_transport_params parameters;
    ngtcp2_cid scid; /* the client's, our destination */
    ngtcp2_cid ours;
    ve_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL || ve_timers_reserve(&engine->timers) != 0) {
        free(connection);
        return NULL;
    }
    connection->engine = engine;
    ve_memory_init(&connection->memory);
    connection->opened_ns = engine->now_ns;
    connection->streams_at_once = connection->max_streams_bidi = engine->limits.max_streams_bidi;
    connection->half_open_memory_bytes = engine->limits.half_open_memory_bytes;
    connection->received_memory_bytes = engine->limits.received_memory_bytes;
    connection->sent_memory_bytes = engine->limits.sent_memory_bytes;
    connection->max_field_section_bytes = engine->limits.max_field_section_bytes;
    connection->handle = ve_handle_new(&engine->connections, connection);
    if (connection->handle == 0) {
        free(connection);
        return NULL;
    }
    fill_settings(engine, opening, &settings);
    fill_parameters(engine, &parameters);
    ngtcp2_cid_init(&scid, opening->scid, opening->scid_length);
    if (opening->original_dcid != NULL) {
        /* After a Retry the client speaks to the id that we chose there, and it stays ours. */
        ngtcp2_cid_init(&ours, opening->dcid, opening->dcid_length);
        ngtcp2_cid_init(&parameters.original_dcid, opening->original_dcid, opening->original_dcid_length);
        parameters.retry_scid = ours;
        parameters.retry_scid_present = 1;
    } else {
        ngtcp2_cid_init(&parameters.original_dcid, opening->dcid, opening->dcid_length);
        ours.datalen = VE_CID_LENGTH;
        if (ve_cid_issue(&engine->cids, engine->node_id, engine->worker_id, ours.data) != 0 ||
            ve_id_add(&engine->ids, connection, opening->dcid, opening->dcid_length, VE_FOREIGN_ID) != 0) {
            discard(connection);
            return NULL;
        }
    }
    parameters.original_dcid_present = 1;
    parameters.stateless_reset_token_present =
        ve_cid_reset_token(&engine->cids, ours.data, ours.datalen, parameters.stateless_reset_token);
    if (ve_id_add(&engine->ids, connection, ours.data, ours.datalen, ve_cid_config_of(&engine->cids, &ours)) != 0 ||
        ngtcp2_conn_server_new(&connection->quic, &scid, &ours, opening->path, opening->version, &ve_callbacks,
                               &settings, &parameters, &connection->memory.quic, connection) != 0) {
        connection->quic = NULL;
        discard(connection);
        return NULL;
    }
    ve_timer_set(&engine->timers, connection, VE_NEVER);
    connection->accepted = Py_NewRef(opening->accepted);
    link_open(connection);
    engine->half_open++;
    engine->counters[VE_connections_opened]++;
    return connection;
}

/* --- reading, timers --- */

/* Too much is held for what this peer sent, or did not acknowledge. What one packet can add is small beside the budgets. */
static void bound_memory(ve_connection *connection, int rv) {
    const ve_memory *memory = &connection->memory;
    bool early = !connection->handshake_completed;
    size_t received = early ? connection->half_open_memory_bytes : connection->received_memory_bytes;
    size_t sent = connection->sent_memory_bytes + 4 * connection->most_in_flight;
    /* ngtcp2 says ERR_INTERNAL when one stream has more than 5000 gaps. */
    if (memory->bytes[VE_RECEIVED] <= received && memory->bytes[VE_SENT] <= sent && rv != NGTCP2_ERR_INTERNAL) {
        return;
    }
    connection->engine->counters[VE_memory_exceeded]++;
    if (early) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_CRYPTO_BUFFER_EXCEEDED, "too many pieces");
    } else {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD, "too many pieces");
    }
}

static int read_packet(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                       size_t length) {
    ngtcp2_pkt_info info = {.ecn = tos & 3};
    ve_mtu_reading(connection);
    connection->memory.reading = true;
    int rv = ngtcp2_conn_read_pkt(connection->quic, path, &info, data, length, connection->engine->now_ns);
    connection->memory.reading = false;
    ve_mtu_read(connection);
    bound_memory(connection, rv);
    return rv;
}

bool ve_connection_read_first(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                              size_t length) {
    int rv = read_packet(connection, path, tos, data, length);
    if (rv == NGTCP2_ERR_RETRY && !connection->has_error) {
        ve_connection_undo(connection);
        return false;
    }
    if (ve_connection_survives(connection, rv)) {
        ve_connection_mark(connection);
    }
    return true;
}

void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length) {
    if (connection->state == VE_DRAINING) {
        return;
    }
    if (connection->state == VE_CLOSING) {
        /* Repeat at the first, second, fourth, eighth ... packet: a flood gets ever fewer answers (RFC 9000 10.2.1). */
        unsigned n = ++connection->packets_while_closing;
        if ((n & (n - 1)) == 0 && connection->last_packet != NULL) {
            connection->repeat = true;
            ve_connection_mark(connection);
        }
        return;
    }
    bool elsewhere = !ngtcp2_path_eq(ngtcp2_conn_get_path(connection->quic), path);
    if (elsewhere && !ve_paths_allow(connection)) {
        return;
    }
    int rv = read_packet(connection, path, tos, data, length);
    if (elsewhere) {
        ve_paths_note(connection, path);
    }
    if (ve_connection_survives(connection, rv)) {
        ve_connection_mark(connection);
    }
}

static void expire_requests(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    while (connection->incomplete_first != NULL && !connection->has_error &&
           connection->incomplete_first->begun_ns + engine->limits.request_timeout_ns <= engine->now_ns) {
        ve_stream *stream = connection->incomplete_first;
        if (stream->headers_done) {
            /* Answered: nobody wants the rest (RFC 9114 section 4.1). */
            ve_stream_not_incomplete(stream);
            stream->request_ended = true;
            if (ngtcp2_conn_shutdown_stream_read(connection->quic, 0, stream->id, VE_H3_NO_ERROR) != 0) {
                ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
            }
            continue;
        }
        stream->glitched = true;
        ve_connection_glitch(connection);
        ve_connection_reset_stream(connection, stream, VE_H3_REQUEST_INCOMPLETE);
    }
}

void ve_connection_expire(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (connection->state != VE_OPEN) {
        ve_connection_free(connection);
        return;
    }
    expire_requests(connection);
    ve_mtu_expire(connection);
    ve_stall_expire(connection);
    int rv = 0;
    if (ngtcp2_conn_get_expiry(connection->quic) <= engine->now_ns) {
        rv = ngtcp2_conn_handle_expiry(connection->quic, engine->now_ns);
    }
    if (rv == NGTCP2_ERR_IDLE_CLOSE || rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT) {
        static const char *const reasons[] = {"idle", "handshake timeout"};
        connection->timed_out = rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT;
        const char *reason = reasons[connection->timed_out];
        ngtcp2_ccerr error;
        ngtcp2_ccerr_default(&error);
        error.reason = (const uint8_t *)reason;
        error.reasonlen = strlen(reason);
        ve_connection_vanish(connection, VE_CLOSING, &error, false);
        return;
    }
    if (ve_connection_survives(connection, rv)) {
        /* Writing sets the real one; this is for an endpoint that doesn't write. */
        ve_timer_set(&engine->timers, connection, engine->now_ns + 1000000);
        ve_connection_mark(connection);
    }
}
