/* Turns of an engine: receive(), send(), expire(), and what the endpoint asks between them. */
#include "surface.h"

#include "connection.h"
#include "demux.h"
#include "engine.h"
#include "life.h"
#include "module.h"
#include "stream.h"

/* Read `now_ns`. The time of the engine never goes back: ngtcp2 asserts that. */
bool ve_engine_enter_at(ve_engine *engine, PyObject *now) {
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

/* Return the events of a turn, or raise what an upcall must not suppress. */
PyObject *ve_engine_leave(ve_engine *engine) {
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
        PyErr_SetString(PyExc_TypeError, "the batch is not one of this engine");
        return NULL;
    }
    return (ve_batch *)object;
}

PyObject *ve_engine_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(batch, now_ns)");
        return NULL;
    }
    ve_batch *batch = as_batch(engine, arguments[0]);
    if (batch == NULL || !ve_engine_enter_at(engine, arguments[1])) {
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
    return ve_engine_leave(engine);
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

PyObject *ve_engine_send(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
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
        PyErr_SetString(PyExc_ValueError, "send() requires an empty batch");
        return NULL;
    }
    if (!ve_engine_enter_at(engine, arguments[1])) {
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

PyObject *ve_engine_expire(PyObject *self, PyObject *now) {
    ve_engine *engine = (ve_engine *)self;
    if (!ve_engine_enter_at(engine, now)) {
        return NULL;
    }
    ve_connection *due;
    while ((due = ve_timer_first(&engine->timers)) != NULL && due->deadline_ns <= engine->now_ns) {
        ve_connection_expire(due);
    }
    return ve_engine_leave(engine);
}

PyObject *ve_engine_next_timer_ns(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    const ve_connection *first = ve_timer_first(&engine->timers);
    (void)unused;
    if (PyList_GET_SIZE(engine->events) > 0) {
        return PyLong_FromUnsignedLongLong(engine->now_ns); /* events of send() are fetched by expire() */
    }
    if (first == NULL || first->deadline_ns == VE_NEVER) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(first->deadline_ns);
}

PyObject *ve_engine_strays(PyObject *self, PyObject *unused) {
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
