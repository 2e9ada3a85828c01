/* TLS bytes of CRYPTO frames, as complete messages to Python. */
#include "tls.h"

#include "connection.h"
#include "engine.h"
#include "module.h"

/* TLS alerts (RFC 8446 section 6) */
enum { UNEXPECTED_MESSAGE = 10, DECODE_ERROR = 50, GO_ON = -1 };

static int alert(ve_connection *connection, int description) {
    ngtcp2_conn_set_tls_alert(connection->quic, (uint8_t)description);
    return NGTCP2_ERR_CRYPTO;
}

/* The first complete message creates the handshake: a packet that cannot be decrypted never reaches Python. 0, or -1
 * with an exception. */
static int begin(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_module *module = engine->module;
    ve_transport *transport = (ve_transport *)module->transport_type->tp_alloc(module->transport_type, 0);
    if (transport == NULL) {
        return -1;
    }
    transport->connection = connection;
    connection->transport = transport;
    connection->handshake = PyObject_CallMethodOneArg(engine->upcalls, module->name_handshake, (PyObject *)transport);
    return connection->handshake == NULL ? -1 : 0;
}

static int feed(ve_connection *connection, ngtcp2_encryption_level level, const uint8_t *message, size_t length) {
    ve_module *module = connection->engine->module;
    if (connection->handshake == NULL && begin(connection) != 0) {
        return ve_tls_failed(connection, VE_UPCALL_HANDSHAKE);
    }
    PyObject *level_object = PyLong_FromLong((long)level);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)message, (Py_ssize_t)length);
    PyObject *result = NULL;
    if (level_object != NULL && bytes != NULL) {
        PyObject *arguments[] = {connection->handshake, level_object, bytes};
        connection->feeding = true;
        result = PyObject_VectorcallMethod(module->name_feed, arguments, 3, NULL);
        connection->feeding = false;
    }
    Py_XDECREF(level_object);
    Py_XDECREF(bytes);
    long code = result == NULL ? 0 : PyLong_AsLong(result);
    Py_XDECREF(result);
    if (PyErr_Occurred()) {
        return ve_tls_failed(connection, VE_UPCALL_FEED);
    }
    if (connection->has_error) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    if (code != GO_ON) {
        if (code < 0 || code > 255) {
            PyErr_Format(PyExc_ValueError, "feed() returned %ld: expected -1 or an alert", code);
            return ve_tls_failed(connection, VE_UPCALL_FEED);
        }
        return alert(connection, (int)code);
    }
    PyObject *done = PyObject_GetAttr(connection->handshake, module->name_done);
    int finished = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (finished < 0) {
        return ve_tls_failed(connection, VE_UPCALL_FEED);
    }
    return finished ? ve_tls_finish(connection) : 0;
}

/* Keep an incomplete message. */
static int keep(ve_connection *connection, ngtcp2_encryption_level level, const uint8_t *data, size_t length) {
    if (length == 0) {
        return 0;
    }
    uint8_t *message = realloc(connection->message, connection->message_length + length);
    if (message == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    connection->message = message;
    memcpy(message + connection->message_length, data, length);
    connection->message_length += length;
    connection->message_level = (int)level;
    return 0;
}

/* Feed each complete message at the beginning of `data`; 0 or an error. `*used`: how many bytes that was. */
static int feed_whole(ve_connection *connection, ngtcp2_encryption_level level, const uint8_t *data, size_t length,
                      size_t *used) {
    *used = 0;
    while (length - *used >= 4) {
        const uint8_t *message = data + *used;
        size_t whole = 4 + ((size_t)message[1] << 16 | (size_t)message[2] << 8 | message[3]);
        if (whole > connection->engine->limits.max_crypto_bytes) {
            return alert(connection, DECODE_ERROR);
        }
        if (whole > length - *used) {
            return 0;
        }
        if (connection->handshake_completed) {
            return alert(connection, UNEXPECTED_MESSAGE);
        }
        int rv = feed(connection, level, message, whole);
        if (rv != 0) {
            return rv;
        }
        *used += whole;
    }
    return 0;
}

int ve_tls_receive(ngtcp2_conn *quic, ngtcp2_encryption_level level, uint64_t offset, const uint8_t *data,
                   size_t length, void *user) {
    ve_connection *connection = user;
    size_t used;
    int rv;
    (void)quic;
    (void)offset;
    /* After the client's Finished no message is allowed (RFC 9001 section 6), nor is a message that spans a key
       change. */
    if (connection->handshake_completed ||
        (connection->message_length > 0 && connection->message_level != (int)level)) {
        return alert(connection, UNEXPECTED_MESSAGE);
    }
    if (connection->message_length + length > connection->engine->limits.max_crypto_bytes) {
        return alert(connection, DECODE_ERROR);
    }
    if (connection->message_length == 0) {
        rv = feed_whole(connection, level, data, length, &used);
        return rv != 0 ? rv : keep(connection, level, data + used, length - used);
    }
    rv = keep(connection, level, data, length);
    if (rv != 0) {
        return rv;
    }
    rv = feed_whole(connection, level, connection->message, connection->message_length, &used);
    if (rv != 0) {
        return rv;
    }
    connection->message_length -= used;
    memmove(connection->message, connection->message + used, connection->message_length);
    if (connection->message_length == 0) {
        free(connection->message);
        connection->message = NULL;
    }
    return 0;
}
