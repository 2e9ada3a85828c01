/* Our connection IDs and stateless reset tokens: the same as velocity_edge/wire/cid.py, which documents the format.
 *
 * Ownership: a ve_cids belongs to its engine. use_keys() replaces it as a whole; IDs that were issued stay valid.
 */
#ifndef VE_CID_H
#define VE_CID_H

#include "crypto.h"

#define VE_MAX_RESET_KEY 64

typedef struct ve_cid_config {
    bool known;
    uint8_t mask_key[16];
    EVP_CIPHER_CTX *seal; /* only in the configuration that issues new IDs */
    EVP_CIPHER_CTX *open;
    uint8_t reset_key[VE_MAX_RESET_KEY];
    size_t reset_key_length; /* 0: no key */
} ve_cid_config;

typedef struct ve_cids {
    ve_cid_config configs[VE_CID_CONFIGS];
    int seal_with; /* config id that issues new IDs; -1 before the first use_keys() */
} ve_cids;

void ve_cids_init(ve_cids *cids);
void ve_cids_free(ve_cids *cids);

/* Read an EngineKeys (datagrams.py). 0, or -1 with an exception and `cids` unchanged. */
int ve_cids_use(ve_cids *cids, ve_crypto *crypto, PyObject *keys);

/* Make a new ID of this worker. 0 or -1. */
int ve_cid_issue(const ve_cids *cids, uint32_t node_id, uint16_t worker_id, uint8_t out[VE_CID_LENGTH]);

/* The configuration of an ID that may be ours (after a Retry the client uses the ID that we chose there), or
 * VE_FOREIGN_ID. */
int ve_cid_config_of(const ve_cids *cids, const ngtcp2_cid *cid);

/* The worker id in the trailer, or -1. The packet programs check no more than this. */
int ve_cid_worker(const ve_cids *cids, const uint8_t *cid, size_t length);

/* True when trailer and encrypted block agree: we issued the ID. Then `node_id` is the node that did. */
bool ve_cid_open(const ve_cids *cids, const uint8_t *cid, size_t length, uint32_t *node_id);

/* HMAC-SHA256(reset key of the ID's configuration, ID)[:16]. False: there is no key for it. */
bool ve_cid_reset_token(const ve_cids *cids, const uint8_t *cid, size_t length, uint8_t token[VE_RESET_TOKEN_LENGTH]);

#endif
