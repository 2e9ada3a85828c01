/* Responses: their fields, and the bytes that nghttp3 asks for. */
#include "http.h"

#include "connection.h"
#include "engine.h"
#include "module.h"
#include "stream.h"

enum { MAX_RESPONSE_FIELDS = 256 };

static nghttp3_ssize read_data(nghttp3_conn *http, int64_t id, nghttp3_vec *vectors, size_t count, uint32_t *flags,
                               void *user, void *stream_user) {
    ve_stream *stream = stream_user;
    bool end = false;
    (void)http;
    (void)id;
    (void)user;
    if (stream == NULL) {
        return NGHTTP3_ERR_CALLBACK_FAILURE;
    }
    size_t filled = ve_stream_pull(stream, vectors, count, &end);
    if (end) {
        stream->eof_given = true;
        *flags |= NGHTTP3_DATA_FLAG_EOF;
        return (nghttp3_ssize)filled;
    }
    if (filled == 0) {
        stream->blocked = true;
        return NGHTTP3_ERR_WOULDBLOCK;
    }
    return (nghttp3_ssize)filled;
}

/* nghttp3 accepts upper case, but every client would call the response malformed (RFC 9114 section 4.2). */
static bool is_name(const uint8_t *name, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (name[i] >= 'A' && name[i] <= 'Z') {
            return false;
        }
    }
    return length > 0 && name[0] != ':' && nghttp3_check_header_name(name, length);
}

static int fill_field(nghttp3_nv *field, PyObject *pair) {
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
        !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
        PyErr_SetString(PyExc_TypeError, "a header is a pair of bytes");
        return -1;
    }
    PyObject *name = PyTuple_GET_ITEM(pair, 0);
    PyObject *value = PyTuple_GET_ITEM(pair, 1);
    field->name = (uint8_t *)PyBytes_AS_STRING(name);
    field->namelen = (size_t)PyBytes_GET_SIZE(name);
    field->value = (uint8_t *)PyBytes_AS_STRING(value);
    field->valuelen = (size_t)PyBytes_GET_SIZE(value);
    field->flags = NGHTTP3_NV_FLAG_NONE; /* nghttp3 copies */
    if (!is_name(field->name, field->namelen) || !nghttp3_check_header_value(field->value, field->valuelen)) {
        PyErr_Format(PyExc_ValueError, "invalid header field: %R", pair);
        return -1;
    }
    return 0;
}

static void count_response(ve_engine *engine, int status) {
    static const enum ve_counter classes[] = {VE_responses_1xx, VE_responses_2xx, VE_responses_3xx, VE_responses_4xx,
                                              VE_responses_5xx};
    engine->counters[classes[status / 100 - 1]]++;
}

int ve_http_respond(ve_stream *stream, int status, PyObject *headers, PyObject *body, bool fin) {
    static const nghttp3_data_reader reader = {read_data};
    ve_connection *connection = stream->connection;
    ve_engine *engine = connection->engine;
    nghttp3_nv fields[MAX_RESPONSE_FIELDS + 1];
    char digits[4];
    int result = -1;
    PyObject *fast = PySequence_Fast(headers, "headers must be a sequence of pairs of bytes");
    if (fast == NULL) {
        return -1;
    }
    Py_ssize_t n = PySequence_Fast_GET_SIZE(fast);
    if (status < 100 || status > 599 || n > MAX_RESPONSE_FIELDS) {
        PyErr_Format(PyExc_ValueError, "status %d is out of range 100..599, or there are more than %d headers", status,
                     MAX_RESPONSE_FIELDS);
        goto done;
    }
    if (stream->responded) {
        result = 0;
        goto done;
    }
    snprintf(digits, sizeof digits, "%d", status);
    fields[0] = (nghttp3_nv){(uint8_t *)(uintptr_t)":status", (uint8_t *)digits, 7, 3, NGHTTP3_NV_FLAG_NONE};
    for (Py_ssize_t i = 0; i < n; i++) {
        if (fill_field(&fields[i + 1], PySequence_Fast_GET_ITEM(fast, i)) != 0) {
            goto done;
        }
    }
    if (status < 200) {
        int rv = nghttp3_conn_submit_info(connection->http, stream->id, fields, (size_t)n + 1);
        result = rv == 0;
        if (rv == 0) {
            count_response(engine, status);
            ve_connection_mark(connection);
        }
        goto done;
    }
    bool bodiless = stream->head || status == 204 || status == 304;
    if (!bodiless && body != Py_None) {
        int failed;
        if (PyObject_TypeCheck(body, (PyTypeObject *)engine->module->file_range)) {
            failed = ve_stream_push_file(stream, body);
        } else if (PyBytes_Check(body)) {
            failed = ve_stream_push(stream, body);
        } else {
            PyErr_SetString(PyExc_TypeError, "a body must be bytes, FileRange or None");
            failed = -1;
        }
        if (failed) {
            goto done;
        }
    }
    bool nothing = bodiless || (fin && stream->first == NULL && stream->file_left == 0);
    stream->ended = fin || bodiless;
    stream->eof_given = nothing;
    int rv =
        nghttp3_conn_submit_response(connection->http, stream->id, fields, (size_t)n + 1, nothing ? NULL : &reader);
    if (rv == NGHTTP3_ERR_NOMEM) {
        PyErr_NoMemory();
        goto done;
    }
    result = rv == 0;
    if (rv == 0) {
        stream->responded = true;
        count_response(engine, status);
        ve_connection_mark(connection);
    }
done:
    Py_DECREF(fast);
    return result;
}
