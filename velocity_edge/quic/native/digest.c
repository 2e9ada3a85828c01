/* HMAC and HKDF, on block functions that OpenSSL 3 calls deprecated: an EVP object or a one-shot HMAC() does a
 * provider fetch per call, which costs more than the hash itself, and a handshake makes about 40 calls. */
#include "crypto.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

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

/* Every output that QUIC needs fits in one block of HMAC. */
void ve_expand_label(bool sha384, const uint8_t *secret, size_t secret_length, const char *label, uint8_t *out,
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
    info[used++] = 1; /* block counter */
    ve_hmac(sha384, secret, secret_length, info, used, block);
    memcpy(out, block, length);
    OPENSSL_cleanse(block, sizeof block);
}
