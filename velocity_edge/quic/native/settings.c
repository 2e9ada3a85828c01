/* EngineSettings, EngineKeys and the roster, read from Python. */
#include "surface.h"

#include "engine.h"
#include "module.h"

/* The attribute `name`, a non-negative number, times `scale`. */
static uint64_t number(PyObject *object, const char *name, double scale) {
    if (PyErr_Occurred()) {
        return 0;
    }
    PyObject *value = PyObject_GetAttrString(object, name);
    double result = value == NULL ? 0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    if (!PyErr_Occurred() && !(result >= 0 && result * scale < 9e18)) {
        PyErr_Format(PyExc_ValueError, "%s is out of range", name);
    }
    return PyErr_Occurred() ? 0 : (uint64_t)(result * scale);
}

static void read_limits(ve_limits *limits, PyObject *object) {
    limits->max_connections = number(object, "max_connections", 1);
    limits->max_half_open = number(object, "max_half_open", 1);
    limits->handshake_timeout_ns = number(object, "handshake_timeout_s", 1e9);
    limits->idle_timeout_ns = number(object, "idle_timeout_s", 1e9);
    limits->max_crypto_bytes = number(object, "max_crypto_bytes", 1);
    limits->stream_window_bytes = number(object, "stream_window_bytes", 1);
    limits->connection_window_bytes = number(object, "connection_window_bytes", 1);
    limits->max_datagram_bytes = number(object, "max_datagram_bytes", 1);
    limits->max_streams_bidi = number(object, "max_streams_bidi", 1);
    limits->max_streams_uni = number(object, "max_streams_uni", 1);
    limits->max_field_section_bytes = number(object, "max_field_section_bytes", 1);
    limits->max_control_frame_bytes = number(object, "max_control_frame_bytes", 1);
    limits->send_high_bytes = number(object, "send_high_bytes", 1);
    limits->send_low_bytes = number(object, "send_low_bytes", 1);
    limits->max_unacked_bytes = number(object, "max_unacked_bytes", 1);
    limits->max_unacked_bytes_per_worker = number(object, "max_unacked_bytes_per_worker", 1);
    limits->max_active_cids = number(object, "max_active_cids", 1);
    limits->half_open_memory_bytes = number(object, "half_open_memory_bytes", 1);
    limits->received_memory_bytes = number(object, "received_memory_bytes", 1);
    limits->sent_memory_bytes = number(object, "sent_memory_bytes", 1);
    limits->max_glitches_per_s = (unsigned)number(object, "max_glitches_per_s", 1);
    limits->max_migrations_per_s = (unsigned)number(object, "max_migrations_per_s", 1);
    limits->request_timeout_ns = number(object, "request_timeout_s", 1e9);
    limits->stall_timeout_ns = number(object, "stall_timeout_s", 1e9);
    limits->max_resets_per_s = (unsigned)number(object, "max_resets_per_s", 1);
    limits->max_version_negotiations_per_s = (unsigned)number(object, "max_version_negotiations_per_s", 1);
}

static void read_congestion_control(ngtcp2_cc_algo *algorithm, PyObject *settings) {
    static const struct {
        const char *name;
        ngtcp2_cc_algo algorithm;
    } known[] = {{"cubic", NGTCP2_CC_ALGO_CUBIC}, {"bbr", NGTCP2_CC_ALGO_BBR}, {"reno", NGTCP2_CC_ALGO_RENO}};
    PyObject *name = PyErr_Occurred() ? NULL : PyObject_GetAttrString(settings, "congestion_control");
    if (name == NULL) {
        return;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, known[i].name) == 0) {
            *algorithm = known[i].algorithm;
            Py_DECREF(name);
            return;
        }
    }
    PyErr_Format(PyExc_ValueError, "congestion_control %R: expected cubic, bbr or reno", name);
    Py_DECREF(name);
}

void ve_engine_read_settings(ve_engine *engine, PyObject *settings) {
    ve_limits fresh = {0}; /* all of them or none: the engine may be in use */
    ngtcp2_cc_algo algorithm = engine->congestion_control;
    PyObject *limits = PyObject_GetAttrString(settings, "limits");
    if (limits == NULL) {
        return;
    }
    read_limits(&fresh, limits);
    Py_DECREF(limits);
    uint16_t worker_id = (uint16_t)number(settings, "worker_id", 1);
    uint32_t node_id = (uint32_t)number(settings, "node_id", 1);
    read_congestion_control(&algorithm, settings);
    if (PyErr_Occurred()) {
        return;
    }
    engine->limits = fresh;
    engine->worker_id = worker_id;
    engine->node_id = node_id;
    engine->congestion_control = algorithm;
}

/* Open connections keep their windows, streams, timeouts and congestion control. All other limits are read when they
 * are needed, and apply at once. */
PyObject *ve_engine_use_settings(PyObject *self, PyObject *settings) {
    ve_engine *engine = (ve_engine *)self;
    if (!ve_engine_enter(engine)) {
        return NULL;
    }
    ve_engine_read_settings(engine, settings);
    engine->busy = false;
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *ve_engine_use_keys(PyObject *self, PyObject *keys) {
    ve_engine *engine = (ve_engine *)self;
    if (!ve_engine_enter(engine)) {
        return NULL;
    }
    int rv = ve_cids_use(&engine->cids, &engine->module->crypto, keys);
    engine->busy = false;
    if (rv != 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *ve_engine_use_roster(PyObject *self, PyObject *ids) {
    ve_engine *engine = (ve_engine *)self;
    uint8_t live[sizeof engine->live_workers] = {0};
    PyObject *iterator = PyObject_GetIter(ids);
    PyObject *item;
    if (iterator == NULL) {
        return NULL;
    }
    while ((item = PyIter_Next(iterator)) != NULL) {
        long id = PyLong_AsLong(item);
        Py_DECREF(item);
        if (!PyErr_Occurred() && (id < 0 || id > 65535)) {
            PyErr_Format(PyExc_ValueError, "worker id %ld is out of range 0..65535", id);
        }
        if (PyErr_Occurred()) {
            break;
        }
        live[id / 8] |= (uint8_t)(1 << (id % 8));
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        return NULL;
    }
    memcpy(engine->live_workers, live, sizeof live);
    Py_RETURN_NONE;
}
