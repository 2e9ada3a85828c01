/* What ngtcp2 calls for a connection. */
#include "load.h"

static void on_rand(uint8_t *destination, size_t length, const ngtcp2_rand_ctx *context) {
    (void)context;
    random_bytes(destination, length);
}

static int on_new_connection_id(ngtcp2_conn *quic, ngtcp2_cid *id, ngtcp2_stateless_reset_token *token, size_t length,
                                void *user) {
    (void)quic, (void)user;
    random_bytes(id->data, length);
    id->datalen = length;
    random_bytes(token->data, sizeof token->data);
    return 0;
}

static int on_handshake_completed(ngtcp2_conn *quic, void *user) {
    (void)quic;
    struct connection *connection = user;
    uint64_t now = now_ns();
    connection->handshake_completed = true;
    if (measured(connection, now)) {
        connection->totals->handshakes++;
        connection->totals->resumed += (uint64_t)SSL_session_reused(connection->tls);
        samples_add(&connection->totals->handshake_us, now - connection->due_ns);
    }
    return http_start(connection) ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t offset, const uint8_t *data,
                          size_t length, void *user, void *stream_user) {
    (void)offset, (void)stream_user;
    struct connection *connection = user;
    if (connection->http == NULL) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    nghttp3_ssize consumed = nghttp3_conn_read_stream2(
        connection->http, stream, data, length, flags & NGTCP2_STREAM_DATA_FLAG_FIN, ngtcp2_conn_get_timestamp(quic));
    if (consumed < 0) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    http_consume(connection, stream, (size_t)consumed);
    return 0;
}

static int on_acked(ngtcp2_conn *quic, int64_t stream, uint64_t offset, uint64_t length, void *user,
                    void *stream_user) {
    (void)quic, (void)offset, (void)stream_user;
    struct connection *connection = user;
    return nghttp3_conn_add_ack_offset(connection->http, stream, length) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t error, void *user,
                           void *stream_user) {
    (void)quic, (void)stream_user;
    struct connection *connection = user;
    if (!(flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET)) {
        error = NGHTTP3_H3_NO_ERROR;
    }
    int result = nghttp3_conn_close_stream(connection->http, stream, error);
    return result == 0 || result == NGHTTP3_ERR_STREAM_NOT_FOUND ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_stream_data_limit(ngtcp2_conn *quic, int64_t stream, uint64_t limit, void *user, void *stream_user) {
    (void)quic, (void)limit, (void)stream_user;
    struct connection *connection = user;
    return nghttp3_conn_unblock_stream(connection->http, stream) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

const ngtcp2_callbacks quic_callbacks = {
    .client_initial = ngtcp2_crypto_client_initial_cb,
    .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
    .encrypt = ngtcp2_crypto_encrypt_cb,
    .decrypt = ngtcp2_crypto_decrypt_cb,
    .hp_mask = ngtcp2_crypto_hp_mask_cb,
    .recv_retry = ngtcp2_crypto_recv_retry_cb,
    .update_key = ngtcp2_crypto_update_key_cb,
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
    .version_negotiation = ngtcp2_crypto_version_negotiation_cb,
    .get_path_challenge_data2 = ngtcp2_crypto_get_path_challenge_data2_cb,
    .rand = on_rand,
    .get_new_connection_id2 = on_new_connection_id,
    .handshake_completed = on_handshake_completed,
    .recv_stream_data = on_stream_data,
    .acked_stream_data_offset = on_acked,
    .stream_close = on_stream_close,
    .extend_max_stream_data = on_stream_data_limit,
};
