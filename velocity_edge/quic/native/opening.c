/* A new connection: its limits, its IDs, its ngtcp2_conn. */
#include "life.h"

#include "callbacks.h"
#include "engine.h"

static void fill_settings(const ve_engine *engine, const ve_opening *opening, ngtcp2_settings *settings) {
    const ve_limits *limits = &engine->limits;
    ngtcp2_settings_default(settings);
    settings->cc_algo = engine->congestion_control;
    settings->initial_ts = engine->now_ns;
    settings->handshake_timeout = limits->handshake_timeout_ns;
    /* Upper bounds of ngtcp2's auto-tuning: equal to the initial windows, so that only credit() moves a window. */
    settings->max_window = limits->connection_window_bytes;
    settings->max_stream_window = limits->stream_window_bytes;
    /* ngtcp2 aborts on a value out of range. */
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

/* Free what ve_connection_new() made so far, without events. */
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
    ngtcp2_cid scid; /* the client's Source Connection ID, our destination */
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
        /* After a Retry the client uses the ID that we chose there, and it remains ours. */
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
    ve_connection_link(&engine->open_first, connection);
    engine->open_count++;
    engine->half_open++;
    engine->counters[VE_connections_opened]++;
    return connection;
}
