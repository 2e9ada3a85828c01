/* Methods that handlers call between turns: respond, write, trailers, credit, reset, close, goaway. */
#include "surface.h"

#include "connection.h"
#include "engine.h"
#include "http.h"
#include "stream.h"

/* The stream of a handle; NULL without an exception when it is closed. */
static ve_stream *find_stream(ve_engine *engine, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&engine->streams, number);
}

static ve_connection *find_connection(ve_engine *engine, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&engine->connections, number);
}

PyObject *ve_engine_respond(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *body = n >= 4 ? arguments[3] : Py_None;
    int fin = 1;
    if (n < 3 || n > 4) {
        PyErr_SetString(PyExc_TypeError, "respond(stream, status, headers, body=None, *, fin=True)");
        return NULL;
    }
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (PyUnicode_CompareWithASCIIString(name, "fin") == 0) {
            fin = PyObject_IsTrue(arguments[n + i]);
        } else if (n < 4 && PyUnicode_CompareWithASCIIString(name, "body") == 0) {
            body = arguments[n + i];
        } else {
            return PyErr_Format(PyExc_TypeError, "respond() has no argument %R", name);
        }
    }
    long status = PyLong_AsLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    int done = stream == NULL || !stream->headers_done
                   ? 0
                   : ve_http_respond(stream, (int)status, arguments[2], body, fin != 0);
    engine->busy = false;
    return done < 0 ? NULL : PyBool_FromLong(done);
}

PyObject *ve_engine_write(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2 || names == NULL || PyTuple_GET_SIZE(names) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "fin") != 0) {
        PyErr_SetString(PyExc_TypeError, "write(stream, data, *, fin)");
        return NULL;
    }
    int fin = PyObject_IsTrue(arguments[2]);
    /* Returns the same object when it is bytes. Must come before the stream is looked up: it may run Python code,
       which may close the stream. */
    PyObject *data = fin < 0 ? NULL : PyBytes_FromObject(arguments[1]);
    ve_stream *stream = data == NULL ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        Py_XDECREF(data);
        return NULL;
    }
    PyObject *result = NULL;
    if (stream == NULL || !stream->responded || stream->ended) {
        result = PyLong_FromLong(-1);
    } else if (ve_stream_push(stream, data) == 0) {
        stream->ended = fin != 0;
        stream->wants_writable = stream->unsent >= engine->limits.send_high_bytes;
        ve_http_resume(stream);
        result = PyLong_FromSize_t(stream->unsent);
    }
    engine->busy = false;
    Py_DECREF(data);
    return result;
}

PyObject *ve_engine_trailers(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "trailers(stream, fields)");
        return NULL;
    }
    PyObject *fields = PySequence_Fast(arguments[1], "trailers must be a sequence of pairs of bytes");
    ve_stream *stream = fields == NULL ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        Py_XDECREF(fields);
        return NULL;
    }
    int done = stream == NULL ? 0 : ve_http_trailers(stream, fields);
    engine->busy = false;
    Py_DECREF(fields);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

PyObject *ve_engine_credit(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "credit(stream, n_bytes)");
        return NULL;
    }
    unsigned long long bytes = PyLong_AsUnsignedLongLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    if (stream != NULL) {
        ve_stream_credit(stream, bytes);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

PyObject *ve_engine_reset(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "reset(stream, error_code)");
        return NULL;
    }
    unsigned long long code = PyLong_AsUnsignedLongLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    if (stream != NULL) {
        ve_stream_reset(stream, code);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

PyObject *ve_engine_close(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"connection", "error_code", "reason", NULL};
    ve_engine *engine = (ve_engine *)self;
    PyObject *handle;
    unsigned long long code;
    const char *reason = "";
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OK|s:close", names, &handle, &code, &reason)) {
        return NULL;
    }
    ve_connection *connection = find_connection(engine, handle);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    if (connection != NULL) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, code, reason);
        connection->close_requested = true;
        ve_connection_mark(connection);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

PyObject *ve_engine_goaway(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"connection", "final", NULL};
    ve_engine *engine = (ve_engine *)self;
    PyObject *handle;
    int final;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O$p:goaway", names, &handle, &final)) {
        return NULL;
    }
    ve_connection *connection = find_connection(engine, handle);
    if (PyErr_Occurred() || !ve_engine_enter(engine)) {
        return NULL;
    }
    if (connection != NULL && connection->http != NULL) {
        int rv =
            final ? nghttp3_conn_shutdown(connection->http) : nghttp3_conn_submit_shutdown_notice(connection->http);
        if (rv != 0) {
            ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_INTERNAL_ERROR, nghttp3_strerror(rv));
            connection->close_requested = true;
        }
        ve_connection_mark(connection);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}
