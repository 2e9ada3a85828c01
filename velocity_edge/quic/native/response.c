/* Responses: their fields, the bytes that nghttp3 asks for, trailers. */
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
    if (!is_name(field->name, field->namelen) || !ve_message_is_value(field->value, field->valuelen)) {
        PyErr_Format(PyExc_ValueError, "invalid header field: %R", pair);
        return -1;
    }
    return 0;
}

/* Fill `fields` from a sequence of pairs; they live as long as `*sequence`, a new reference. Returns their number, or
 * -1 with an exception. */
static Py_ssize_t fill_fields(nghttp3_nv fields[MAX_RESPONSE_FIELDS], PyObject *headers, PyObject **sequence) {
    *sequence = PySequence_Fast(headers, "headers must be a sequence of pairs of bytes");
    if (*sequence == NULL) {
        return -1;
    }
    Py_ssize_t n = PySequence_Fast_GET_SIZE(*sequence);
    if (n > MAX_RESPONSE_FIELDS) {
        PyErr_Format(PyExc_ValueError, "there are more than %d headers", MAX_RESPONSE_FIELDS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (fill_field(&fields[i], PySequence_Fast_GET_ITEM(*sequence, i)) != 0) {
            return -1;
        }
    }
    return n;
}

static void count_response(ve_engine *engine, int status) {
    static const enum ve_counter classes[] = {VE_responses_1xx, VE_responses_2xx, VE_responses_3xx, VE_responses_4xx,
                                              VE_responses_5xx};
    engine->counters[classes[status / 100 - 1]]++;
}

static bool has_no_body(const ve_stream *stream, int status) {
    return stream->head || status == 204 || status == 304;
}

/* Fields that were checked, after room for the status. `nothing`: there is no body, `ended`: or none beyond what waits.
 * 1 sent, 0 not taken, -1 no memory. */
static int submit(ve_stream *stream, int status, nghttp3_nv *fields, size_t n, bool nothing, bool ended) {
    static const nghttp3_data_reader reader = {read_data};
    ve_connection *connection = stream->connection;
    char digits[4];
    int rv;
    if (stream->responded || connection->http == NULL) {
        return 0;
    }
    snprintf(digits, sizeof digits, "%03d", status % 1000);
    fields[0] = (nghttp3_nv){(uint8_t *)(uintptr_t)":status", (uint8_t *)digits, 7, 3, NGHTTP3_NV_FLAG_NONE};
    if (status < 200) {
        if (stream->informational == VE_MAX_INTERIM) {
            return 0;
        }
        stream->informational++;
        rv = nghttp3_conn_submit_info(connection->http, stream->id, fields, n);
    } else {
        rv = nghttp3_conn_submit_response(connection->http, stream->id, fields, n, nothing ? NULL : &reader);
    }
    if (rv != 0) {
        return rv == NGHTTP3_ERR_NOMEM ? -1 : 0;
    }
    if (status >= 200) {
        stream->responded = true;
        stream->eof_given = nothing;
        stream->ended = ended;
    }
    count_response(connection->engine, status);
    ve_connection_mark(connection);
    return 1;
}

static bool are_fields(const nghttp3_nv *fields, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!is_name(fields[i].name, fields[i].namelen) || !ve_message_is_value(fields[i].value, fields[i].valuelen)) {
            return false;
        }
    }
    return true;
}

/* 101 does not exist in HTTP/3 (RFC 9114 section 4.5). */
static bool is_status(int status) {
    return status >= 100 && status <= 599 && status != 101;
}

int ve_http_respond_fields(ve_stream *stream, int status, nghttp3_nv *fields, size_t n, bool fin) {
    if (!is_status(status) || n > MAX_RESPONSE_FIELDS + 1 || !are_fields(fields + 1, n - 1)) {
        return 0;
    }
    bool nothing = fin || has_no_body(stream, status);
    return submit(stream, status, fields, n, nothing, nothing);
}

int ve_http_respond(ve_stream *stream, int status, PyObject *headers, PyObject *body, bool fin) {
    nghttp3_nv fields[1 + MAX_RESPONSE_FIELDS];
    PyObject *sequence = NULL;
    int result = -1;
    if (!is_status(status)) {
        PyErr_Format(PyExc_ValueError, "status %d: expected 100, 102 to 599", status);
        return -1;
    }
    Py_ssize_t n = fill_fields(fields + 1, headers, &sequence);
    if (n < 0) {
        goto done;
    }
    if (stream->responded) {
        result = 0;
        goto done;
    }
    bool bodiless = has_no_body(stream, status);
    if (status >= 200 && !bodiless && body != Py_None) {
        int failed;
        if (PyObject_TypeCheck(body, (PyTypeObject *)stream->connection->engine->module->file_range)) {
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
    result = submit(stream, status, fields, (size_t)n + 1, nothing, fin || bodiless);
    if (result < 0) {
        PyErr_NoMemory();
    } else if (status >= 200 && stream->held) {
        ve_stream_discard(stream); /* no attempt follows */
    }
done:
    Py_XDECREF(sequence);
    return result;
}

static bool are_trailers(const nghttp3_nv *fields, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!ve_message_may_trail(fields[i].name, fields[i].namelen)) {
            return false;
        }
    }
    return true;
}

int ve_http_submit_trailers(ve_stream *stream, const nghttp3_nv *fields, size_t n) {
    ve_connection *connection = stream->connection;
    if (!stream->responded || stream->ended || connection->http == NULL || n > MAX_RESPONSE_FIELDS ||
        !are_fields(fields, n) || !are_trailers(fields, n)) {
        return 0;
    }
    if (n > 0) {
        int rv = nghttp3_conn_submit_trailers(connection->http, stream->id, fields, n);
        if (rv != 0) {
            return rv == NGHTTP3_ERR_NOMEM ? -1 : 0;
        }
    }
    stream->ended = true;
    ve_http_resume(stream); /* nghttp3 asks for the end of the body, then sends the trailers */
    return 1;
}

int ve_http_trailers(ve_stream *stream, PyObject *trailers) {
    nghttp3_nv fields[MAX_RESPONSE_FIELDS];
    PyObject *sequence = NULL;
    int result = -1;
    Py_ssize_t n = fill_fields(fields, trailers, &sequence);
    if (n >= 0 && !are_trailers(fields, (size_t)n)) {
        PyErr_Format(PyExc_ValueError, "trailers with a field that must come before the content: %R", trailers);
    } else if (n >= 0) {
        result = ve_http_submit_trailers(stream, fields, (size_t)n);
        if (result < 0) {
            PyErr_NoMemory();
        }
    }
    Py_XDECREF(sequence);
    return result;
}
