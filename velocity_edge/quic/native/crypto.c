#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

static ve_packet_key *new_packet_key(const ve_suite *suite, const uint8_t *key, bool encrypt);
static void free_packet_key(ve_packet_key *packet_key);

int ve_crypto_init(ve_crypto *crypto) {
    static const struct {
        unsigned id;
        const char *aead;
        const char *header;
        bool sha384;
        bool chacha;
        size_t key_length;
        uint64_t max_encryption;
        uint64_t max_decryption_failure;
    } known[VE_SUITES] = {
        {0x1301, "AES-128-GCM", "AES-128-ECB", false, false, 16, 1ull << 23, 1ull << 52},
        {0x1302, "AES-256-GCM", "AES-256-ECB", true, false, 32, 1ull << 23, 1ull << 52},
        {0x1303, "ChaCha20-Poly1305", "ChaCha20", false, true, 32, UINT64_MAX, 1ull << 36},
    };
    /* RFC 9001 section 5.8: the key of the Retry integrity tag is public. */
    static const uint8_t retry_key[16] = {0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a,
                                          0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e};
    memset(crypto, 0, sizeof *crypto);
    for (size_t i = 0; i < VE_SUITES; i++) {
        ve_suite *suite = &crypto->suites[i];
        suite->id = known[i].id;
        suite->sha384 = known[i].sha384;
        suite->chacha = known[i].chacha;
        suite->key_length = known[i].key_length;
        suite->max_encryption = known[i].max_encryption;
        suite->max_decryption_failure = known[i].max_decryption_failure;
        suite->aead = EVP_CIPHER_fetch(NULL, known[i].aead, NULL);
        suite->header = EVP_CIPHER_fetch(NULL, known[i].header, NULL);
        if (suite->aead == NULL || suite->header == NULL) {
            ve_crypto_free(crypto);
            return -1;
        }
    }
    crypto->aes128 = EVP_CIPHER_fetch(NULL, "AES-128-ECB", NULL);
    crypto->retry = new_packet_key(&crypto->suites[0], retry_key, true);
    if (crypto->aes128 == NULL || crypto->retry == NULL) {
        ve_crypto_free(crypto);
        return -1;
    }
    return 0;
}

void ve_crypto_free(ve_crypto *crypto) {
    for (size_t i = 0; i < VE_SUITES; i++) {
        EVP_CIPHER_free(crypto->suites[i].aead);
        EVP_CIPHER_free(crypto->suites[i].header);
    }
    EVP_CIPHER_free(crypto->aes128);
    free_packet_key(crypto->retry);
    memset(crypto, 0, sizeof *crypto);
}

ve_suite *ve_suite_by_id(ve_crypto *crypto, unsigned id) {
    for (size_t i = 0; i < VE_SUITES; i++) {
        if (crypto->suites[i].id == id) {
            return &crypto->suites[i];
        }
    }
    return NULL;
}

int ve_random(uint8_t *out, size_t length) {
    return RAND_bytes(out, (int)length) == 1 ? 0 : -1;
}

/* --- HMAC and HKDF ---------------------------------------------------------------------------------------------------
 * On the block functions, which OpenSSL 3 calls deprecated: an EVP object or a one-shot HMAC() pays a provider fetch
 * per call, more than the hash itself costs, and a handshake needs about 40 of them. */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#define VE_DEFINE_HMAC(NAME, CTX, INIT, UPDATE, FINAL, BLOCK, DIGEST) \
    static void NAME(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length, uint8_t *out) { \
        uint8_t pad[BLOCK]; \
        uint8_t inner[DIGEST]; \
        CTX hash; \
        memset(pad, 0x36, sizeof pad); \
        for (size_t i = 0; i < key_length; i++) { \
            pad[i] ^= key[i]; \
        } \
        INIT(&hash); \
        UPDATE(&hash, pad, sizeof pad); \
        UPDATE(&hash, data, length); \
        FINAL(inner, &hash); \
        for (size_t i = 0; i < sizeof pad; i++) { \
            pad[i] ^= 0x36 ^ 0x5c; \
        } \
        INIT(&hash); \
        UPDATE(&hash, pad, sizeof pad); \
        UPDATE(&hash, inner, sizeof inner); \
        FINAL(out, &hash); \
        OPENSSL_cleanse(pad, sizeof pad); \
        OPENSSL_cleanse(&hash, sizeof hash); \
    }

VE_DEFINE_HMAC(hmac_sha256, SHA256_CTX, SHA256_Init, SHA256_Update, SHA256_Final, 64, 32)
VE_DEFINE_HMAC(hmac_sha384, SHA512_CTX, SHA384_Init, SHA384_Update, SHA384_Final, 128, 48)
#pragma GCC diagnostic pop

size_t ve_hmac(bool sha384, const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
               uint8_t out[VE_MAX_DIGEST]) {
    if (sha384) {
        hmac_sha384(key, key_length, data, length, out);
        return 48;
    }
    hmac_sha256(key, key_length, data, length, out);
    return 32;
}

/* HKDF-Expand-Label with an empty context (RFC 8446 section 7.1). Every output of QUIC fits in one block of HMAC. */
static void expand_label(bool sha384, const uint8_t *secret, size_t secret_length, const char *label, uint8_t *out,
                         size_t length) {
    uint8_t info[32];
    uint8_t block[VE_MAX_DIGEST];
    size_t label_length = strlen(label);
    size_t used = 0;
    info[used++] = 0;
    info[used++] = (uint8_t)length;
    info[used++] = (uint8_t)(6 + label_length);
    memcpy(info + used, "tls13 ", 6);
    used += 6;
    memcpy(info + used, label, label_length);
    used += label_length;
    info[used++] = 0; /* no context */
    info[used++] = 1; /* the first block of HKDF */
    ve_hmac(sha384, secret, secret_length, info, used, block);
    memcpy(out, block, length);
    OPENSSL_cleanse(block, sizeof block);
}

/* --- keys --- */

/* A packet key. libcrypto's context (1.2 KB) is made when the key is first used: an idle connection always holds the
 * next generation, and most never use it. */
struct ve_packet_key {
    const ve_suite *suite;
    EVP_CIPHER_CTX *context;
    bool encrypt;
    uint8_t key[32]; /* until the context has it */
};

static ve_packet_key *new_packet_key(const ve_suite *suite, const uint8_t *key, bool encrypt) {
    ve_packet_key *packet_key = malloc(sizeof *packet_key);
    if (packet_key != NULL) {
        packet_key->suite = suite;
        packet_key->context = NULL;
        packet_key->encrypt = encrypt;
        memcpy(packet_key->key, key, suite->key_length);
    }
    return packet_key;
}

static void free_packet_key(ve_packet_key *packet_key) {
    if (packet_key != NULL) {
        EVP_CIPHER_CTX_free(packet_key->context);
        OPENSSL_cleanse(packet_key, sizeof *packet_key);
        free(packet_key);
    }
}

/* NULL: no memory. Both AEADs default to the 12-byte nonce that QUIC uses. */
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

static EVP_CIPHER_CTX *new_header(const ve_suite *suite, const uint8_t *key) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context != NULL && (EVP_EncryptInit_ex(context, suite->header, NULL, key, NULL) != 1 ||
                            EVP_CIPHER_CTX_set_padding(context, 0) != 1)) {
        EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    return context;
}

int ve_keys_derive(ve_keys *keys, const ve_suite *suite, const uint8_t *secret, size_t length, bool encrypt) {
    uint8_t key[32];
    uint8_t header[32];
    expand_label(suite->sha384, secret, length, "quic key", key, suite->key_length);
    expand_label(suite->sha384, secret, length, "quic iv", keys->iv, VE_IV_LENGTH);
    expand_label(suite->sha384, secret, length, "quic hp", header, suite->key_length);
    keys->aead.native_handle = new_packet_key(suite, key, encrypt);
    keys->header.native_handle = new_header(suite, header);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(header, sizeof header);
    if (keys->aead.native_handle == NULL || keys->header.native_handle == NULL) {
        ve_keys_free(keys);
        return -1;
    }
    return 0;
}

void ve_keys_free(ve_keys *keys) {
    free_packet_key(keys->aead.native_handle);
    EVP_CIPHER_CTX_free(keys->header.native_handle);
    OPENSSL_cleanse(keys, sizeof *keys);
}

int ve_initial_keys(ve_keys *keys, ve_crypto *crypto, const uint8_t *dcid, size_t length, bool server) {
    static const uint8_t salt[20] = {0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17,
                                     0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a};
    uint8_t initial[VE_MAX_DIGEST];
    uint8_t secret[32];
    ve_hmac(false, salt, sizeof salt, dcid, length, initial);
    expand_label(false, initial, 32, server ? "server in" : "client in", secret, sizeof secret);
    return ve_keys_derive(keys, &crypto->suites[0], secret, sizeof secret, server);
}

void ve_crypto_ctx(ngtcp2_crypto_ctx *context, ve_suite *suite) {
    memset(context, 0, sizeof *context);
    context->aead.native_handle = suite;
    context->aead.max_overhead = VE_TAG_LENGTH;
    context->md.native_handle = suite;
    context->hp.native_handle = suite;
    context->max_encryption = suite->max_encryption;
    context->max_decryption_failure = suite->max_decryption_failure;
}

/* --- callbacks --- */

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
        /* The sample is counter and nonce at once (RFC 9001 section 5.4.4), in the layout of OpenSSL's 16-byte IV. */
        if (EVP_EncryptInit_ex(cipher, NULL, NULL, NULL, sample) != 1 ||
            EVP_EncryptUpdate(cipher, dest, &n, zeros, sizeof zeros) != 1) {
            return NGTCP2_ERR_CALLBACK_FAILURE;
        }
        return 0;
    }
    if (EVP_EncryptUpdate(cipher, block, &n, sample, NGTCP2_HP_SAMPLELEN) != 1) { /* ECB: no set-up per packet */
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    memcpy(dest, block, NGTCP2_HP_MASKLEN);
    return 0;
}

/* The next generation of secrets and packet keys; header protection keys never change (RFC 9001 section 6.1). ngtcp2
 * asks once when a connection's keys are installed and again after each update, so this is not a count of updates. */
int ve_update_key(ngtcp2_conn *quic, uint8_t *rx_secret, uint8_t *tx_secret, ngtcp2_crypto_aead_ctx *rx, uint8_t *rx_iv,
                  ngtcp2_crypto_aead_ctx *tx, uint8_t *tx_iv, const uint8_t *current_rx, const uint8_t *current_tx,
                  size_t length, void *user) {
    const ve_suite *suite = ngtcp2_conn_get_crypto_ctx(quic)->aead.native_handle;
    uint8_t key[32];
    (void)user;
    expand_label(suite->sha384, current_rx, length, "quic ku", rx_secret, length);
    expand_label(suite->sha384, rx_secret, length, "quic key", key, suite->key_length);
    expand_label(suite->sha384, rx_secret, length, "quic iv", rx_iv, VE_IV_LENGTH);
    rx->native_handle = new_packet_key(suite, key, false);
    expand_label(suite->sha384, current_tx, length, "quic ku", tx_secret, length);
    expand_label(suite->sha384, tx_secret, length, "quic key", key, suite->key_length);
    expand_label(suite->sha384, tx_secret, length, "quic iv", tx_iv, VE_IV_LENGTH);
    tx->native_handle = new_packet_key(suite, key, true);
    OPENSSL_cleanse(key, sizeof key);
    if (rx->native_handle == NULL || tx->native_handle == NULL) {
        free_packet_key(rx->native_handle);
        free_packet_key(tx->native_handle);
        rx->native_handle = tx->native_handle = NULL;
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

void ve_delete_aead(ngtcp2_conn *quic, ngtcp2_crypto_aead_ctx *ctx, void *user) {
    (void)quic;
    (void)user;
    free_packet_key(ctx->native_handle);
}

void ve_delete_cipher(ngtcp2_conn *quic, ngtcp2_crypto_cipher_ctx *ctx, void *user) {
    (void)quic;
    (void)user;
    EVP_CIPHER_CTX_free(ctx->native_handle);
}
