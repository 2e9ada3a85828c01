#include "engine.h"

#include "connection.h"
#include "events.h"
#include "module.h"
#include "stream.h"

/* --- for the other files --- */

void ve_engine_event(ve_engine *engine, PyObject *event) {
    if (event == NULL || PyList_Append(engine->events, event) != 0) {
        PyErr_Clear(); /* no memory for one small object: the rest of this process has the same trouble */
        engine->counters[VE_upcall_errors]++;
    }
    Py_XDECREF(event);
}

void ve_engine_answer(ve_engine *engine, const uint8_t *data, size_t length, const ve_train *train) {
    ve_answer head = {
        .local = train->local, .peer = train->peer, .listener = train->listener, .length = (uint32_t)length};
    if (engine->answer_bytes + sizeof head + length > VE_MAX_ANSWER_BYTES) {
        engine->counters[VE_send_errors]++;
        return;
    }
    if (engine->answers == NULL) {
        engine->answers = malloc(VE_MAX_ANSWER_BYTES);
        if (engine->answers == NULL) {
            engine->counters[VE_send_errors]++;
            return;
        }
    }
    memcpy(engine->answers + engine->answer_bytes, &head, sizeof head);
    memcpy(engine->answers + engine->answer_bytes + sizeof head, data, length);
    engine->answer_bytes += sizeof head + length;
}

/* --- turns --- */

bool ve_engine_enter(ve_engine *engine) {
    if (engine->busy) {
        PyErr_SetString(PyExc_RuntimeError, "cannot call an engine from one of its upcalls, or from another thread");
        return false;
    }
    engine->busy = true;
    return true;
}

/* Read `now_ns`. It never goes back: ngtcp2 asserts that. */
static bool enter_at(ve_engine *engine, PyObject *now) {
    unsigned long long now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return false;
    }
    if (now_ns > engine->now_ns) {
        engine->now_ns = now_ns;
    }
    return true;
}

static void flush_bodies(ve_engine *engine) {
    for (size_t i = 0; i < engine->body_count; i++) {
        ve_stream *stream = ve_handle_find(&engine->streams, engine->bodies[i]);
        if (stream != NULL) {
            ve_stream_body_event(stream);
        }
    }
    engine->body_count = 0;
}

/* The events of a turn, or what an upcall must not swallow. */
static PyObject *leave_with_events(ve_engine *engine) {
    flush_bodies(engine);
    engine->busy = false;
    if (engine->interrupt != NULL) {
        PyObject *interrupt = engine->interrupt;
        engine->interrupt = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(interrupt), interrupt);
        Py_DECREF(interrupt);
        return NULL;
    }
    PyObject *fresh = PyList_New(0);
    if (fresh == NULL) {
        return NULL;
    }
    PyObject *events = engine->events;
    engine->events = fresh;
    return events;
}

static ve_batch *as_batch(ve_engine *engine, PyObject *object) {
    if (!PyObject_TypeCheck(object, engine->module->batch_type) || ((ve_batch *)object)->engine != engine) {
        PyErr_SetString(PyExc_TypeError, "not a batch of this engine");
        return NULL;
    }
    return (ve_batch *)object;
}

static PyObject *engine_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(batch, now_ns)");
        return NULL;
    }
    ve_batch *batch = as_batch(engine, arguments[0]);
    if (batch == NULL || !enter_at(engine, arguments[1])) {
        return NULL;
    }
    batch->busy = true;
    for (unsigned i = batch->first; i < batch->count; i++) {
        const ve_train *train = &batch->trains[i];
        uint32_t offset = 0;
        do {
            uint32_t left = train->length - offset;
            uint32_t length = left < train->segment_size ? left : train->segment_size;
            ve_demux(engine, train, batch->memory + train->offset + offset, length);
            offset += length;
        } while (offset < train->length);
    }
    ve_batch_clear(batch);
    batch->busy = false;
    return leave_with_events(engine);
}

static bool send_answers(ve_engine *engine, ve_batch *batch) {
    size_t offset = 0;
    while (offset < engine->answer_bytes) {
        ve_answer head;
        memcpy(&head, engine->answers + offset, sizeof head);
        if (!ve_batch_add(batch, engine->answers + offset + sizeof head, head.length, &head.local, &head.peer,
                          head.listener)) {
            break;
        }
        offset += sizeof head + head.length;
    }
    engine->answer_bytes -= offset;
    memmove(engine->answers, engine->answers + offset, engine->answer_bytes);
    return engine->answer_bytes == 0;
}

static void send_connections(ve_engine *engine, ve_batch *batch) {
    while (engine->dirty_first != NULL) {
        ve_connection *connection = engine->dirty_first;
        engine->dirty_first = connection->dirty_next;
        if (engine->dirty_first == NULL) {
            engine->dirty_last = NULL;
        }
        connection->dirty = false;
        switch (ve_connection_write(connection, batch)) {
        case VE_WRITTEN_MORE:
            ve_connection_mark(connection);
            break;
        case VE_WRITTEN_FULL:
            ve_connection_mark(connection);
            return;
        case VE_WRITTEN_ALL:
        case VE_WRITTEN_LAST:
            break;
        }
    }
}

static PyObject *engine_send(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "send(batch, now_ns)");
        return NULL;
    }
    ve_batch *batch = as_batch(engine, arguments[0]);
    if (batch == NULL) {
        return NULL;
    }
    if (batch->count != batch->first) {
        PyErr_SetString(PyExc_ValueError, "send() needs an empty batch");
        return NULL;
    }
    if (!enter_at(engine, arguments[1])) {
        return NULL;
    }
    ve_batch_clear(batch);
    batch->busy = true;
    if (engine->answer_bytes == 0 || send_answers(engine, batch)) {
        send_connections(engine, batch);
    }
    batch->busy = false;
    engine->busy = false;
    return PyBool_FromLong(batch->count > 0);
}

static PyObject *engine_expire(PyObject *self, PyObject *now) {
    ve_engine *engine = (ve_engine *)self;
    if (!enter_at(engine, now)) {
        return NULL;
    }
    ve_connection *due;
    while ((due = ve_timer_first(&engine->timers)) != NULL && due->deadline_ns <= engine->now_ns) {
        ve_connection_expire(due);
    }
    return leave_with_events(engine);
}

static PyObject *engine_next_timer_ns(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    const ve_connection *first = ve_timer_first(&engine->timers);
    (void)unused;
    if (PyList_GET_SIZE(engine->events) > 0) {
        return PyLong_FromUnsignedLongLong(engine->now_ns); /* made while sending: fetched by expire() */
    }
    if (first == NULL || first->deadline_ns == VE_NEVER) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(first->deadline_ns);
}

static PyObject *engine_strays(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    (void)unused;
    PyObject *fresh = PyList_New(0);
    if (fresh == NULL) {
        return NULL;
    }
    PyObject *strays = engine->strays;
    engine->strays = fresh;
    return strays;
}

/* --- what it knows --- */

static PyObject *engine_connections(PyObject *self, PyObject *unused) {
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

/* CID config id -> connections that hold an id of it, where there are any. */
static PyObject *engine_connections_by_config(PyObject *self, PyObject *unused) {
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

/* Handles of the open connections that hold an id of one of these configurations. */
static PyObject *engine_connections_on(PyObject *self, PyObject *configs) {
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

/* ngtcp2 decides itself when it issues ids, and writes Retire Prior To as 0: it cannot rename a connection. */
static PyObject *engine_rename(PyObject *self, PyObject *connection) {
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

static PyObject *engine_counters(PyObject *self, PyObject *unused) {
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
    /* and the gauges of counters.py that are an engine's */
    if (counters != NULL && (add_number(counters, "connections", engine->open_count) != 0 ||
                             add_number(counters, "half_open", engine->half_open) != 0 ||
                             add_number(counters, "streams", engine->stream_count) != 0)) {
        Py_CLEAR(counters);
    }
    return counters;
}

static PyObject *engine_batch(PyObject *self, PyObject *unused) {
    (void)unused;
    return ve_batch_new((ve_engine *)self);
}

/* --- birth and death --- */

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
    Py_XSETREF(engine->upcalls, Py_NewRef(Py_None)); /* an engine in a dying cycle may still be called */
    Py_CLEAR(engine->interrupt);
    return 0;
}

static void engine_dealloc(PyObject *self) {
    ve_engine *engine = (ve_engine *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    engine->busy = true;
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
    {"use_settings", ve_engine_use_settings, METH_O, "Use these limits from now on."},
    {"use_keys", ve_engine_use_keys, METH_O, "Use these keys from now on."},
    {"use_roster", ve_engine_use_roster, METH_O, "Whose packets are handed over."},
    {"receive", FAST(engine_receive), METH_FASTCALL, "Take in all trains of the batch and clear it."},
    {"strays", engine_strays, METH_NOARGS, "Return and forget the datagrams of other workers."},
    {"send", FAST(engine_send), METH_FASTCALL, "Fill the batch with what must leave."},
    {"next_timer_ns", engine_next_timer_ns, METH_NOARGS, "When expire() must be called, or None."},
    {"expire", engine_expire, METH_O, "Handle what is due."},
    {"respond", FAST(ve_engine_respond), METH_FASTCALL | METH_KEYWORDS, "Answer a request."},
    {"write", FAST(ve_engine_write), METH_FASTCALL | METH_KEYWORDS, "Add to a response's body."},
    {"credit", FAST(ve_engine_credit), METH_FASTCALL, "The handler consumed that much of a request's body."},
    {"reset", FAST(ve_engine_reset), METH_FASTCALL, "Abandon a stream both ways."},
    {"close", FAST(ve_engine_close), METH_VARARGS | METH_KEYWORDS, "Close a connection."},
    {"goaway", FAST(ve_engine_goaway), METH_VARARGS | METH_KEYWORDS, "Send GOAWAY."},
    {"connections", engine_connections, METH_NOARGS, "(connection, age in ns, open streams) of each."},
    {"connections_by_config", engine_connections_by_config, METH_NOARGS, "CID config id -> connections on its ids."},
    {"connections_on", engine_connections_on, METH_O, "Connections that hold ids of these CID config ids."},
    {"rename", engine_rename, METH_O, "False: this engine cannot give a connection other ids."},
    {"counters", engine_counters, METH_NOARGS, "All counters since the engine began."},
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
