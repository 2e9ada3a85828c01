/* The end of a handshake: HandshakeCompleted and NEW_TOKEN, or failure; then the Python side is released. */
#include "tls.h"

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "module.h"

void ve_tls_end(ve_connection *connection) {
    if (connection->transport != NULL) {
        connection->transport->connection = NULL;
        Py_CLEAR(connection->transport);
    }
    Py_CLEAR(connection->handshake);
    Py_CLEAR(connection->accepted);
}

int ve_tls_failed(ve_connection *connection, enum ve_upcall upcall) {
    if (connection->has_error) {
        /* A method of the transport raised because of what the peer sent: not an error of this server. */
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

/* Make HandshakeCompleted from the attributes of the handshake. 0, or -1 with an exception. */
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

/* Send a NEW_TOKEN token, so that the next connection needs no Retry. 0 or an ngtcp2 error. */
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
        return ve_tls_failed(connection, VE_UPCALL_TOKEN);
    }
    int rv = 0;
    if (PyBytes_GET_SIZE(token) > 0) {
        rv = ngtcp2_conn_submit_new_token(connection->quic, (const uint8_t *)PyBytes_AS_STRING(token),
                                          (size_t)PyBytes_GET_SIZE(token));
    }
    Py_DECREF(token);
    return rv;
}

int ve_tls_finish(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (!(connection->installed & 1u << (NGTCP2_ENCRYPTION_LEVEL_1RTT * 2))) {
        PyErr_SetString(PyExc_RuntimeError, "the handshake completed without a 1-RTT read key");
        return ve_tls_failed(connection, VE_UPCALL_FEED);
    }
    ngtcp2_conn_tls_handshake_completed(connection->quic);
    connection->handshake_completed = true;
    engine->half_open--;
    engine->counters[VE_handshakes_completed]++;
    if (completed_event(connection) != 0) {
        return ve_tls_failed(connection, VE_UPCALL_FEED);
    }
    ve_tls_end(connection);
    return offer_token(connection);
}
