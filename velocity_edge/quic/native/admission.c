/* Admission: ask Python, then open a connection, send a Retry or a refusal, or drop the datagram. */
#include "demux.h"

#include "events.h"
#include "life.h"
#include "module.h"

enum { MUST_RETRY_DSCP = 0x2f, ANSWER_BYTES = 1200, MAX_REASON_BYTES = 512 };

static bool bytes_attribute(PyObject *object, const char *name, PyObject **out) {
    *out = PyObject_GetAttrString(object, name);
    if (*out != NULL && !PyBytes_Check(*out)) {
        PyErr_Format(PyExc_TypeError, "%s is not bytes", name);
        Py_CLEAR(*out);
    }
    return *out != NULL;
}

static void admission_failed(ve_engine *engine) {
    ve_engine_upcall_failed(engine, VE_UPCALL_ADMIT);
    ve_verdict(engine, VE_verdict_dropped_internal);
}

/* False: a Retry is required first. */
static bool accept_it(ve_engine *engine, const ve_train *train, const ve_first_packet *first, PyObject *decision,
                      const uint8_t *data, size_t length) {
    bool opened = true;
    ve_address local;
    ngtcp2_path path;
    PyObject *original = PyObject_GetAttrString(decision, "original_dcid");
    PyObject *validated = PyObject_GetAttrString(decision, "address_validated");
    ve_opening opening = {.path = &path,
                          .version = first->version,
                          .dcid = first->dcid,
                          .dcid_length = first->dcid_length,
                          .scid = first->scid,
                          .scid_length = first->scid_length,
                          .token = first->token,
                          .token_length = first->token_length,
                          .validated = validated == Py_True,
                          .accepted = decision};
    if (original != NULL && original != Py_None) {
        if (!PyBytes_Check(original) || PyBytes_GET_SIZE(original) > VE_MAX_CID) {
            PyErr_SetString(PyExc_TypeError, "Accept.original_dcid must be None or up to 20 bytes");
        } else {
            opening.original_dcid = (const uint8_t *)PyBytes_AS_STRING(original);
            opening.original_dcid_length = (size_t)PyBytes_GET_SIZE(original);
            opening.validated = true;
        }
    }
    if (PyErr_Occurred()) {
        admission_failed(engine);
    } else {
        ve_make_path(&path, &local, train);
        ve_connection *connection = ve_connection_new(engine, &opening);
        if (connection == NULL) {
            ve_verdict(engine, VE_verdict_dropped_internal);
        } else {
            opened = ve_connection_read_first(connection, &path, train->tos, data, length);
            if (opened) {
                ve_verdict(engine, VE_verdict_accepted);
            }
        }
    }
    Py_XDECREF(original);
    Py_XDECREF(validated);
    return opened;
}

static void retry_it(ve_engine *engine, const ve_train *train, const ve_first_packet *first, PyObject *decision) {
    uint8_t packet[ANSWER_BYTES];
    PyObject *scid = NULL;
    PyObject *token = NULL;
    if (!bytes_attribute(decision, "scid", &scid) || !bytes_attribute(decision, "token", &token) ||
        PyBytes_GET_SIZE(scid) > VE_MAX_CID) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "Retry.scid has more than 20 bytes");
        }
        admission_failed(engine);
    } else {
        ve_crypto *crypto = &engine->module->crypto;
        ngtcp2_crypto_ctx context;
        ngtcp2_crypto_aead_ctx aead = {.native_handle = crypto->retry};
        ngtcp2_cid dcid;
        ngtcp2_cid ours;
        ngtcp2_cid original;
        ve_crypto_ctx(&context, &crypto->suites[0]);
        ngtcp2_cid_init(&dcid, first->scid, first->scid_length);
        ngtcp2_cid_init(&ours, (const uint8_t *)PyBytes_AS_STRING(scid), (size_t)PyBytes_GET_SIZE(scid));
        ngtcp2_cid_init(&original, first->dcid, first->dcid_length);
        ngtcp2_ssize n = ngtcp2_pkt_write_retry(packet, sizeof packet, first->version, &dcid, &ours, &original,
                                                (const uint8_t *)PyBytes_AS_STRING(token),
                                                (size_t)PyBytes_GET_SIZE(token), ve_encrypt, &context.aead, &aead);
        if (n > 0) {
            ve_engine_answer(engine, packet, (size_t)n, train);
            ve_verdict(engine, VE_verdict_retried);
        } else {
            PyErr_SetString(PyExc_ValueError, ngtcp2_strerror((int)n));
            admission_failed(engine);
        }
    }
    Py_XDECREF(scid);
    Py_XDECREF(token);
}

/* CONNECTION_CLOSE in an Initial packet, under keys derived from the client's Destination Connection ID (RFC 9000
 * section 5.2.2). */
static void refuse_it(ve_engine *engine, const ve_train *train, const ve_first_packet *first, PyObject *decision) {
    uint8_t packet[ANSWER_BYTES];
    Py_ssize_t reason_length = 0;
    const char *reason = NULL;
    PyObject *text = PyObject_GetAttrString(decision, "reason");
    PyObject *number = PyObject_GetAttrString(decision, "error_code");
    uint64_t code = number == NULL ? 0 : PyLong_AsUnsignedLongLong(number);
    if (text != NULL && !PyErr_Occurred()) {
        reason = PyUnicode_AsUTF8AndSize(text, &reason_length);
    }
    Py_XDECREF(number);
    ve_keys keys;
    if (reason == NULL || PyErr_Occurred()) {
        admission_failed(engine);
    } else if (ve_initial_keys(&keys, &engine->module->crypto, first->dcid, first->dcid_length, true) != 0) {
        ve_verdict(engine, VE_verdict_dropped_internal);
    } else {
        ngtcp2_crypto_ctx context;
        ngtcp2_cid dcid;
        ngtcp2_cid scid;
        ve_crypto_ctx(&context, &engine->module->crypto.suites[0]);
        ngtcp2_cid_init(&dcid, first->scid, first->scid_length);
        ngtcp2_cid_init(&scid, first->dcid, first->dcid_length);
        ngtcp2_ssize n = ngtcp2_pkt_write_connection_close(
            packet, sizeof packet, first->version, &dcid, &scid, code, (const uint8_t *)reason,
            reason_length < MAX_REASON_BYTES ? (size_t)reason_length : MAX_REASON_BYTES, ve_encrypt, &context.aead,
            &keys.aead, keys.iv, ve_hp_mask, &context.hp, &keys.header);
        ve_keys_free(&keys);
        if (n > 0) {
            ve_engine_answer(engine, packet, (size_t)n, train);
            ve_verdict(engine, VE_verdict_refused);
        } else {
            ve_verdict(engine, VE_verdict_dropped_internal);
        }
    }
    Py_XDECREF(text);
}

static void ignore_it(ve_engine *engine, PyObject *decision) {
    PyObject *name = PyObject_GetAttrString(decision, "verdict");
    for (int i = VE_verdict_delivered; name != NULL && i <= VE_verdict_dropped_internal; i++) {
        int equal = PyObject_RichCompareBool(name, engine->module->counter_names[i], Py_EQ);
        if (equal != 0) {
            Py_DECREF(name);
            if (equal > 0) {
                ve_verdict(engine, (enum ve_counter)i);
            } else {
                admission_failed(engine);
            }
            return;
        }
    }
    if (name != NULL) {
        PyErr_Format(PyExc_ValueError, "unknown verdict %R", name);
        Py_DECREF(name);
    }
    admission_failed(engine);
}

/* False: admit() accepted it, but the client must prove its address: ask again for a Retry. */
static bool admit(ve_engine *engine, const ve_train *train, const ve_first_packet *first, bool must_retry,
                  const uint8_t *data, size_t length) {
    bool settled = true;
    ve_module *module = engine->module;
    PyObject *values[] = {
        PyLong_FromUnsignedLong(first->version),
        PyBytes_FromStringAndSize((const char *)first->dcid, (Py_ssize_t)first->dcid_length),
        PyBytes_FromStringAndSize((const char *)first->scid, (Py_ssize_t)first->scid_length),
        PyBytes_FromStringAndSize((const char *)first->token, (Py_ssize_t)first->token_length),
        ve_address_to_python(&train->peer),
        PyBool_FromLong(must_retry),
        PyLong_FromSize_t(engine->open_count),
        PyLong_FromSize_t(engine->half_open),
    };
    PyObject *initial = ve_record_new(&module->initial, values);
    PyObject *now = initial == NULL ? NULL : PyLong_FromUnsignedLongLong(engine->now_ns);
    PyObject *decision = NULL;
    if (now != NULL) {
        PyObject *arguments[] = {engine->upcalls, initial, now};
        decision = PyObject_VectorcallMethod(module->name_admit, arguments, 3, NULL);
    }
    Py_XDECREF(initial);
    Py_XDECREF(now);
    PyObject *type = decision == NULL ? NULL : (PyObject *)Py_TYPE(decision);
    if (type == NULL) {
        admission_failed(engine);
    } else if (type == module->accept) {
        settled = accept_it(engine, train, first, decision, data, length);
    } else if (type == module->retry) {
        retry_it(engine, train, first, decision);
    } else if (type == module->refuse) {
        refuse_it(engine, train, first, decision);
    } else if (type == module->ignore) {
        ignore_it(engine, decision);
    } else {
        PyErr_Format(PyExc_TypeError, "admit() returned %R", decision);
        admission_failed(engine);
    }
    Py_XDECREF(decision);
    return settled;
}

void ve_admit(ve_engine *engine, const ve_train *train, const ve_first_packet *first, const uint8_t *data,
              size_t length) {
    bool must_retry = train->tos >> 2 == MUST_RETRY_DSCP;
    if (!admit(engine, train, first, must_retry, data, length) && !admit(engine, train, first, true, data, length)) {
        PyErr_SetString(PyExc_ValueError, "admit() accepted a connection that requires a Retry");
        admission_failed(engine);
    }
}
