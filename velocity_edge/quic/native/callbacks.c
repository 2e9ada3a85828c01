/* Long because the table at the end needs all callbacks: each one is short and independent. */
#include "callbacks.h"

#include "connection.h"
#include "engine.h"
#include "http.h"
#include "module.h"
#include "stream.h"
#include "tls.h"

enum {
    /* ngtcp2 keeps about 8 IDs in use; retired ones stay for three PTO. A peer that causes more to be issued is at
       fault. */
    MAX_IDS = 64,
    UNIDIRECTIONAL = 2, /* bits of a stream id (RFC 9000 section 2.1) */
    SERVER_INITIATED = 1,
};

static void on_rand(uint8_t *out, size_t length, const ngtcp2_rand_ctx *context) {
    (void)context;
    if (ve_random(out, length) != 0) {
        memset(out, 0, length); /* used for packet number gaps and probes, not for secrets */
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
    if (ngtcp2_conn_install_initial_key(quic, &rx.aead, rx.iv, &rx.header, &tx.aead, tx.iv, &tx.header, VE_IV_LENGTH) !=
        0) {
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
        ve_id_add(&engine->ids, connection, cid->data, length, cid->data[0] >> 5) != 0) {
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
        return id & SERVER_INITIATED ? 0 : ve_uni_open(connection, id);
    }
    ve_stream *stream = ve_stream_new(connection, id, connection->engine->now_ns);
    if (stream == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    return ngtcp2_conn_set_stream_user_data(quic, id, stream);
}

static int on_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                          size_t length, void *user, void *stream_user) {
    bool fin = (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;
    (void)quic;
    (void)offset;
    if (id & UNIDIRECTIONAL) {
        return ve_uni_receive(user, stream_user, data, length, fin);
    }
    ve_stream *stream = stream_user;
    if (flags & NGTCP2_STREAM_DATA_FLAG_0RTT) {
        stream->early = true;
    }
    return ve_http_receive(user, stream, data, length, fin);
}

static int on_acked(ngtcp2_conn *quic, int64_t id, uint64_t offset, uint64_t length, void *user, void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    (void)offset;
    (void)quic;
    connection->mtu.acked += length;
    if (length > 0) {
        ve_deadlines_progress(connection);
    }
    if (connection->http == NULL) {
        return 0;
    }
    if (nghttp3_conn_add_ack_offset(connection->http, id, length) != 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    /* The whole response was acknowledged while the request still arrives. Accept and discard the rest for a while:
       Chromium does not show a response when STOP_SENDING arrives before it has sent the whole request. A tunnel may
       stay open in one direction. */
    if (stream != NULL && ve_stream_answered(stream) && !stream->request_ended && !stream->over &&
        !stream->incomplete && !stream->tunnel) {
        ve_stream_wait(stream, connection->engine->now_ns);
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

static int on_stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t code, void *user,
                           void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = id & UNIDIRECTIONAL ? NULL : stream_user;
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
            ngtcp2_conn_extend_max_offset(quic, stream->uncredited); /* the connection window outlives the stream */
            stream->uncredited = 0;
        }
        /* STOP_SENDING from the peer has no callback: a stream that closes before its response was acknowledged was
           abandoned. */
        bool complete = ve_stream_answered(stream);
        if (!complete && !stream->over) {
            count_abandoned(connection, stream);
        }
        ve_stream_over(stream, complete, code);
        ve_stream_free(stream);
    }
    if (!(id & SERVER_INITIATED)) {
        if (id & UNIDIRECTIONAL) {
            ve_uni_free(connection, stream_user);
            ngtcp2_conn_extend_max_streams_uni(quic, 1);
        } else {
            ngtcp2_conn_extend_max_streams_bidi(quic, 1);
        }
    }
    return 0;
}

static int on_stream_reset(ngtcp2_conn *quic, int64_t id, uint64_t final_size, uint64_t code, void *user,
                           void *stream_user) {
    ve_connection *connection = user;
    ve_stream *stream = stream_user;
    (void)final_size;
    if (id & UNIDIRECTIONAL) {
        return ve_uni_reset(connection, stream_user);
    }
    if (stream->request_ended || stream->over || ve_stream_answered(stream)) {
        return 0; /* after a complete request or response there is nothing to reset */
    }
    count_abandoned(connection, stream);
    if (stream->responded && !stream->tunnel && stream->carrier == NULL) {
        return 0; /* the response may be complete without the rest of the request */
    }
    ve_stream_over(stream, false, code);
    return ngtcp2_conn_shutdown_stream_write(quic, 0, id, VE_H3_REQUEST_CANCELLED);
}

/* A MAX_STREAMS frame was written. */
static int on_extend_streams(ngtcp2_conn *quic, uint64_t most, void *user) {
    ve_connection *connection = user;
    (void)quic;
    connection->max_streams_bidi = most;
    return 0;
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

const ngtcp2_callbacks ve_callbacks = {
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
    .extend_max_remote_streams_bidi = on_extend_streams,
    .delete_crypto_aead_ctx = ve_delete_aead,
    .delete_crypto_cipher_ctx = ve_delete_cipher,
    .get_path_challenge_data = on_path_challenge,
    .recv_tx_key = on_tx_key,
};
