/* RequestReceived from a well-formed request. */
#include "http.h"

#include "connection.h"
#include "engine.h"
#include "events.h"
#include "message.h"
#include "module.h"
#include "section.h"
#include "stream.h"

static PyObject *to_bytes(nghttp3_rcbuf *buffer) {
    nghttp3_vec v = nghttp3_rcbuf_get_buf(buffer);
    return PyBytes_FromStringAndSize((const char *)v.base, (Py_ssize_t)v.len);
}

/* Names in the QPACK static table have a token: one bytes object serves all requests. */
static PyObject *field_name(ve_module *module, int32_t token, nghttp3_rcbuf *name) {
    if (token < 0 || token >= VE_FIELD_NAMES) {
        return to_bytes(name);
    }
    if (module->field_names[token] == NULL) {
        module->field_names[token] = to_bytes(name);
    }
    return Py_XNewRef(module->field_names[token]);
}

/* The value as bytes; b"" when the field is absent. When it equals `common`, that object is used. */
static PyObject *value_of(ve_module *module, const nghttp3_qpack_nv *field, PyObject *common) {
    if (field == NULL) {
        return Py_NewRef(module->empty);
    }
    nghttp3_vec v = nghttp3_rcbuf_get_buf(field->value);
    if (v.len == (size_t)PyBytes_GET_SIZE(common) && memcmp(v.base, PyBytes_AS_STRING(common), v.len) == 0) {
        return Py_NewRef(common);
    }
    return to_bytes(field->value);
}

PyObject *ve_http_fields(ve_module *module, const nghttp3_qpack_nv *fields, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *pair = PyTuple_New(2);
        PyObject *name = field_name(module, fields[i].token, fields[i].name);
        PyObject *value = to_bytes(fields[i].value);
        if (pair == NULL || name == NULL || value == NULL) {
            Py_XDECREF(pair);
            Py_XDECREF(name);
            Py_XDECREF(value);
            Py_CLEAR(list);
            break;
        }
        PyTuple_SET_ITEM(pair, 0, name);
        PyTuple_SET_ITEM(pair, 1, value);
        PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

void ve_http_request_event(ve_stream *stream, const ve_sections *section, const ve_head *head, bool fin) {
    ve_connection *connection = stream->connection;
    ve_engine *engine = connection->engine;
    ve_module *module = engine->module;
    /* A section above the advertised limit is answered with 431 and not shown (RFC 6585 section 5). */
    bool too_large = section->bytes > connection->max_field_section_bytes;
    const ve_head nothing = {0};
    const ve_head *shown = too_large ? &nothing : head;
    const nghttp3_qpack_nv *authority = shown->authority != NULL ? shown->authority : shown->host;
    nghttp3_vec method = nghttp3_rcbuf_get_buf(head->method->value);
    ve_stream_not_incomplete(stream);
    stream->headers_done = true;
    stream->request_ended = fin;
    stream->head = method.len == 4 && memcmp(method.base, "HEAD", 4) == 0;
    stream->body_left = head->content_length;
    stream->tunnel = head->protocol != NULL;
    ve_priority_of_request(stream, section, head->pseudo);
    engine->counters[VE_requests]++;
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        PyLong_FromUnsignedLongLong(stream->handle),
        value_of(module, head->method, module->get),
        value_of(module, shown->scheme, module->https),
        value_of(module, authority, module->empty),
        value_of(module, shown->path, module->empty),
        too_large ? PyList_New(0)
                  : ve_http_fields(module, section->fields + head->pseudo, section->count - head->pseudo),
        PyBool_FromLong(fin),
        PyBool_FromLong(stream->early),
        PyBool_FromLong(too_large),
        value_of(module, shown->protocol, module->websocket),
    };
    ve_engine_event(engine, ve_record_new(&module->request_received, values));
}
