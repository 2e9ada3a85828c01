/* Connection IDs and reset tokens: issue, decode, verify. */
#include "cid.h"

#include <openssl/crypto.h>

#include "siphash.h"

enum { SELF_LENGTH = VE_CID_LENGTH - 1, TRAILER = 17, CHECK = 0 };

void ve_cids_init(ve_cids *cids) {
    memset(cids, 0, sizeof *cids);
    cids->seal_with = -1;
}

void ve_cids_free(ve_cids *cids) {
    for (int i = 0; i < VE_CID_CONFIGS; i++) {
        EVP_CIPHER_CTX_free(cids->configs[i].seal);
        EVP_CIPHER_CTX_free(cids->configs[i].open);
    }
    OPENSSL_cleanse(cids, sizeof *cids);
    cids->seal_with = -1;
}

/* Copy the attribute `name` of `object`, which must be 16 bytes. */
static int copy_key16(PyObject *object, const char *name, uint8_t out[16]) {
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL) {
        return -1;
    }
    bool good = PyBytes_Check(value) && PyBytes_GET_SIZE(value) == 16;
    if (good) {
        memcpy(out, PyBytes_AS_STRING(value), 16);
    } else {
        PyErr_Format(PyExc_ValueError, "%s must be 16 bytes", name);
    }
    Py_DECREF(value);
    return good ? 0 : -1;
}

static EVP_CIPHER_CTX *new_block(ve_crypto *crypto, const uint8_t *key, bool encrypt) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context != NULL && (EVP_CipherInit_ex(context, crypto->aes128, NULL, key, NULL, encrypt) != 1 ||
                            EVP_CIPHER_CTX_set_padding(context, 0) != 1)) {
        EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    return context;
}

static int add_config(ve_cids *cids, ve_crypto *crypto, PyObject *config) {
    uint8_t aes_key[16];
    PyObject *number = PyObject_GetAttrString(config, "config_id");
    long id = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (id < 0 || id >= VE_CID_CONFIGS) {
        PyErr_Format(PyExc_ValueError, "config id %ld is out of range 0..6", id);
        return -1;
    }
    ve_cid_config *slot = &cids->configs[id];
    if (copy_key16(config, "mask_key", slot->mask_key) != 0 || copy_key16(config, "aes_key", aes_key) != 0) {
        return -1;
    }
    if (slot->known) {
        PyErr_Format(PyExc_ValueError, "config id %ld appears twice", id);
        return -1;
    }
    slot->known = true;
    bool seals = cids->seal_with < 0;
    if (seals) {
        cids->seal_with = (int)id;
        slot->seal = new_block(crypto, aes_key, true);
    }
    slot->open = new_block(crypto, aes_key, false);
    OPENSSL_cleanse(aes_key, sizeof aes_key);
    if ((seals && slot->seal == NULL) || slot->open == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "libcrypto refused an AES-128 key");
        return -1;
    }
    return 0;
}

static int add_reset_key(ve_cids *cids, PyObject *number, PyObject *key) {
    long id = PyLong_AsLong(number);
    if (id == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (id < 0 || id >= VE_CID_CONFIGS || !PyBytes_Check(key) || PyBytes_GET_SIZE(key) < 1 ||
        PyBytes_GET_SIZE(key) > VE_MAX_RESET_KEY) {
        PyErr_SetString(PyExc_ValueError, "reset_keys must map config ids 0..6 to keys of 1..64 bytes");
        return -1;
    }
    cids->configs[id].reset_key_length = (size_t)PyBytes_GET_SIZE(key);
    memcpy(cids->configs[id].reset_key, PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key));
    return 0;
}

int ve_cids_use(ve_cids *cids, ve_crypto *crypto, PyObject *keys) {
    ve_cids fresh;
    int result = -1;
    Py_ssize_t position = 0;
    PyObject *number;
    PyObject *key;
    PyObject *reset_keys = NULL;
    PyObject *list = PyObject_GetAttrString(keys, "cid_configs");
    PyObject *configs = list == NULL ? NULL : PySequence_Fast(list, "cid_configs must be a sequence");
    ve_cids_init(&fresh);
    if (configs == NULL) {
        goto done;
    }
    if (PySequence_Fast_GET_SIZE(configs) == 0) {
        PyErr_SetString(PyExc_ValueError, "at least one CID configuration is required");
        goto done;
    }
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(configs); i++) {
        if (add_config(&fresh, crypto, PySequence_Fast_GET_ITEM(configs, i)) != 0) {
            goto done;
        }
    }
    reset_keys = PyObject_GetAttrString(keys, "reset_keys");
    if (reset_keys == NULL) {
        goto done;
    }
    if (!PyDict_Check(reset_keys)) {
        PyErr_SetString(PyExc_TypeError, "reset_keys must be a dict");
        goto done;
    }
    while (PyDict_Next(reset_keys, &position, &number, &key)) {
        if (add_reset_key(&fresh, number, key) != 0) {
            goto done;
        }
    }
    ve_cids_free(cids);
    *cids = fresh;
    ve_cids_init(&fresh);
    result = 0;
done:
    ve_cids_free(&fresh);
    Py_XDECREF(reset_keys);
    Py_XDECREF(configs);
    Py_XDECREF(list);
    return result;
}

int ve_cid_issue(const ve_cids *cids, uint32_t node_id, uint16_t worker_id, uint8_t out[VE_CID_LENGTH]) {
    const ve_cid_config *config;
    uint8_t plain[16] = {(uint8_t)(node_id >> 24),
                         (uint8_t)(node_id >> 16),
                         (uint8_t)(node_id >> 8),
                         (uint8_t)node_id,
                         (uint8_t)(worker_id >> 8),
                         (uint8_t)worker_id,
                         'V',
                         'E'};
    int n = 0;
    if (cids->seal_with < 0) {
        return -1;
    }
    config = &cids->configs[cids->seal_with];
    if (ve_random(plain + 8, 8) != 0 || EVP_EncryptUpdate(config->seal, out + 1, &n, plain, sizeof plain) != 1) {
        return -1;
    }
    uint64_t mask = ve_siphash13(config->mask_key, out + 1, 16);
    uint32_t trailer = ((uint32_t)worker_id << 8 | CHECK) ^ (uint32_t)(mask & 0xffffff);
    out[0] = (uint8_t)(cids->seal_with << 5 | SELF_LENGTH);
    out[TRAILER] = (uint8_t)(trailer >> 16);
    out[TRAILER + 1] = (uint8_t)(trailer >> 8);
    out[TRAILER + 2] = (uint8_t)trailer;
    return 0;
}

int ve_cid_worker(const ve_cids *cids, const uint8_t *cid, size_t length) {
    if (length != VE_CID_LENGTH || (cid[0] & 0x1f) != SELF_LENGTH || cid[0] >> 5 >= VE_CID_CONFIGS) {
        return -1;
    }
    const ve_cid_config *config = &cids->configs[cid[0] >> 5];
    if (!config->known) {
        return -1;
    }
    uint32_t trailer = (uint32_t)cid[TRAILER] << 16 | (uint32_t)cid[TRAILER + 1] << 8 | cid[TRAILER + 2];
    trailer ^= (uint32_t)(ve_siphash13(config->mask_key, cid + 1, 16) & 0xffffff);
    return (trailer & 0xff) == CHECK ? (int)(trailer >> 8) : -1;
}

int ve_cid_config_of(const ve_cids *cids, const ngtcp2_cid *cid) {
    return ve_cid_worker(cids, cid->data, cid->datalen) < 0 ? VE_FOREIGN_ID : cid->data[0] >> 5;
}

bool ve_cid_open(const ve_cids *cids, const uint8_t *cid, size_t length, uint32_t *node_id) {
    uint8_t plain[32]; /* EVP may write one more block */
    int n = 0;
    int worker = ve_cid_worker(cids, cid, length);
    if (worker < 0 || EVP_DecryptUpdate(cids->configs[cid[0] >> 5].open, plain, &n, cid + 1, 16) != 1 || n != 16) {
        return false;
    }
    *node_id = (uint32_t)plain[0] << 24 | (uint32_t)plain[1] << 16 | (uint32_t)plain[2] << 8 | plain[3];
    return (plain[4] << 8 | plain[5]) == worker && plain[6] == 'V' && plain[7] == 'E';
}

bool ve_cid_reset_token(const ve_cids *cids, const uint8_t *cid, size_t length, uint8_t token[VE_RESET_TOKEN_LENGTH]) {
    uint8_t mac[VE_MAX_DIGEST];
    if (length == 0 || cid[0] >> 5 >= VE_CID_CONFIGS || cids->configs[cid[0] >> 5].reset_key_length == 0) {
        return false;
    }
    const ve_cid_config *config = &cids->configs[cid[0] >> 5];
    ve_hmac(false, config->reset_key, config->reset_key_length, cid, length, mac);
    memcpy(token, mac, VE_RESET_TOKEN_LENGTH);
    return true;
}
