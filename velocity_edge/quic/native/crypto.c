/* Ciphers and keys: cipher suites, packet protection keys, keys from secrets, Initial keys. */
#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

ve_packet_key *ve_packet_key_new(const ve_suite *suite, const uint8_t *key, bool encrypt) {
    ve_packet_key *packet_key = malloc(sizeof *packet_key);
    if (packet_key != NULL) {
        packet_key->suite = suite;
        packet_key->context = NULL;
        packet_key->encrypt = encrypt;
        memcpy(packet_key->key, key, suite->key_length);
    }
    return packet_key;
}

void ve_packet_key_free(ve_packet_key *packet_key) {
    if (packet_key != NULL) {
        EVP_CIPHER_CTX_free(packet_key->context);
        OPENSSL_cleanse(packet_key, sizeof *packet_key);
        free(packet_key);
    }
}

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
    crypto->retry = ve_packet_key_new(&crypto->suites[0], retry_key, true);
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
    ve_packet_key_free(crypto->retry);
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
    ve_expand_label(suite->sha384, secret, length, "quic key", key, suite->key_length);
    ve_expand_label(suite->sha384, secret, length, "quic iv", keys->iv, VE_IV_LENGTH);
    ve_expand_label(suite->sha384, secret, length, "quic hp", header, suite->key_length);
    keys->aead.native_handle = ve_packet_key_new(suite, key, encrypt);
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
    ve_packet_key_free(keys->aead.native_handle);
    EVP_CIPHER_CTX_free(keys->header.native_handle);
    OPENSSL_cleanse(keys, sizeof *keys);
}

int ve_initial_keys(ve_keys *keys, ve_crypto *crypto, const uint8_t *dcid, size_t length, bool server) {
    static const uint8_t salt[20] = {0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17,
                                     0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a};
    uint8_t initial[VE_MAX_DIGEST];
    uint8_t secret[32];
    ve_hmac(false, salt, sizeof salt, dcid, length, initial);
    ve_expand_label(false, initial, 32, server ? "server in" : "client in", secret, sizeof secret);
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
