/* The type NativeEngine: how an engine is made and freed, and its table of methods. */
#include "engine.h"

#include "connection.h"
#include "life.h"
#include "module.h"
#include "surface.h"
#include "upstream.h"

static PyObject *engine_batch(PyObject *self, PyObject *unused) {
    (void)unused;
    return ve_batch_new((ve_engine *)self);
}

static PyObject *engine_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"settings", "upcalls", NULL};
    PyObject *settings;
    PyObject *upcalls;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO:NativeEngine", names, &settings, &upcalls)) {
        return NULL;
    }
    ve_engine *engine = (ve_engine *)type->tp_alloc(type, 0);
    if (engine == NULL) {
        return NULL;
    }
    engine->module = PyType_GetModuleState(type);
    engine->upcalls = Py_NewRef(upcalls);
    engine->events = PyList_New(0);
    engine->strays = PyList_New(0);
    ve_cids_init(&engine->cids);
    ve_handles_init(&engine->connections);
    ve_handles_init(&engine->streams);
    if (ve_id_table_init(&engine->ids) != 0) {
        PyErr_NoMemory();
    } else if (!PyErr_Occurred()) {
        ve_engine_read_settings(engine, settings);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(engine);
        return NULL;
    }
    return (PyObject *)engine;
}

static int engine_traverse(PyObject *self, visitproc visit, void *arg) {
    ve_engine *engine = (ve_engine *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(engine->upcalls);
    Py_VISIT(engine->events);
    Py_VISIT(engine->strays);
    Py_VISIT(engine->interrupt);
    for (ve_connection *c = engine->open_first; c != NULL; c = c->next) {
        Py_VISIT(c->accepted);
        Py_VISIT(c->handshake);
    }
    return 0;
}

static int engine_clear(PyObject *self) {
    ve_engine *engine = (ve_engine *)self;
    Py_XSETREF(engine->upcalls, Py_NewRef(Py_None)); /* an engine in a garbage cycle may still be called */
    Py_CLEAR(engine->interrupt);
    return 0;
}

static void engine_dealloc(PyObject *self) {
    ve_engine *engine = (ve_engine *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    engine->busy = true;
    ve_upstreams_free(engine);
    while (engine->open_first != NULL) {
        ve_connection_free(engine->open_first);
    }
    while (engine->closing_first != NULL) {
        ve_connection_free(engine->closing_first);
    }
    ve_timers_free(&engine->timers);
    ve_id_table_free(&engine->ids);
    ve_handles_free(&engine->connections);
    ve_handles_free(&engine->streams);
    ve_cids_free(&engine->cids);
    free(engine->bodies);
    ve_sections_free(&engine->sections);
    free(engine->answers);
    Py_CLEAR(engine->upcalls);
    Py_CLEAR(engine->events);
    Py_CLEAR(engine->strays);
    Py_CLEAR(engine->interrupt);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *engine_name(PyObject *self, void *unused) {
    (void)self;
    (void)unused;
    return PyUnicode_FromString("native");
}

static PyObject *engine_closing_count(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(((ve_engine *)self)->closing_count);
}

static PyObject *engine_unacked_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(((ve_engine *)self)->unacked);
}

static PyGetSetDef engine_attributes[] = {
    {"name", engine_name, NULL, "\"native\"", NULL},
    {"closing_count", engine_closing_count, NULL, "Connections in the closing or draining state.", NULL},
    {"unacked_bytes", engine_unacked_bytes, NULL, "Bytes of bodies in flight.", NULL},
    {0},
};

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef engine_methods[] = {
    {"batch", engine_batch, METH_NOARGS, "Return a new batch."},
    {"use_settings", ve_engine_use_settings, METH_O, "Use these settings from now on."},
    {"use_keys", ve_engine_use_keys, METH_O, "Use these keys from now on."},
    {"use_roster", ve_engine_use_roster, METH_O, "Hand packets over to these workers."},
    {"receive", FAST(ve_engine_receive), METH_FASTCALL, "Process all trains of the batch and clear it."},
    {"strays", ve_engine_strays, METH_NOARGS, "Return and remove the datagrams of other workers."},
    {"send", FAST(ve_engine_send), METH_FASTCALL, "Fill the batch with datagrams to send."},
    {"next_timer_ns", ve_engine_next_timer_ns, METH_NOARGS, "When expire() must be called, or None."},
    {"expire", ve_engine_expire, METH_O, "Handle what is due."},
    {"respond", FAST(ve_engine_respond), METH_FASTCALL | METH_KEYWORDS, "Send a response."},
    {"write", FAST(ve_engine_write), METH_FASTCALL | METH_KEYWORDS, "Add to a response's body."},
    {"trailers", FAST(ve_engine_trailers), METH_FASTCALL, "End a response with trailers."},
    {"credit", FAST(ve_engine_credit), METH_FASTCALL, "The handler consumed bytes of a request body."},
    {"reset", FAST(ve_engine_reset), METH_FASTCALL, "Abandon a stream both ways."},
    {"close", FAST(ve_engine_close), METH_VARARGS | METH_KEYWORDS, "Close a connection."},
    {"goaway", FAST(ve_engine_goaway), METH_VARARGS | METH_KEYWORDS, "Send GOAWAY."},
    {"forwarding", ve_engine_forwarding, METH_NOARGS, "Upstream connections of this engine."},
    {"connections", ve_engine_connections, METH_NOARGS, "(connection, age in ns, open streams) of each."},
    {"connections_by_config", ve_engine_connections_by_config, METH_NOARGS, "CID config id -> number of connections."},
    {"connections_on", ve_engine_connections_on, METH_O, "Connections with IDs of these CID config ids."},
    {"rename", ve_engine_rename, METH_O, "False: this engine cannot give a connection new IDs."},
    {"counters", ve_engine_counters, METH_NOARGS, "All counters since the engine was made."},
    {0},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, "QUIC v1 and HTTP/3 on ngtcp2 and nghttp3 (Requests and Datagrams in Python)."},
    {Py_tp_new, engine_new},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_attributes},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_dealloc, engine_dealloc},
    {0, NULL},
};

PyType_Spec ve_engine_spec = {
    .name = "velocity_edge.quic.native._native.NativeEngine",
    .basicsize = sizeof(ve_engine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};
