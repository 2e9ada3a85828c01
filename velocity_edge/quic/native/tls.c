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

static int internal_error(ve_connection *connection, enum ve_upcall upcall) {
    if (connection->has_error) {
        /* A method of the transport raised because of what the peer did: nothing that an operator could mend. */
        PyErr_Clear();
    } else {
        ve_engine_upcall_failed(connection->engine, upcall);
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
    }
    return NGTCP2_ERR_CALLBACK_FAILURE;
}

static PyObject *text_attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value != NULL && !PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "Handshake.%s is not str", name);
        Py_CLEAR(value);
    }
    return value;
}

static void count_group(ve_engine *engine, long group) {
    switch (group) {
    case 0x11ec:
        engine->counters[VE_handshakes_x25519mlkem768]++;
        break;
    case 0x11eb:
        engine->counters[VE_handshakes_secp256r1mlkem768]++;
        break;
    case 0x11ed:
        engine->counters[VE_handshakes_secp384r1mlkem1024]++;
        break;
    default:
        engine->counters[VE_handshakes_classical]++;
    }
}

/* HandshakeCompleted, from what the Handshake says about itself. 0, or -1 with an exception. */
static int completed_event(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    PyObject *handshake = connection->handshake;
    const ngtcp2_path *path = ngtcp2_conn_get_path(connection->quic);
    ve_address peer = {.length = path->remote.addrlen};
    memcpy(&peer.any, path->remote.addr, path->remote.addrlen);
    PyObject *group = PyObject_GetAttrString(handshake, "group");
    PyObject *resumed = PyObject_GetAttrString(handshake, "resumed");
    if (group != NULL) {
        count_group(engine, PyLong_AsLong(group));
    }
    if (resumed == Py_True) {
        engine->counters[VE_handshakes_resumed]++;
    }
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        ve_address_to_python(&peer),
        text_attribute(handshake, "alpn"),
        group,
        PyObject_GetAttrString(handshake, "cipher_suite"),
        PyObject_GetAttrString(handshake, "signature_scheme"),
        text_attribute(handshake, "server_name"),
        resumed,
        PyObject_GetAttrString(handshake, "early_data_accepted"),
        PyLong_FromUnsignedLongLong(engine->now_ns - connection->opened_ns),
    };
    PyObject *event = ve_record_new(&engine->module->handshake_completed, values);
    if (event == NULL || PyErr_Occurred()) {
        Py_XDECREF(event);
        return -1;
    }
    ve_engine_event(engine, event);
    return 0;
}

/* A NEW_TOKEN token, so that the next visit needs no Retry. 0 or an ngtcp2 error. */
static int offer_token(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    const ngtcp2_path *path = ngtcp2_conn_get_path(connection->quic);
    ve_address peer = {.length = path->remote.addrlen};
    memcpy(&peer.any, path->remote.addr, path->remote.addrlen);
    PyObject *address = ve_address_to_python(&peer);
    PyObject *token = address == NULL
                          ? NULL
                          : PyObject_CallMethodOneArg(engine->upcalls, engine->module->name_address_token, address);
    Py_XDECREF(address);
    if (token != NULL && !PyBytes_Check(token)) {
        PyErr_SetString(PyExc_TypeError, "address_token() did not return bytes");
        Py_CLEAR(token);
    }
    if (token == NULL) {
        return internal_error(connection, VE_UPCALL_TOKEN);
    }
    int rv = 0;
    if (PyBytes_GET_SIZE(token) > 0) {
        rv = ngtcp2_conn_submit_new_token(connection->quic, (const uint8_t *)PyBytes_AS_STRING(token),
                                          (size_t)PyBytes_GET_SIZE(token));
    }
    Py_DECREF(token);
    return rv;
}

static int finish(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (!(connection->installed & 1u << (NGTCP2_ENCRYPTION_LEVEL_1RTT * 2))) {
        PyErr_SetString(PyExc_RuntimeError, "the handshake is done without a 1-RTT read key");
        return internal_error(connection, VE_UPCALL_FEED);
    }
    ngtcp2_conn_tls_handshake_completed(connection->quic);
    connection->handshake_completed = true;
    engine->half_open--;
    engine->counters[VE_handshakes_completed]++;
    if (completed_event(connection) != 0) {
        return internal_error(connection, VE_UPCALL_FEED);
    }
    ve_tls_end(connection);
    return offer_token(connection);
}

/* The first whole message makes the handshake: what can't be decrypted never reaches Python. 0, or -1 with an
 * exception. */
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
        return internal_error(connection, VE_UPCALL_HANDSHAKE);
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
        return internal_error(connection, VE_UPCALL_FEED);
    }
    if (connection->has_error) {
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    if (code != GO_ON) {
        if (code < 0 || code > 255) {
            PyErr_Format(PyExc_ValueError, "feed() returned %ld: neither -1 nor an alert", code);
            return internal_error(connection, VE_UPCALL_FEED);
        }
        return alert(connection, (int)code);
    }
    PyObject *done = PyObject_GetAttr(connection->handshake, module->name_done);
    int finished = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (finished < 0) {
        return internal_error(connection, VE_UPCALL_FEED);
    }
    return finished ? finish(connection) : 0;
}

/* Keep what is not a whole message yet. */
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

/* Feed every whole message at the beginning of `data`; 0 or an error. `*used` is how much that was. */
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
    /* After the client's Finished no message is legal (RFC 9001 section 6), nor is one that a change of keys cuts. */
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

void ve_tls_end(ve_connection *connection) {
    if (connection->transport != NULL) {
        connection->transport->connection = NULL;
        Py_CLEAR(connection->transport);
    }
    Py_CLEAR(connection->handshake);
    Py_CLEAR(connection->accepted);
}
