/* The type Forwarding (velocity_edge/http/upstreams.py): requests to upstreams, for a proxy's policy in Python. */
#include "surface.h"

#include <openssl/ssl.h>

#include "connection.h"
#include "engine.h"
#include "module.h"
#include "stream.h"
#include "upstream.h"

typedef struct ve_forwarding {
    PyObject_HEAD ve_engine *engine;
} ve_forwarding;

static ve_upstreams *upstreams_of(PyObject *self) {
    return ((ve_forwarding *)self)->engine->upstreams;
}

/* NULL without an exception: it was closed. */
static ve_pool *find_pool(ve_upstreams *owner, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&owner->pools, number);
}

static ve_stream *find_stream(ve_engine *engine, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&engine->streams, number);
}

static PyObject *forwarding_fileno(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(upstreams_of(self)->epoll);
}

static PyObject *forwarding_turn(PyObject *self, PyObject *now) {
    ve_engine *engine = ((ve_forwarding *)self)->engine;
    if (!ve_engine_enter_at(engine, now)) {
        return NULL;
    }
    ve_upstreams_turn(engine->upstreams);
    return ve_engine_leave(engine);
}

static PyObject *forwarding_open(PyObject *self, PyObject *settings) {
    ve_pool *pool = ve_pool_new(upstreams_of(self), settings);
    return pool == NULL ? NULL : PyLong_FromUnsignedLongLong(pool->handle);
}

static PyObject *forwarding_use_addresses(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "use_addresses(pool, addresses)");
        return NULL;
    }
    ve_pool *pool = find_pool(upstreams_of(self), arguments[0]);
    if (PyErr_Occurred() || (pool != NULL && ve_pool_use_addresses(pool, arguments[1]) != 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *forwarding_close(PyObject *self, PyObject *handle) {
    ve_upstreams *owner = upstreams_of(self);
    ve_pool *pool = find_pool(owner, handle);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (pool != NULL) {
        ve_handle_release(&owner->pools, pool->handle);
        pool->closing = true;
        ve_pool_close_idle(pool, true);
        ve_pool_settle(pool);
        ve_upstreams_wake(owner); /* the memory is freed by the next turn */
    }
    Py_RETURN_NONE;
}

static PyObject *forwarding_forward(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = ((ve_forwarding *)self)->engine;
    if (n != 3) {
        PyErr_SetString(PyExc_TypeError, "forward(pool, stream, request)");
        return NULL;
    }
    ve_pool *pool = find_pool(engine->upstreams, arguments[0]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (pool == NULL || stream == NULL || !stream->headers_done || stream->responded || stream->carrier != NULL) {
        Py_RETURN_FALSE;
    }
    ve_attempt *attempt = ve_attempt_new(engine->module, arguments[2]);
    if (attempt == NULL || !ve_engine_enter(engine)) {
        free(attempt);
        return NULL;
    }
    if (ve_attempt_begin(attempt, pool, stream)) {
        ve_attempt_place(attempt);
    }
    engine->busy = false;
    Py_RETURN_TRUE;
}

/* A list of valid fields; NULL with an exception. */
static PyObject *read_trailers(PyObject *fields) {
    PyObject *list = PySequence_List(fields);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 1)) ||
            !nghttp3_check_header_name((const uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(pair, 0)),
                                       (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 0))) ||
            !nghttp3_check_header_value((const uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(pair, 1)),
                                        (size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 1)))) {
            PyErr_Format(PyExc_ValueError, "cannot forward the trailer %R: it is invalid", pair);
            Py_CLEAR(list);
        }
    }
    return list;
}

static PyObject *forwarding_feed(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"stream", "data", "fin", "trailers", NULL};
    ve_engine *engine = ((ve_forwarding *)self)->engine;
    PyObject *handle;
    Py_buffer data;
    PyObject *fields = NULL;
    int fin;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "Oy*p|O:feed", names, &handle, &data, &fin, &fields)) {
        return NULL;
    }
    PyObject *trailers = fields == NULL ? NULL : read_trailers(fields);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, handle);
    if (!PyErr_Occurred() && stream != NULL && ve_engine_enter(engine)) {
        if (trailers != NULL && PyList_GET_SIZE(trailers) > 0) {
            Py_XSETREF(stream->trailers, Py_NewRef(trailers));
        }
        if (ve_stream_unread(stream, data.buf, (size_t)data.len, fin != 0) != 0) {
            PyErr_NoMemory();
        } else {
            ve_stream_body_event(stream);
        }
        engine->busy = false;
    }
    PyBuffer_Release(&data);
    Py_XDECREF(trailers);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *forwarding_cancel(PyObject *self, PyObject *handle) {
    ve_engine *engine = ((ve_forwarding *)self)->engine;
    ve_stream *stream = find_stream(engine, handle);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    if (stream != NULL && stream->carrier != NULL) {
        ve_attempt_abandon(VE_OWNER(ve_attempt, carrier, stream->carrier), VE_CANCELLED, "cancelled");
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

static PyObject *forwarding_counts(PyObject *self, PyObject *handle) {
    ve_engine *engine = ((ve_forwarding *)self)->engine;
    const ve_pool *pool = find_pool(engine->upstreams, handle);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (pool == NULL) {
        PyErr_Format(PyExc_KeyError, "there is no pool %R", handle);
        return NULL;
    }
    PyObject *values[] = {
        PyLong_FromSize_t(pool->open),
        PyLong_FromSize_t(pool->idle),
        PyLong_FromSize_t(pool->running),
        PyLong_FromUnsignedLongLong(pool->connects),
        PyLong_FromUnsignedLongLong(pool->connects_failed),
        PyLong_FromUnsignedLongLong(pool->requests),
        PyLong_FromUnsignedLongLong(pool->reused),
    };
    PyObject *counts = ve_record_new(&engine->module->pool_counts, values);
    return counts == NULL && !PyErr_Occurred() ? PyErr_NoMemory() : counts;
}

static int forwarding_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((ve_forwarding *)self)->engine);
    return 0;
}

static void forwarding_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((ve_forwarding *)self)->engine);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject *ve_engine_forwarding(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    (void)unused;
    if (engine->upstreams == NULL && ve_upstreams_new(engine) != 0) {
        return NULL;
    }
    ve_forwarding *forwarding =
        (ve_forwarding *)engine->module->forwarding_type->tp_alloc(engine->module->forwarding_type, 0);
    if (forwarding != NULL) {
        forwarding->engine = (ve_engine *)Py_NewRef(self);
    }
    return (PyObject *)forwarding;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef forwarding_methods[] = {
    {"fileno", forwarding_fileno, METH_NOARGS, "A descriptor that is readable when turn() has work."},
    {"turn", forwarding_turn, METH_O, "Process what is ready, and return events."},
    {"open", forwarding_open, METH_O, "Return the handle of a new pool."},
    {"use_addresses", FAST(forwarding_use_addresses), METH_FASTCALL, "Connect to these from now on."},
    {"close", forwarding_close, METH_O, "Close a pool."},
    {"forward", FAST(forwarding_forward), METH_FASTCALL, "Begin an attempt."},
    {"feed", FAST(forwarding_feed), METH_VARARGS | METH_KEYWORDS, "Give body bytes back."},
    {"cancel", forwarding_cancel, METH_O, "End the attempt of a stream."},
    {"counts", forwarding_counts, METH_O, "The counts of a pool."},
    {0},
};

static PyType_Slot forwarding_slots[] = {
    {Py_tp_doc, "Upstream connections of one engine (Forwarding in Python)."},
    {Py_tp_methods, forwarding_methods},
    {Py_tp_traverse, forwarding_traverse},
    {Py_tp_dealloc, forwarding_dealloc},
    {0, NULL},
};

PyType_Spec ve_forwarding_spec = {
    .name = "velocity_edge.quic.native._native.NativeForwarding",
    .basicsize = sizeof(ve_forwarding),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = forwarding_slots,
};
