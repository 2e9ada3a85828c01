/* Packet protection for ngtcp2 on libcrypto alone: AEAD, header protection, HKDF, Initial keys, key update.
 *
 * Ownership: a ve_crypto is part of the module's state and outlives every engine. A ve_keys owns its two contexts
 * until ngtcp2 accepts them (ngtcp2_conn_install_*); from then on ngtcp2 releases them with ve_delete_aead and
 * ve_delete_cipher.
 *
 * ngtcp2's "aead", "hp" and "md" point to a ve_suite, its AEAD "ctx" to a ve_packet_key, its header protection "ctx"
 * to an EVP_CIPHER_CTX that already has the key: only the nonce is set per packet.
 */
#ifndef VE_CRYPTO_H
#define VE_CRYPTO_H

#include "base.h"

#include <openssl/evp.h>

#define VE_SUITES 3
#define VE_IV_LENGTH 12
#define VE_TAG_LENGTH 16
#define VE_MAX_DIGEST 48

typedef struct ve_suite {
    unsigned id; /* TLS cipher suite */
    bool sha384;
    bool chacha;
    size_t key_length;
    uint64_t max_encryption; /* RFC 9001 section 6.6 */
    uint64_t max_decryption_failure;
    EVP_CIPHER *aead; /* fetched once: an implicit fetch for each key costs microseconds in OpenSSL 3.0 */
    EVP_CIPHER *header;
} ve_suite;

/* A packet protection key. libcrypto's context (1.2 KB) is allocated when the key is first used: ngtcp2 always holds
 * the keys of the next key phase, and most connections never use them. */
typedef struct ve_packet_key {
    const ve_suite *suite;
    EVP_CIPHER_CTX *context;
    bool encrypt;
    uint8_t key[32]; /* until the context is allocated */
} ve_packet_key;

typedef struct ve_crypto {
    ve_suite suites[VE_SUITES];
    EVP_CIPHER *aes128; /* ECB, for connection IDs */
    ve_packet_key *retry;
} ve_crypto;

typedef struct ve_keys {
    ngtcp2_crypto_aead_ctx aead;
    ngtcp2_crypto_cipher_ctx header;
    uint8_t iv[VE_IV_LENGTH];
} ve_keys;

/* --- crypto.c --- */

/* 0, or -1 when libcrypto lacks a cipher. */
int ve_crypto_init(ve_crypto *crypto);
void ve_crypto_free(ve_crypto *crypto);

/* NULL: unknown suite. */
ve_suite *ve_suite_by_id(ve_crypto *crypto, unsigned id);

/* Derive key, IV and header protection key from a traffic secret. 0, or -1 (nothing is allocated). */
int ve_keys_derive(ve_keys *keys, const ve_suite *suite, const uint8_t *secret, size_t length, bool encrypt);
void ve_keys_free(ve_keys *keys);

/* Initial keys of the server (to encrypt) or the client, for the client's first Destination Connection ID (RFC 9001
 * section 5.2). */
int ve_initial_keys(ve_keys *keys, ve_crypto *crypto, const uint8_t *dcid, size_t length, bool server);

void ve_crypto_ctx(ngtcp2_crypto_ctx *context, ve_suite *suite);

int ve_random(uint8_t *out, size_t length);

/* NULL: no memory. */
ve_packet_key *ve_packet_key_new(const ve_suite *suite, const uint8_t *key, bool encrypt);
void ve_packet_key_free(ve_packet_key *packet_key);

/* --- digest.c --- */

/* HMAC-SHA256 or HMAC-SHA384; the key is at most one block (64, 128 bytes). Returns the length of the digest. */
size_t ve_hmac(bool sha384, const uint8_t *key, size_t key_length, const uint8_t *data, size_t length,
               uint8_t out[VE_MAX_DIGEST]);

/* HKDF-Expand-Label with an empty context (RFC 8446 section 7.1), for outputs of at most one HMAC block. */
void ve_expand_label(bool sha384, const uint8_t *secret, size_t secret_length, const char *label, uint8_t *out,
                     size_t length);

/* --- protection.c: ngtcp2 callbacks --- */

int ve_encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx, const uint8_t *plain,
               size_t plain_length, const uint8_t *nonce, size_t nonce_length, const uint8_t *aad, size_t aad_length);
/* Number of packets of all connections that were authentic. ngtcp2 does not report it: compare before and after a
 * read. */
extern uint64_t ve_packets_opened;
int ve_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx, const uint8_t *sealed,
               size_t sealed_length, const uint8_t *nonce, size_t nonce_length, const uint8_t *aad, size_t aad_length);
int ve_hp_mask(uint8_t *dest, const ngtcp2_crypto_cipher *hp, const ngtcp2_crypto_cipher_ctx *ctx,
               const uint8_t *sample);
int ve_update_key(ngtcp2_conn *quic, uint8_t *rx_secret, uint8_t *tx_secret, ngtcp2_crypto_aead_ctx *rx, uint8_t *rx_iv,
                  ngtcp2_crypto_aead_ctx *tx, uint8_t *tx_iv, const uint8_t *current_rx, const uint8_t *current_tx,
                  size_t length, void *user);
void ve_delete_aead(ngtcp2_conn *quic, ngtcp2_crypto_aead_ctx *ctx, void *user);
void ve_delete_cipher(ngtcp2_conn *quic, ngtcp2_crypto_cipher_ctx *ctx, void *user);

#endif
