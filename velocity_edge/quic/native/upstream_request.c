/* A request on its way to an upstream: checked, cleaned of what belongs to one connection, and copied.
 *
 * The engine has validated what the client sent; a handler or middleware may have changed it since. Nothing that an
 * upstream could take for two requests leaves this file (RFC 9112 sections 3, 5 and 11.2), whoever made it.
 */
#include "upstream.h"

#include "module.h"

enum { METHOD, TARGET, AUTHORITY, FIELDS, DROP, ADD, PROTOCOL, MAX_BODY, EDITS };

static PyObject *attribute(ve_module *module, PyObject *request, int index) {
    return *(PyObject **)((char *)request + module->forward_request.offsets[index]);
}

/* Origin form, or `*` of OPTIONS. */
static bool is_target(ve_text target, ve_text method) {
    for (size_t i = 0; i < target.length; i++) {
        uint8_t c = (uint8_t)target.at[i];
        if (c <= 0x20 || c == 0x7f || c == '#') {
            return false;
        }
    }
    return target.length > 0 && (target.at[0] == '/' || (ve_text_is(target, "*") && ve_text_is(method, "OPTIONS")));
}

static bool is_authority(ve_text authority) {
    for (size_t i = 0; i < authority.length; i++) {
        uint8_t c = (uint8_t)authority.at[i];
        if (c <= 0x20 || c >= 0x7f || strchr("/?#@\\,\"<>", c) != NULL) {
            return false;
        }
    }
    return true;
}

/* What the fields say of the message; false: they contradict themselves. */
static bool note(ve_attempt *attempt, const ve_field *field) {
    if (ve_text_is(field->name, "content-length")) {
        return attempt->content_length < 0 && ve_text_read_length(field->value, &attempt->content_length);
    }
    if (ve_text_is(field->name, "expect")) {
        attempt->expects = ve_text_equals(field->value, "100-continue");
        return attempt->expects;
    }
    return true;
}

typedef struct ve_lists {
    PyObject *fields;
    PyObject *drop;
    PyObject *add;
} ve_lists;

static bool is_dropped(const ve_lists *lists, ve_text name) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(lists->drop); i++) {
        ve_text other;
        if (ve_text_of(PySequence_Fast_GET_ITEM(lists->drop, i), &other) && other.length == name.length &&
            memcmp(other.at, name.at, name.length) == 0) {
            return true;
        }
    }
    return false;
}

/* Collect the fields that are passed on, which still are in Python's memory. False with an exception. */
static bool collect(ve_attempt *attempt, const ve_lists *lists, ve_field *out, size_t *bytes) {
    PyObject *const sources[] = {lists->fields, lists->add};
    for (int s = 0; s < 2; s++) {
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(sources[s]); i++) {
            ve_field field;
            if (!ve_field_of(PySequence_Fast_GET_ITEM(sources[s], i), &field) || !ve_text_is_token(field.name, true) ||
                !ve_text_is_value(field.value)) {
                PyErr_Format(PyExc_ValueError, "cannot forward the field %R: its name or value is invalid",
                             PySequence_Fast_GET_ITEM(sources[s], i));
                return false;
            }
            if (ve_text_is_hop_by_hop(field.name) || (s == 0 && is_dropped(lists, field.name)) ||
                (ve_text_is(field.name, "te") && !ve_text_equals(field.value, "trailers"))) {
                continue;
            }
            if (!note(attempt, &field)) {
                PyErr_Format(PyExc_ValueError, "cannot forward the field %R: it is invalid, or there are two",
                             PySequence_Fast_GET_ITEM(sources[s], i));
                return false;
            }
            *bytes += field.name.length + field.value.length;
            out[attempt->field_count++] = field;
        }
    }
    return true;
}

static void move(ve_text *text, char **to) {
    memcpy(*to, text->at, text->length);
    text->at = *to;
    *to += text->length;
}

/* The attempt in one piece of memory. NULL: none. */
static ve_attempt *copy(const ve_attempt *draft, const ve_field *fields, size_t bytes) {
    ve_attempt *attempt = malloc(sizeof *attempt + draft->field_count * sizeof *fields + bytes);
    if (attempt == NULL) {
        return NULL;
    }
    *attempt = *draft;
    attempt->fields = (ve_field *)(attempt + 1);
    char *to = (char *)(attempt->fields + draft->field_count);
    move(&attempt->method, &to);
    move(&attempt->target, &to);
    move(&attempt->authority, &to);
    for (size_t i = 0; i < draft->field_count; i++) {
        attempt->fields[i] = fields[i];
        move(&attempt->fields[i].name, &to);
        move(&attempt->fields[i].value, &to);
    }
    return attempt;
}

static ve_attempt *make(ve_module *module, PyObject *request, const ve_lists *lists) {
    ve_attempt draft = {.content_length = -1};
    ve_text protocol;
    size_t n = (size_t)(PySequence_Fast_GET_SIZE(lists->fields) + PySequence_Fast_GET_SIZE(lists->add));
    ve_field few[64];
    if (!ve_text_of(attribute(module, request, METHOD), &draft.method) ||
        !ve_text_of(attribute(module, request, TARGET), &draft.target) ||
        !ve_text_of(attribute(module, request, AUTHORITY), &draft.authority) ||
        !ve_text_of(attribute(module, request, PROTOCOL), &protocol) || !ve_text_is_token(draft.method, false) ||
        !is_target(draft.target, draft.method) || !is_authority(draft.authority)) {
        PyErr_SetString(PyExc_ValueError, "cannot forward a request with an invalid method, target or authority");
        return NULL;
    }
    if (protocol.length > 0 && !ve_text_is(protocol, "websocket")) {
        PyErr_SetString(PyExc_ValueError, "cannot forward an extended CONNECT of another protocol than websocket");
        return NULL;
    }
    draft.websocket = protocol.length > 0;
    draft.max_body_bytes = PyLong_AsUnsignedLongLong(attribute(module, request, MAX_BODY));
    if (PyErr_Occurred()) {
        return NULL;
    }
    ve_field *fields = n > sizeof few / sizeof few[0] ? PyMem_New(ve_field, n) : few;
    size_t bytes = draft.method.length + draft.target.length + draft.authority.length;
    ve_attempt *attempt = NULL;
    if (fields == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (collect(&draft, lists, fields, &bytes) && (attempt = copy(&draft, fields, bytes)) == NULL) {
        PyErr_NoMemory();
    }
    if (fields != few) {
        PyMem_Free(fields);
    }
    return attempt;
}

static bool take_edits(ve_module *module, PyObject *request, PyObject **edits) {
    for (int i = 0; i < 4; i++) {
        PyObject *sequence = attribute(module, request, EDITS + i);
        edits[i] = sequence == NULL ? NULL : PySequence_Tuple(sequence);
        if (edits[i] == NULL) {
            while (i > 0) {
                Py_DECREF(edits[--i]);
            }
            return false;
        }
    }
    return true;
}

ve_attempt *ve_attempt_new(ve_module *module, PyObject *request) {
    static const char *const message = "fields, drop and add must be sequences";
    ve_attempt *attempt = NULL;
    PyObject *edits[4];
    if (!Py_IS_TYPE(request, module->forward_request.type)) {
        PyErr_SetString(PyExc_TypeError, "forward(pool, stream, request): the request must be a ForwardRequest");
        return NULL;
    }
    ve_lists lists = {PySequence_Fast(attribute(module, request, FIELDS), message),
                      PySequence_Fast(attribute(module, request, DROP), message),
                      PySequence_Fast(attribute(module, request, ADD), message)};
    if (lists.fields != NULL && lists.drop != NULL && lists.add != NULL && take_edits(module, request, edits)) {
        attempt = make(module, request, &lists);
        for (int i = 0; i < 4; i++) {
            if (attempt != NULL) {
                attempt->edits[i] = edits[i];
            } else {
                Py_DECREF(edits[i]);
            }
        }
    }
    Py_XDECREF(lists.fields);
    Py_XDECREF(lists.drop);
    Py_XDECREF(lists.add);
    return attempt;
}
