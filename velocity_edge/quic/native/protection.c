/* Packet protection: what ngtcp2 calls for each packet, and for each key update. */
#include "crypto.h"

#include <openssl/crypto.h>

/* NULL: no memory. Both AEADs default to the 12-byte nonce of QUIC. */
static EVP_CIPHER_CTX *context_of(ve_packet_key *packet_key) {
    if (packet_key->context == NULL) {
        EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        if (context == NULL || EVP_CipherInit_ex(context, packet_key->suite->aead, NULL, packet_key->key, NULL,
                                                 packet_key->encrypt) != 1) {
            EVP_CIPHER_CTX_free(context);
            return NULL;
        }
        packet_key->context = context;
        OPENSSL_cleanse(packet_key->key, sizeof packet_key->key);
    }
    return packet_key->context;
}

uint64_t ve_packets_opened;

int ve_encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx, const uint8_t *plain,
               size_t plain_length, const uint8_t *nonce, size_t nonce_length, const uint8_t *aad, size_t aad_length) {
    EVP_CIPHER_CTX *cipher = context_of(ctx->native_handle);
    int n = 0;
    (void)aead;
    (void)nonce_length;
    if (cipher == NULL || EVP_EncryptInit_ex(cipher, NULL, NULL, NULL, nonce) != 1 ||
        EVP_EncryptUpdate(cipher, NULL, &n, aad, (int)aad_length) != 1 ||
        EVP_EncryptUpdate(cipher, dest, &n, plain, (int)plain_length) != 1 ||
        EVP_EncryptFinal_ex(cipher, dest + n, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, VE_TAG_LENGTH, dest + plain_length) != 1) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

int ve_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx, const uint8_t *sealed,
               size_t sealed_length, const uint8_t *nonce, size_t nonce_length, const uint8_t *aad, size_t aad_length) {
    int n = 0;
    (void)aead;
    (void)nonce_length;
    if (sealed_length < VE_TAG_LENGTH) {
        return NGTCP2_ERR_DECRYPT;
    }
    EVP_CIPHER_CTX *cipher = context_of(ctx->native_handle);
    if (cipher == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    size_t length = sealed_length - VE_TAG_LENGTH;
    if (EVP_DecryptInit_ex(cipher, NULL, NULL, NULL, nonce) != 1 ||
        EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_SET_TAG, VE_TAG_LENGTH, (void *)(uintptr_t)(sealed + length)) != 1 ||
        EVP_DecryptUpdate(cipher, NULL, &n, aad, (int)aad_length) != 1 ||
        EVP_DecryptUpdate(cipher, dest, &n, sealed, (int)length) != 1 ||
        EVP_DecryptFinal_ex(cipher, dest + n, &n) != 1) {
        return NGTCP2_ERR_DECRYPT;
    }
    ve_packets_opened++;
    return 0;
}

int ve_hp_mask(uint8_t *dest, const ngtcp2_crypto_cipher *hp, const ngtcp2_crypto_cipher_ctx *ctx,
               const uint8_t *sample) {
    static const uint8_t zeros[NGTCP2_HP_MASKLEN];
    EVP_CIPHER_CTX *cipher = ctx->native_handle;
    const ve_suite *suite = hp->native_handle;
    uint8_t block[NGTCP2_HP_SAMPLELEN];
    int n = 0;
    if (suite->chacha) {
        /* The sample is counter and nonce (RFC 9001 section 5.4.4), in the order of OpenSSL's 16-byte IV. */
        if (EVP_EncryptInit_ex(cipher, NULL, NULL, NULL, sample) != 1 ||
            EVP_EncryptUpdate(cipher, dest, &n, zeros, sizeof zeros) != 1) {
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
        return 0;
    }
    if (EVP_EncryptUpdate(cipher, block, &n, sample, NGTCP2_HP_SAMPLELEN) !=
        1) { /* ECB: no initialization per packet */
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    memcpy(dest, block, NGTCP2_HP_MASKLEN);
    return 0;
}

/* Secrets and packet keys of the next key phase; header protection keys never change (RFC 9001 section 6.1). ngtcp2
 * calls this once when keys are installed and again after each update: it is not a count of updates. */
int ve_update_key(ngtcp2_conn *quic, uint8_t *rx_secret, uint8_t *tx_secret, ngtcp2_crypto_aead_ctx *rx, uint8_t *rx_iv,
                  ngtcp2_crypto_aead_ctx *tx, uint8_t *tx_iv, const uint8_t *current_rx, const uint8_t *current_tx,
                  size_t length, void *user) {
    const ve_suite *suite = ngtcp2_conn_get_crypto_ctx(quic)->aead.native_handle;
    uint8_t key[32];
    (void)user;
    ve_expand_label(suite->sha384, current_rx, length, "quic ku", rx_secret, length);
    ve_expand_label(suite->sha384, rx_secret, length, "quic key", key, suite->key_length);
    ve_expand_label(suite->sha384, rx_secret, length, "quic iv", rx_iv, VE_IV_LENGTH);
    rx->native_handle = ve_packet_key_new(suite, key, false);
    ve_expand_label(suite->sha384, current_tx, length, "quic ku", tx_secret, length);
    ve_expand_label(suite->sha384, tx_secret, length, "quic key", key, suite->key_length);
    ve_expand_label(suite->sha384, tx_secret, length, "quic iv", tx_iv, VE_IV_LENGTH);
    tx->native_handle = ve_packet_key_new(suite, key, true);
    OPENSSL_cleanse(key, sizeof key);
    if (rx->native_handle == NULL || tx->native_handle == NULL) {
        ve_packet_key_free(rx->native_handle);
        ve_packet_key_free(tx->native_handle);
        rx->native_handle = tx->native_handle = NULL;
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

void ve_delete_aead(ngtcp2_conn *quic, ngtcp2_crypto_aead_ctx *ctx, void *user) {
    (void)quic;
    (void)user;
    ve_packet_key_free(ctx->native_handle);
}

void ve_delete_cipher(ngtcp2_conn *quic, ngtcp2_crypto_cipher_ctx *ctx, void *user) {
    (void)quic;
    (void)user;
    EVP_CIPHER_CTX_free(ctx->native_handle);
}
