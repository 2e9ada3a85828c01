/* Our connection ids and reset tokens: the C twin of velocity_edge/wire/cid.py, which documents the format.
 *
 * Ownership: a ve_cids belongs to its engine and is replaced as a whole by use_keys(); ids already issued stay as they
 * are.
 */
#ifndef VE_CID_H
#define VE_CID_H

#include "crypto.h"

#define VE_MAX_RESET_KEY 64

typedef struct ve_cid_config {
    bool known;
    uint8_t mask_key[16];
    EVP_CIPHER_CTX *seal; /* only of the one that seals */
    EVP_CIPHER_CTX *open;
    uint8_t reset_key[VE_MAX_RESET_KEY];
    size_t reset_key_length; /* 0: none */
} ve_cid_config;

typedef struct ve_cids {
    ve_cid_config configs[VE_CID_CONFIGS];
    int seal_with; /* -1 before the first use_keys() */
} ve_cids;

void ve_cids_init(ve_cids *cids);
void ve_cids_free(ve_cids *cids);

/* EngineKeys of datagrams.py. 0, or -1 with an exception and `cids` unchanged. */
int ve_cids_use(ve_cids *cids, ve_crypto *crypto, PyObject *keys);

/* A fresh id of this worker. 0 or -1. */
int ve_cid_issue(const ve_cids *cids, uint32_t node_id, uint16_t worker_id, uint8_t out[VE_CID_LENGTH]);

/* The configuration of an id that may be ours (the client came back with it from a Retry); VE_FOREIGN_ID: it is not. */
int ve_cid_config_of(const ve_cids *cids, const ngtcp2_cid *cid);

/* The worker id in the trailer, or -1: what the kernel programs see. */
int ve_cid_worker(const ve_cids *cids, const uint8_t *cid, size_t length);

/* True when the whole id is ours, and then whose node's: trailer and block agree. */
bool ve_cid_open(const ve_cids *cids, const uint8_t *cid, size_t length, uint32_t *node_id);

/* HMAC-SHA256(reset key of the id's configuration, id)[:16]. False when we have no key for it. */
bool ve_cid_reset_token(const ve_cids *cids, const uint8_t *cid, size_t length, uint8_t token[VE_RESET_TOKEN_LENGTH]);

#endif
