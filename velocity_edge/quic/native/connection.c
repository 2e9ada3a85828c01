#include "connection.h"

#include <errno.h>

#include "batch.h"
#include "engine.h"
#include "events.h"
#include "http.h"
#include "module.h"
#include "stream.h"

enum {
    /* ngtcp2 keeps about 8 ids in use; retired ones wait three PTOs. A peer that makes us issue more than this is at fault. */
    MAX_IDS = 64,
    CLOSE_PACKET_BYTES = 1200,
    UNIDIRECTIONAL = 2, /* bits of a stream id (RFC 9000 section 2.1) */
    SERVER_INITIATED = 1,
};

/* --- errors and marks ------------------------------------------------------------------------------------------------ */

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

static void unmark(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_connection *before = NULL;
    if (!connection->dirty) {
        return;
    }
    for (ve_connection *c = engine->dirty_first; c != connection; c = c->dirty_next) {
        before = c;
    }
    if (before == NULL) {
        engine->dirty_first = connection->dirty_next;
    } else {
        before->dirty_next = connection->dirty_next;
    }
    if (engine->dirty_last == connection) {
        engine->dirty_last = before;
    }
    connection->dirty = false;
}

void ve_connection_set_timer(ve_connection *connection) {
    ngtcp2_tstamp expiry = ngtcp2_conn_get_expiry(connection->quic);
    if (connection->incomplete_first != NULL) {
        uint64_t deadline =
            connection->incomplete_first->begun_ns + connection->engine->limits.request_timeout_ns;
        expiry = deadline < expiry ? deadline : expiry;
    }
    ve_timer_set(&connection->engine->timers, connection, expiry);
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
    /* Both fail only without memory, and then the next call into ngtcp2 says so too. */
    if (ngtcp2_conn_shutdown_stream(connection->quic, 0, stream->id, code) != 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
    }
    if (connection->http != NULL) {
        nghttp3_conn_shutdown_stream_write(connection->http, stream->id);
        if (nghttp3_conn_shutdown_stream_read(connection->http, stream->id) != 0) {
            ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
        }
    }
    ve_connection_mark(connection);
}

/* --- callbacks of ngtcp2 --------------------------------------------------------------------------------------------- */

static void on_rand(uint8_t *out, size_t length, const ngtcp2_rand_ctx *context) {
    (void)context;
    if (ve_random(out, length) != 0) {
        memset(out, 0, length); /* used for packet number gaps and probes only, not for secrets */
    }
}

static int on_path_challenge(ngtcp2_conn *quic, uint8_t *data, void *user) {
    (void)quic;
    (void)user;
    return ve_random(data, NGTCP2_PATH_CHALLENGE_DATALEN) == 0 ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_client_initial(ngtcp2_conn *quic, const ngtcp2_cid *dcid, void *user) {
    ve_connection *connection = user;
    ve_crypto *crypto = &connection->engine->module->crypto;
    ngtcp2_crypto_ctx context;
    ve_keys rx;
    ve_keys tx;
    if (ve_initial_keys(&rx, crypto, dcid->data, dcid->datalen, false) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    if (ve_initial_keys(&tx, crypto, dcid->data, dcid->datalen, true) != 0) {
        ve_keys_free(&rx);
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    ve_crypto_ctx(&context, &crypto->suites[0]);
    ngtcp2_conn_set_initial_crypto_ctx(quic, &context);
    if (ngtcp2_conn_install_initial_key(quic, &rx.aead, rx.iv, &rx.header, &tx.aead, tx.iv, &tx.header,
                                        VE_IV_LENGTH) != 0) {
        ve_keys_free(&rx);
        ve_keys_free(&tx);
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int on_new_connection_id(ngtcp2_conn *quic, ngtcp2_cid *cid, uint8_t *token, size_t length, void *user) {
    ve_connection *connection = user;
    ve_engine *engine = connection->engine;
    (void)quic;
    if (length != VE_CID_LENGTH || connection->id_count >= MAX_IDS ||
        ve_cid_issue(&engine->cids, engine->node_id, engine->worker_id, cid->data) != 0 ||
        !ve_cid_reset_token(&engine->cids, cid->data, length, token) ||
        ve_id_add(&engine->ids, connection, cid->data, length) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    cid->datalen = length;
    return 0;
}

static int on_remove_connection_id(ngtcp2_conn *quic, const ngtcp2_cid *cid, void *user) {
    ve_connection *connection = user;
    (void)quic;
    ve_id_remove(&connection->engine->ids, connection, cid->data, cid->datalen);
    return 0;
}

static int on_tx_key(ngtcp2_conn *quic, ngtcp2_encryption_level level, void *user) {
    (void)quic;
    if (level == NGTCP2_ENCRYPTION_LEVEL_1RTT && ve_http_start(user) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int on_path_validation(ngtcp2_conn *quic, uint32_t flags, const ngtcp2_path *path, const ngtcp2_path *old_path,
                              ngtcp2_path_validation_result result, void *user) {
    ve_connection *connection = user;
    (void)quic;
    (void)flags;
    (void)path;
    (void)old_path;
    if (result == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS) {
        connection->engine->counters[VE_migrations]++;
    }
    return 0;
}

static int on_stream_open(ngtcp2_conn *quic, int64_t id, void *user) {
    ve_connection *connection = user;
    if (id & (UNIDIRECTIONAL | SERVER_INITIATED)) {
        return 0;
    }
    ve_stream *stream = ve_stream_new(connection, id, connection->engine->now_ns);
    if (stream == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    return ngtcp2_conn_set_stream_user_data(quic, id, stream);
}

static int on_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                          size_t length, void *user, void *stream_user) {
    ve_stream *stream = stream_user;
    (void)quic;
    (void)offset;
    if (stream != NULL && flags & NGTCP2_STREAM_DATA_FLAG_0RTT) {
        stream->early = true;
    }
    return ve_http_receive(user, id, stream, data, length, (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0);
}

static int on_acked(ngtcp2_conn *quic, int64_t id, uint64_t offset, uint64_t length, void *user, void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    (void)offset;
    if (connection->http == NULL) {
        return 0;
    }
    if (nghttp3_conn_add_ack_offset(connection->http, id, length) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    /* A whole answer arrived while the request still comes in: nobody wants the rest (RFC 9114 section 4.1). */
    if (stream != NULL && stream->eof_given && stream->unacked == 0 && !stream->request_ended && !stream->over) {
        stream->request_ended = true;
        if (nghttp3_conn_shutdown_stream_read(connection->http, id) != 0) {
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
        return ngtcp2_conn_shutdown_stream_read(quic, 0, id, VE_H3_NO_ERROR);
    }
    return 0;
}

static int on_stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t code, void *user,
                           void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    bool failed = (flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET) != 0 && code != VE_H3_NO_ERROR;
    if (!failed) {
        code = VE_H3_NO_ERROR;
    }
    if (connection->http != NULL) {
        int rv = nghttp3_conn_close_stream(connection->http, id, code);
        if (rv != 0 && rv != NGHTTP3_ERR_STREAM_NOT_FOUND) {
            ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, nghttp3_err_infer_quic_app_error_code(rv),
                               nghttp3_strerror(rv));
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
    }
    if (stream != NULL) {
        if (stream->uncredited > 0) {
            ngtcp2_conn_extend_max_offset(quic, stream->uncredited); /* the connection's window outlives the stream */
        }
        ve_stream_over(stream, !failed && stream->eof_given, code);
        ve_stream_free(stream);
    }
    if (!(id & SERVER_INITIATED)) {
        if (id & UNIDIRECTIONAL) {
            ngtcp2_conn_extend_max_streams_uni(quic, 1);
        } else {
            ngtcp2_conn_extend_max_streams_bidi(quic, 1);
        }
    }
    return 0;
}

static void count_abandoned(ve_connection *connection, ve_stream *stream) {
    if (!stream->glitched) {
        stream->glitched = true;
        connection->engine->counters[VE_streams_reset]++;
        ve_connection_glitch(connection);
    }
}

static int on_stream_reset(ngtcp2_conn *quic, int64_t id, uint64_t final_size, uint64_t code, void *user,
                           void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    (void)final_size;
    if (connection->http != NULL && nghttp3_conn_shutdown_stream_read(connection->http, id) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    if (stream == NULL || stream->request_ended) {
        return 0; /* control streams are nghttp3's; after a whole request there is nothing left to reset */
    }
    count_abandoned(connection, stream);
    if (stream->responded) {
        return 0; /* the answer may well be complete without the rest of the request */
    }
    ve_stream_over(stream, false, code);
    return ngtcp2_conn_shutdown_stream_write(quic, 0, id, VE_H3_REQUEST_CANCELLED);
}

static int on_stop_sending(ngtcp2_conn *quic, int64_t id, uint64_t code, void *user, void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    if (connection->http != NULL) {
        nghttp3_conn_shutdown_stream_write(connection->http, id);
    }
    if (stream == NULL) {
        return 0;
    }
    count_abandoned(connection, stream);
    ve_stream_over(stream, false, code);
    if (stream->request_ended) {
        return 0;
    }
    return ngtcp2_conn_shutdown_stream_read(quic, 0, id, VE_H3_REQUEST_CANCELLED);
}

static int on_extend_stream(ngtcp2_conn *quic, int64_t id, uint64_t most, void *user, void *stream_user) {
    ve_connection *connection = user;
    (void)quic;
    (void)most;
    (void)stream_user;
    if (connection->http != NULL && nghttp3_conn_unblock_stream(connection->http, id) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static const ngtcp2_callbacks CALLBACKS = {
    .recv_client_initial = on_client_initial,
    .recv_crypto_data = ve_tls_receive,
    .encrypt = ve_encrypt,
    .decrypt = ve_decrypt,
    .hp_mask = ve_hp_mask,
    .recv_stream_data = on_stream_data,
    .acked_stream_data_offset = on_acked,
    .stream_open = on_stream_open,
    .stream_close = on_stream_close,
    .rand = on_rand,
    .get_new_connection_id = on_new_connection_id,
    .remove_connection_id = on_remove_connection_id,
    .update_key = ve_update_key,
    .path_validation = on_path_validation,
    .stream_reset = on_stream_reset,
    .extend_max_stream_data = on_extend_stream,
    .delete_crypto_aead_ctx = ve_delete_aead,
    .delete_crypto_cipher_ctx = ve_delete_cipher,
    .get_path_challenge_data = on_path_challenge,
    .stream_stop_sending = on_stop_sending,
    .recv_tx_key = on_tx_key,
};

/* --- opening --------------------------------------------------------------------------------------------------------- */

static void link_open(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    connection->next = engine->open_first;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    engine->open_first = connection;
    engine->open_count++;
}

static void unlink_from(ve_connection **first, ve_connection *connection) {
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        *first = connection->next;
    }
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    connection->previous = connection->next = NULL;
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
    connection->opened_ns = engine->now_ns;
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
            ve_id_add(&engine->ids, connection, opening->dcid, opening->dcid_length) != 0) {
            discard(connection);
            return NULL;
        }
    }
    parameters.original_dcid_present = 1;
    parameters.stateless_reset_token_present =
        ve_cid_reset_token(&engine->cids, ours.data, ours.datalen, parameters.stateless_reset_token);
    if (ve_id_add(&engine->ids, connection, ours.data, ours.datalen) != 0 ||
        ngtcp2_conn_server_new(&connection->quic, &scid, &ours, opening->path, opening->version, &CALLBACKS, &settings,
                               &parameters, NULL, connection) != 0) {
        connection->quic = NULL;
        discard(connection);
        return NULL;
    }
    ve_timer_set(&engine->timers, connection, VE_NEVER);
    link_open(connection);
    engine->half_open++;
    engine->counters[VE_connections_opened]++;
    return connection;
}

/* --- ending ---------------------------------------------------------------------------------------------------------- */

void ve_connection_free(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    unmark(connection);
    ve_timer_remove(&engine->timers, connection);
    ve_id_remove_all(&engine->ids, connection);
    if (connection->state == VE_OPEN) {
        unlink_from(&engine->open_first, connection);
        engine->open_count--;
        nghttp3_conn_del(connection->http);
        while (connection->streams != NULL) {
            connection->streams->headers_done = false; /* the engine goes: no events */
            ve_stream_free(connection->streams);
        }
        ngtcp2_conn_del(connection->quic);
        ve_tls_end(connection);
        free(connection->message);
        ve_handle_release(&engine->connections, connection->handle);
    } else {
        unlink_from(&engine->closing_first, connection);
        engine->closing_count--;
    }
    free(connection->last_packet);
    free(connection);
}

/* From `open` to closing or draining: events, counters, and everything freed but this struct and its ids. */
static void leave_open(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer) {
    ve_engine *engine = connection->engine;
    uint64_t linger_ns = 3 * ngtcp2_conn_get_pto(connection->quic);
    if (connection->http != NULL) {
        nghttp3_conn_del(connection->http);
        connection->http = NULL;
    }
    while (connection->streams != NULL) {
        ve_stream_over(connection->streams, false, error->error_code);
        ve_stream_free(connection->streams);
    }
    engine->counters[VE_connections_closed]++;
    if (!connection->handshake_completed) {
        engine->half_open--;
        engine->counters[VE_handshakes_failed]++;
    }
    PyObject *reason = PyUnicode_DecodeUTF8((const char *)error->reason, (Py_ssize_t)error->reasonlen, "replace");
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        PyLong_FromUnsignedLongLong(error->error_code),
        PyBool_FromLong(error->type == NGTCP2_CCERR_TYPE_APPLICATION),
        PyBool_FromLong(by_peer),
        reason,
        PyBool_FromLong(connection->handshake_completed),
    };
    ve_engine_event(engine, ve_record_new(&engine->module->connection_closed, values));
    ngtcp2_conn_del(connection->quic);
    connection->quic = NULL;
    ve_tls_end(connection);
    free(connection->message);
    connection->message = NULL;
    ve_handle_release(&engine->connections, connection->handle);
    unlink_from(&engine->open_first, connection);
    engine->open_count--;
    unmark(connection);
    connection->state = state;
    connection->next = engine->closing_first;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    engine->closing_first = connection;
    engine->closing_count++;
    ve_timer_set(&engine->timers, connection, engine->now_ns + linger_ns);
}

static void to_address(ve_address *out, const ngtcp2_addr *in) {
    memset(out, 0, sizeof *out);
    memcpy(&out->any, in->addr, in->addrlen);
    out->length = in->addrlen;
}

/* Nobody to tell: idle, no handshake in time, or the peer told us. */
static void end_silently(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer) {
    leave_open(connection, state, error, by_peer);
    if (state != VE_DRAINING || connection->engine->closing_count > connection->engine->limits.max_connections) {
        ve_connection_free(connection);
    }
}

void ve_connection_close(ve_connection *connection, int rv) {
    ve_engine *engine = connection->engine;
    uint8_t packet[CLOSE_PACKET_BYTES];
    ngtcp2_path_storage path;
    ngtcp2_pkt_info info = {0};
    ngtcp2_ccerr error = connection->error;
    if (!connection->has_error) {
        ngtcp2_ccerr_default(&error);
        if (rv == NGTCP2_ERR_CRYPTO) {
            ngtcp2_ccerr_set_tls_alert(&error, ngtcp2_conn_get_tls_alert(connection->quic), NULL, 0);
        } else {
            ngtcp2_ccerr_set_liberr(&error, rv, NULL, 0);
        }
    }
    if (error.type != NGTCP2_CCERR_TYPE_TRANSPORT && error.type != NGTCP2_CCERR_TYPE_APPLICATION) {
        end_silently(connection, VE_CLOSING, &error, false); /* idle, dropped: ngtcp2 says there is nothing to say */
        return;
    }
    ngtcp2_path_storage_zero(&path);
    ngtcp2_ssize length = ngtcp2_conn_write_connection_close(connection->quic, &path.path, &info, packet, sizeof packet,
                                                             &error, engine->now_ns);
    /* 0: the address isn't proven and we sent three times what we got. Less: no keys, no memory. */
    uint8_t *copy = length > 0 ? malloc((size_t)length) : NULL;
    if (copy == NULL) {
        end_silently(connection, VE_CLOSING, &error, false);
        return;
    }
    memcpy(copy, packet, (size_t)length);
    connection->last_packet = copy;
    connection->last_packet_length = (size_t)length;
    to_address(&connection->last_peer, &path.path.remote);
    to_address(&connection->last_local, &path.path.local);
    connection->last_listener = (int)(intptr_t)path.path.user_data;
    leave_open(connection, VE_CLOSING, &error, false);
    connection->repeat = true;
    ve_connection_mark(connection);
}

static void drain(ve_connection *connection) {
    ngtcp2_ccerr error = *ngtcp2_conn_get_ccerr(connection->quic);
    char reason[256];
    size_t length = error.reasonlen < sizeof reason ? error.reasonlen : sizeof reason;
    if (length > 0) {
        memcpy(reason, error.reason, length); /* it goes with the ngtcp2_conn, before the event is made */
    }
    error.reason = (const uint8_t *)reason;
    error.reasonlen = length;
    end_silently(connection, VE_DRAINING, &error, true);
}

/* What a return value of ngtcp2 means for the connection. True: it is still open. */
static bool survives(ve_connection *connection, int rv) {
    if (rv == 0 && !connection->has_error) {
        return true;
    }
    if (rv == NGTCP2_ERR_DRAINING) {
        drain(connection);
    } else if (rv == NGTCP2_ERR_DROP_CONN || rv == NGTCP2_ERR_RETRY) {
        ngtcp2_ccerr error;
        ngtcp2_ccerr_default(&error);
        end_silently(connection, VE_CLOSING, &error, false);
    } else {
        ve_connection_close(connection, rv);
    }
    return false;
}

/* --- reading, timers ------------------------------------------------------------------------------------------------- */

void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length) {
    ngtcp2_pkt_info info = {.ecn = tos & 3};
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
    int rv = ngtcp2_conn_read_pkt(connection->quic, path, &info, data, length, connection->engine->now_ns);
    if (survives(connection, rv)) {
        ve_connection_mark(connection);
    }
}

static void expire_requests(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    while (connection->incomplete_first != NULL && !connection->has_error &&
           connection->incomplete_first->begun_ns + engine->limits.request_timeout_ns <= engine->now_ns) {
        ve_stream *stream = connection->incomplete_first;
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
    int rv = 0;
    if (ngtcp2_conn_get_expiry(connection->quic) <= engine->now_ns) {
        rv = ngtcp2_conn_handle_expiry(connection->quic, engine->now_ns);
    }
    if (rv == NGTCP2_ERR_IDLE_CLOSE || rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT) {
        static const char *const reasons[] = {"idle", "handshake timeout"};
        const char *reason = reasons[rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT];
        ngtcp2_ccerr error;
        ngtcp2_ccerr_default(&error);
        error.reason = (const uint8_t *)reason;
        error.reasonlen = strlen(reason);
        if (!connection->handshake_completed) {
            engine->counters[VE_handshakes_timed_out]++;
        }
        end_silently(connection, VE_CLOSING, &error, false);
        return;
    }
    if (survives(connection, rv)) {
        /* Writing sets the real one; this is for an endpoint that doesn't write. */
        ve_timer_set(&engine->timers, connection, engine->now_ns + 1000000);
        ve_connection_mark(connection);
    }
}

/* --- writing --------------------------------------------------------------------------------------------------------- */

/* One packet. "Write more" means: taken, and the packet has room for the next stream. */
static ngtcp2_ssize write_packet(ve_connection *connection, ngtcp2_path *path, ngtcp2_pkt_info *info, uint8_t *out,
                                 size_t size) {
    nghttp3_vec vectors[16];
    for (;;) {
        int64_t id = -1;
        int fin = 0;
        ngtcp2_ssize taken = -1;
        nghttp3_ssize count = 0;
        if (connection->http != NULL && ngtcp2_conn_get_max_data_left(connection->quic) > 0) {
            count = nghttp3_conn_writev_stream(connection->http, &id, &fin, vectors, 16);
            if (count < 0) {
                ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION,
                                   nghttp3_err_infer_quic_app_error_code((int)count), nghttp3_strerror((int)count));
                return NGTCP2_ERR_CALLBACK_FAILURE;
            }
        }
        uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE | (fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : 0);
        ngtcp2_ssize n =
            ngtcp2_conn_writev_stream(connection->quic, path, info, out, size, &taken, flags, id,
                                      (const ngtcp2_vec *)vectors, (size_t)count, connection->engine->now_ns);
        if (n == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
            nghttp3_conn_block_stream(connection->http, id);
            continue;
        }
        if (n == NGTCP2_ERR_STREAM_SHUT_WR || n == NGTCP2_ERR_STREAM_NOT_FOUND) {
            nghttp3_conn_shutdown_stream_write(connection->http, id);
            continue;
        }
        if (taken >= 0 && id >= 0) {
            int rv = nghttp3_conn_add_write_offset(connection->http, id, (size_t)taken);
            if (rv != 0) {
                return NGTCP2_ERR_CALLBACK_FAILURE;
            }
        }
        if (n != NGTCP2_ERR_WRITE_MORE) {
            return n;
        }
    }
}

/* Packets of one flight in trains: one path, one ECN mark, equal sizes but for the last (what UDP_SEGMENT can cut). */
typedef struct writer {
    ve_batch *batch;
    ve_train *train; /* NULL: none begun */
} writer;

static void commit(writer *w) {
    if (w->train != NULL) {
        ve_batch_commit(w->batch, w->train);
        w->train = NULL;
    }
}

/* Where the next packet goes; NULL: the batch is full. */
static uint8_t *place(writer *w, size_t size) {
    if (w->train != NULL && w->train->length + size > VE_TRAIN_SEND) {
        commit(w);
    }
    if (w->train == NULL) {
        w->train = ve_batch_next(w->batch, size);
    } else if (w->train->offset + w->train->length + size > VE_BATCH_BYTES) {
        commit(w);
        return NULL;
    }
    return w->train == NULL ? NULL : w->batch->memory + w->train->offset + w->train->length;
}

static void add_packet(writer *w, const ngtcp2_path *path, const ngtcp2_pkt_info *info, uint32_t length) {
    ve_train *train = w->train;
    ve_address peer;
    to_address(&peer, &path->remote);
    if (train->length > 0) {
        if (length <= train->segment_size && train->tos == info->ecn && ve_address_equal(&train->peer, &peer)) {
            train->length += length;
            if (length < train->segment_size || train->length / train->segment_size >= VE_TRAIN_SEGMENTS) {
                commit(w); /* a short one ends what the kernel can cut */
            }
            return;
        }
        /* A larger packet (path MTU probe), another path or mark: it begins a train of its own. */
        const uint8_t *from = w->batch->memory + train->offset + train->length;
        commit(w);
        train = ve_batch_next(w->batch, length);
        if (train == NULL) {
            return; /* lost like any packet; only when the 256th train ends exactly here */
        }
        memmove(w->batch->memory + train->offset, from, length);
        w->train = train;
    }
    train->length = train->segment_size = length;
    train->tos = (uint8_t)info->ecn;
    train->peer = peer;
    to_address(&train->local, &path->local);
    train->listener = (int)(intptr_t)path->user_data;
}

static void reset_broken_streams(ve_connection *connection) {
    for (ve_stream *stream = connection->streams; stream != NULL && connection->broken_streams > 0;
         stream = stream->next) {
        if (stream->broken) {
            stream->broken = false;
            connection->broken_streams--;
            ve_connection_reset_stream(connection, stream, VE_H3_INTERNAL_ERROR);
        }
    }
}

/* What was in flight is acknowledged: streams that waited for that may go on. */
static void resume_paused(ve_connection *connection) {
    const ve_limits *limits = &connection->engine->limits;
    size_t most = connection->engine->unacked < limits->max_unacked_bytes_per_worker ? limits->max_unacked_bytes
                                                                                     : limits->send_high_bytes;
    if (connection->paused_streams == 0 || connection->unacked >= most) {
        return;
    }
    for (ve_stream *stream = connection->streams; stream != NULL; stream = stream->next) {
        if (stream->paused) {
            ve_http_resume(stream);
        }
    }
}

ve_written ve_connection_write(ve_connection *connection, ve_batch *batch) {
    ve_engine *engine = connection->engine;
    writer w = {batch, NULL};
    if (connection->state != VE_OPEN) {
        if (connection->repeat) {
            if (!ve_batch_add(batch, connection->last_packet, connection->last_packet_length, &connection->last_local,
                              &connection->last_peer, connection->last_listener)) {
                return VE_WRITTEN_FULL;
            }
            connection->repeat = false;
        }
        return VE_WRITTEN_ALL;
    }
    if (connection->close_requested) {
        ve_connection_close(connection, 0);
        return VE_WRITTEN_LAST;
    }
    resume_paused(connection);
    size_t size = ngtcp2_conn_get_max_tx_udp_payload_size(connection->quic);
    size_t quantum = ngtcp2_conn_get_send_quantum(connection->quic);
    size_t sent = 0;
    ve_written result = VE_WRITTEN_MORE;
    while (sent < quantum) {
        ngtcp2_path_storage path;
        ngtcp2_pkt_info info = {0};
        uint8_t *out = place(&w, size);
        if (out == NULL) {
            result = VE_WRITTEN_FULL;
            break;
        }
        ngtcp2_path_storage_zero(&path);
        ngtcp2_ssize n = write_packet(connection, &path.path, &info, out, size);
        if (n < 0 || connection->has_error) {
            if (w.train != NULL && w.train->length > 0) {
                commit(&w);
            }
            survives(connection, n < 0 ? (int)n : 0);
            return VE_WRITTEN_LAST;
        }
        if (n == 0) {
            result = VE_WRITTEN_ALL;
            break;
        }
        add_packet(&w, &path.path, &info, (uint32_t)n);
        sent += (size_t)n;
    }
    if (w.train != NULL && w.train->length > 0) {
        commit(&w);
    }
    if (sent > 0) {
        ngtcp2_conn_update_pkt_tx_time(connection->quic, engine->now_ns); /* or pacing is wrong */
    }
    if (connection->broken_streams > 0) {
        reset_broken_streams(connection);
        result = result == VE_WRITTEN_ALL ? VE_WRITTEN_MORE : result;
    }
    ve_connection_set_timer(connection);
    return result;
}
