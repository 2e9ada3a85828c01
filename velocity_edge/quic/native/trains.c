/* The type Batch in Python: append, iterate, clear. */
#include "surface.h"

#include "batch.h"
#include "engine.h"
#include "events.h"
#include "module.h"

static long integer_attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    long result = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    return result;
}

/* All attributes but the bytes. 0, or -1 with an exception. */
static int train_from_python(ve_train *train, PyObject *object) {
    PyObject *peer = PyObject_GetAttrString(object, "peer");
    PyObject *local = PyObject_GetAttrString(object, "local");
    PyObject *received = PyObject_GetAttrString(object, "received_ns");
    int result = -1;
    if (peer != NULL && local != NULL && received != NULL && ve_address_from_python(&train->peer, peer) == 0 &&
        ve_address_from_python(&train->local, local) == 0) {
        long segment = integer_attribute(object, "segment_size");
        long listener = PyErr_Occurred() ? -1 : integer_attribute(object, "listener");
        long tos = PyErr_Occurred() ? -1 : integer_attribute(object, "tos");
        train->received_ns = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(received);
        if (PyErr_Occurred()) {
            result = -1;
        } else if (segment < 0 || segment > VE_TRAIN_BYTES || listener < 0 || listener >= VE_MAX_LISTENERS || tos < 0 ||
                   tos > 255 || (segment == 0 && train->length > 0) || train->peer.length == 0) {
            PyErr_SetString(PyExc_ValueError, "invalid train: segment size, listener, tos or peer out of range");
        } else {
            train->segment_size = (uint32_t)segment < train->length ? (uint32_t)segment : train->length;
            train->listener = (int)listener;
            train->tos = (uint8_t)tos;
            result = 0;
        }
    }
    Py_XDECREF(peer);
    Py_XDECREF(local);
    Py_XDECREF(received);
    return result;
}

static PyObject *batch_append(PyObject *self, PyObject *object) {
    ve_batch *batch = (ve_batch *)self;
    Py_buffer view;
    PyObject *data = PyObject_GetAttrString(object, "data");
    if (data == NULL) {
        return NULL;
    }
    int failed = PyObject_GetBuffer(data, &view, PyBUF_SIMPLE);
    Py_DECREF(data); /* the view holds a reference */
    if (failed) {
        return NULL;
    }
    PyObject *result = NULL;
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
    } else if (view.len > VE_TRAIN_BYTES) {
        PyErr_SetString(PyExc_ValueError, "invalid train: more than 64 KiB");
    } else {
        ve_train *train = ve_batch_next(batch, (size_t)view.len);
        if (train == NULL) {
            result = Py_NewRef(Py_False);
        } else {
            train->length = (uint32_t)view.len;
            if (train_from_python(train, object) == 0) {
                memcpy(batch->memory + train->offset, view.buf, (size_t)view.len);
                ve_batch_commit(batch, train);
                result = Py_NewRef(Py_True);
            }
        }
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *train_to_python(ve_batch *batch, const ve_train *train) {
    PyObject *values[] = {
        PyBytes_FromStringAndSize((char *)batch->memory + train->offset, train->length),
        PyLong_FromUnsignedLong(train->segment_size),
        ve_address_to_python(&train->peer),
        ve_address_to_python(&train->local),
        PyLong_FromLong(train->listener),
        PyLong_FromLong(train->tos),
        PyLong_FromUnsignedLongLong(train->received_ns),
    };
    return ve_record_new(&batch->engine->module->train, values);
}

static PyObject *batch_iter(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    PyObject *list = PyList_New(0);
    for (unsigned i = batch->first; list != NULL && i < batch->count; i++) {
        PyObject *train = train_to_python(batch, &batch->trains[i]);
        if (train == NULL || PyList_Append(list, train) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(train);
    }
    PyObject *iterator = list == NULL ? NULL : PyObject_GetIter(list);
    Py_XDECREF(list);
    return iterator;
}

static PyObject *batch_clear(PyObject *self, PyObject *unused) {
    ve_batch *batch = (ve_batch *)self;
    (void)unused;
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
        return NULL;
    }
    ve_batch_clear(batch);
    Py_RETURN_NONE;
}

static Py_ssize_t batch_length(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    return (Py_ssize_t)(batch->count - batch->first);
}

PyObject *ve_batch_new(ve_engine *engine) {
    PyTypeObject *type = engine->module->batch_type;
    ve_batch *batch = (ve_batch *)type->tp_alloc(type, 0);
    if (batch == NULL) {
        return NULL;
    }
    batch->memory = PyMem_Malloc(VE_BATCH_BYTES);
    batch->engine = (ve_engine *)Py_NewRef((PyObject *)engine);
    if (batch->memory == NULL) {
        Py_DECREF(batch);
        return PyErr_NoMemory();
    }
    return (PyObject *)batch;
}

static int batch_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((ve_batch *)self)->engine);
    return 0;
}

static void batch_dealloc(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(batch->memory);
    Py_XDECREF(batch->engine);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef batch_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))ve_batch_receive, METH_FASTCALL, "Receive trains from a UDP socket."},
    {"transmit", ve_batch_transmit, METH_O, "Send the trains, each on the socket of its listener."},
    {"append", batch_append, METH_O, "Add one train; False: the batch is full."},
    {"clear", batch_clear, METH_NOARGS, "Remove all trains."},
    {0},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc, "Trains of datagrams in native memory (velocity_edge.quic.datagrams.Batch)."},
    {Py_tp_methods, batch_methods},
    {Py_tp_iter, batch_iter},
    {Py_tp_traverse, batch_traverse},
    {Py_tp_dealloc, batch_dealloc},
    {Py_sq_length, batch_length},
    {0, NULL},
};

PyType_Spec ve_batch_spec = {
    .name = "velocity_edge.quic.native._native.Batch",
    .basicsize = sizeof(ve_batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = batch_slots,
};
