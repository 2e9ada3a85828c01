/* The type Transport: what the Python handshake calls inside feed(). */
#include "tls.h"

#include "connection.h"
#include "engine.h"
#include "module.h"
#include "varint.h"

static ve_connection *fed(PyObject *self) {
    ve_connection *connection = ((ve_transport *)self)->connection;
    if (connection == NULL || !connection->feeding) {
        PyErr_SetString(PyExc_RuntimeError, "a transport is usable only inside feed()");
        return NULL;
    }
    return connection;
}

static PyObject *library_error(int rv) {
    PyErr_SetString(PyExc_ValueError, ngtcp2_strerror(rv));
    return NULL;
}

static PyObject *local_parameters(PyObject *self, PyObject *unused) {
    uint8_t buffer[512];
    ve_connection *connection = fed(self);
    (void)unused;
    if (connection == NULL) {
        return NULL;
    }
    if (!connection->parameters_ready) {
        PyErr_SetString(PyExc_RuntimeError, "local_parameters() needs the Handshake write key to be installed");
        return NULL;
    }
    ngtcp2_ssize n = ngtcp2_conn_encode_local_transport_params(connection->quic, buffer, sizeof buffer);
    return n < 0 ? library_error((int)n) : PyBytes_FromStringAndSize((const char *)buffer, n);
}

enum { MAX_PARAMETERS = 64 }; /* twice as many as are registered; each is compared with all others */

/* RFC 9000 section 7.4: no parameter may occur twice, but ngtcp2 takes the last one. Parameters that cannot be
 * parsed are left to ngtcp2. */
static bool repeated(const uint8_t *data, size_t length) {
    uint64_t seen[MAX_PARAMETERS];
    uint64_t size;
    size_t count = 0;
    for (size_t offset = 0; offset < length; offset += (size_t)size) {
        if (count == MAX_PARAMETERS) {
            return true;
        }
        if (!ve_varint_at(data, length, &offset, &seen[count]) || !ve_varint_at(data, length, &offset, &size) ||
            size > length - offset) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            if (seen[i] == seen[count]) {
                return true;
            }
        }
        count++;
    }
    return false;
}

static PyObject *peer_parameters(PyObject *self, PyObject *data) {
    ve_connection *connection = fed(self);
    if (connection == NULL) {
        return NULL;
    }
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "peer_parameters(bytes)");
        return NULL;
    }
    const uint8_t *encoded = (const uint8_t *)PyBytes_AS_STRING(data);
    size_t length = (size_t)PyBytes_GET_SIZE(data);
    int rv = repeated(encoded, length)
                 ? NGTCP2_ERR_MALFORMED_TRANSPORT_PARAM
                 : ngtcp2_conn_decode_and_set_remote_transport_params(connection->quic, encoded, length);
    if (rv != 0) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, ngtcp2_err_infer_quic_transport_error_code(rv),
                           ngtcp2_strerror(rv));
        return library_error(rv);
    }
    connection->peer_parameters_set = true;
    Py_RETURN_NONE;
}

static int install(ve_connection *connection, bool write, long level, ve_suite *suite, const uint8_t *secret,
                   size_t length) {
    ngtcp2_conn *quic = connection->quic;
    ngtcp2_crypto_ctx context;
    ve_keys keys;
    int rv;
    ve_crypto_ctx(&context, suite);
    if (level == NGTCP2_ENCRYPTION_LEVEL_0RTT) {
        ngtcp2_conn_set_0rtt_crypto_ctx(quic, &context);
    } else if (ngtcp2_conn_get_crypto_ctx(quic)->aead.native_handle == NULL) {
        ngtcp2_conn_set_crypto_ctx(quic, &context);
    }
    if (ve_keys_derive(&keys, suite, secret, length, write) != 0) {
        return NGTCP2_ERR_NOMEM;
    }
    if (level == NGTCP2_ENCRYPTION_LEVEL_0RTT) {
        rv = ngtcp2_conn_install_0rtt_key(quic, &keys.aead, keys.iv, VE_IV_LENGTH, &keys.header);
    } else if (level == NGTCP2_ENCRYPTION_LEVEL_HANDSHAKE) {
        rv = write ? ngtcp2_conn_install_tx_handshake_key(quic, &keys.aead, keys.iv, VE_IV_LENGTH, &keys.header)
                   : ngtcp2_conn_install_rx_handshake_key(quic, &keys.aead, keys.iv, VE_IV_LENGTH, &keys.header);
        connection->parameters_ready |= write && rv == 0;
    } else {
        rv = write ? ngtcp2_conn_install_tx_key(quic, secret, length, &keys.aead, keys.iv, VE_IV_LENGTH, &keys.header)
                   : ngtcp2_conn_install_rx_key(quic, secret, length, &keys.aead, keys.iv, VE_IV_LENGTH, &keys.header);
    }
    if (rv != 0) {
        ve_keys_free(&keys); /* ngtcp2 owns the contexts only after success */
    }
    return rv;
}

/* Each key once, in an order that ngtcp2's assertions allow: an error in the handshake must not abort the worker. */
static bool expected_key(ve_connection *connection, bool write, long level) {
    unsigned bit = 1u << (level * 2 + write);
    bool known = level == NGTCP2_ENCRYPTION_LEVEL_HANDSHAKE || level == NGTCP2_ENCRYPTION_LEVEL_1RTT ||
                 (level == NGTCP2_ENCRYPTION_LEVEL_0RTT && !write);
    bool in_order = level != NGTCP2_ENCRYPTION_LEVEL_1RTT ||
                    (connection->parameters_ready && connection->peer_parameters_set &&
                     (write || connection->installed & 1u << (NGTCP2_ENCRYPTION_LEVEL_1RTT * 2 + 1)));
    if (!known || !in_order || connection->installed & bit) {
        return false;
    }
    connection->installed |= bit;
    return true;
}

static PyObject *install_key(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_connection *connection = fed(self);
    if (connection == NULL) {
        return NULL;
    }
    if (n != 4 || !PyBytes_Check(arguments[3])) {
        PyErr_SetString(PyExc_TypeError, "install_key(write, level, cipher_suite, secret)");
        return NULL;
    }
    int write = PyObject_IsTrue(arguments[0]);
    long level = PyLong_AsLong(arguments[1]);
    long id = PyLong_AsLong(arguments[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    ve_suite *suite = ve_suite_by_id(&connection->engine->module->crypto, (unsigned)id);
    size_t length = (size_t)PyBytes_GET_SIZE(arguments[3]);
    if (suite == NULL || length != (suite->sha384 ? 48u : 32u)) {
        PyErr_Format(PyExc_ValueError, "unknown cipher suite 0x%lx, or a secret of %zu bytes does not fit it", id,
                     length);
        return NULL;
    }
    if (level < 0 || level > NGTCP2_ENCRYPTION_LEVEL_0RTT || !expected_key(connection, write, level)) {
        PyErr_Format(PyExc_RuntimeError, "a key for level %ld (write %d) is not expected now", level, write);
        return NULL;
    }
    int rv = install(connection, write, level, suite, (const uint8_t *)PyBytes_AS_STRING(arguments[3]), length);
    if (rv != 0) {
        return library_error(rv);
    }
    Py_RETURN_NONE;
}

/* RFC 8446 section 4.1.3: a ServerHello with this random value is a HelloRetryRequest. */
static bool is_hello_retry_request(const uint8_t *data, size_t length) {
    static const uint8_t magic[32] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
                                      0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
                                      0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
    return length >= 38 && data[0] == 2 && memcmp(data + 6, magic, sizeof magic) == 0;
}

static PyObject *send_crypto(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_connection *connection = fed(self);
    if (connection == NULL) {
        return NULL;
    }
    if (n != 2 || !PyBytes_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "send_crypto(level, bytes)");
        return NULL;
    }
    long level = PyLong_AsLong(arguments[0]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(arguments[1]);
    size_t length = (size_t)PyBytes_GET_SIZE(arguments[1]);
    if (level < NGTCP2_ENCRYPTION_LEVEL_INITIAL || level > NGTCP2_ENCRYPTION_LEVEL_1RTT) {
        PyErr_Format(PyExc_ValueError, "no CRYPTO frames at level %ld", level);
        return NULL;
    }
    if (level == NGTCP2_ENCRYPTION_LEVEL_INITIAL && is_hello_retry_request(data, length)) {
        connection->engine->counters[VE_hello_retry_requests]++;
    }
    /* Count our flight as sent, though it is made while a packet is read. */
    connection->memory.reading = false;
    int rv = ngtcp2_conn_submit_crypto_data(connection->quic, (ngtcp2_encryption_level)level, data, length);
    connection->memory.reading = true;
    if (rv != 0) {
        return library_error(rv);
    }
    Py_RETURN_NONE;
}

static void transport_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *accepted(PyObject *self, void *unused) {
    const ve_connection *connection = ((ve_transport *)self)->connection;
    (void)unused;
    if (connection == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the handshake of this transport has ended");
        return NULL;
    }
    return Py_NewRef(connection->accepted);
}

static PyGetSetDef transport_attributes[] = {
    {"accepted", accepted, NULL, "What admit() answered for this connection.", NULL},
    {0},
};

static PyMethodDef transport_methods[] = {
    {"local_parameters", local_parameters, METH_NOARGS, "Our transport parameters, encoded."},
    {"peer_parameters", peer_parameters, METH_O, "The peer's transport parameters; ValueError when unacceptable."},
    {"install_key", (PyCFunction)(void (*)(void))install_key, METH_FASTCALL, "A traffic secret is known."},
    {"send_crypto", (PyCFunction)(void (*)(void))send_crypto, METH_FASTCALL, "TLS bytes for the peer."},
    {0},
};

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, "What a handshake asks of its connection (velocity_edge.quic.datagrams.ServerTransport)."},
    {Py_tp_methods, transport_methods},
    {Py_tp_getset, transport_attributes},
    {Py_tp_dealloc, transport_dealloc},
    {0, NULL},
};

PyType_Spec ve_transport_spec = {
    .name = "velocity_edge.quic.native._native.Transport",
    .basicsize = sizeof(ve_transport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = transport_slots,
};
