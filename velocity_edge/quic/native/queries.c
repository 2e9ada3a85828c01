/* Questions about an engine: its connections, the CID configurations they use, its counters. */
#include "surface.h"

#include "connection.h"
#include "engine.h"
#include "module.h"

PyObject *ve_engine_connections(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *list = PyList_New(0);
    (void)unused;
    for (ve_connection *c = engine->open_first; list != NULL && c != NULL; c = c->next) {
        PyObject *row = Py_BuildValue("(KKI)", (unsigned long long)c->handle,
                                      (unsigned long long)(engine->now_ns - c->opened_ns), c->stream_count);
        if (row == NULL || PyList_Append(list, row) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

/* CID config id -> number of connections with an ID of it, without zeros. */
PyObject *ve_engine_connections_by_config(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *counts = PyDict_New();
    (void)unused;
    for (int config = 0; counts != NULL && config < VE_CID_CONFIGS; config++) {
        size_t number = engine->ids.by_config[config];
        PyObject *key = number == 0 ? NULL : PyLong_FromLong(config);
        PyObject *value = key == NULL ? NULL : PyLong_FromSize_t(number);
        if (number != 0 && (value == NULL || PyDict_SetItem(counts, key, value) != 0)) {
            Py_CLEAR(counts);
        }
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return counts;
}

/* Handles of the open connections that have an ID of one of these configurations. */
PyObject *ve_engine_connections_on(PyObject *self, PyObject *configs) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *wanted = PySequence_Fast(configs, "connections_on(config_ids)");
    PyObject *list = wanted == NULL ? NULL : PyList_New(0);
    unsigned mask = 0;
    for (Py_ssize_t i = 0; list != NULL && i < PySequence_Fast_GET_SIZE(wanted); i++) {
        long config = PyLong_AsLong(PySequence_Fast_GET_ITEM(wanted, i));
        if (PyErr_Occurred()) {
            Py_CLEAR(list);
        } else if (config >= 0 && config < VE_CID_CONFIGS) {
            mask |= 1u << config;
        }
    }
    for (ve_connection *c = engine->open_first; list != NULL && mask != 0 && c != NULL; c = c->next) {
        bool held = false;
        for (int config = 0; config < VE_CID_CONFIGS; config++) {
            held = held || ((mask >> config & 1) != 0 && c->ids_by_config[config] > 0);
        }
        if (held) {
            PyObject *handle = PyLong_FromUnsignedLongLong((unsigned long long)c->handle);
            if (handle == NULL || PyList_Append(list, handle) != 0) {
                Py_CLEAR(list);
            }
            Py_XDECREF(handle);
        }
    }
    Py_XDECREF(wanted);
    return list;
}

/* ngtcp2 decides when it issues IDs, and always sends Retire Prior To 0: it cannot give a connection new IDs. */
PyObject *ve_engine_rename(PyObject *self, PyObject *connection) {
    (void)self;
    (void)connection;
    Py_RETURN_FALSE;
}

static int add_number(PyObject *dict, const char *name, uint64_t number) {
    PyObject *value = PyLong_FromUnsignedLongLong(number);
    int result = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return result;
}

PyObject *ve_engine_counters(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *counters = PyDict_New();
    (void)unused;
    for (int i = 0; counters != NULL && i < VE_COUNTER_COUNT; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(engine->counters[i]);
        if (value == NULL || PyDict_SetItem(counters, engine->module->counter_names[i], value) != 0) {
            Py_CLEAR(counters);
        }
        Py_XDECREF(value);
    }
    /* and gauges that counters.py expects of an engine */
    if (counters != NULL && (add_number(counters, "connections", engine->open_count) != 0 ||
                             add_number(counters, "half_open", engine->half_open) != 0 ||
                             add_number(counters, "streams", engine->stream_count) != 0)) {
        Py_CLEAR(counters);
    }
    return counters;
}
