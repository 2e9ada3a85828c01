/* Objects for Python, made without calling __init__. */
#include "events.h"

#include <structmember.h>

static int find_offset(PyTypeObject *type, const char *name, Py_ssize_t *offset) {
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    if (descriptor == NULL) {
        return -1;
    }
    bool good = Py_IS_TYPE(descriptor, &PyMemberDescr_Type);
    if (good) {
        const PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        good = member->type == T_OBJECT_EX;
        *offset = member->offset;
    }
    Py_DECREF(descriptor);
    if (!good) {
        PyErr_Format(PyExc_ImportError,
                     "%s.%s is not a slot: the native engine was built for other Python sources: build it again",
                     type->tp_name, name);
        return -1;
    }
    return 0;
}

int ve_record_init(ve_record *record, PyObject *module, const char *type_name, const char *names, const char *kind) {
    char buffer[256];
    PyObject *type = PyObject_GetAttrString(module, type_name);
    if (type == NULL) {
        return -1;
    }
    if (!PyType_Check(type)) {
        Py_DECREF(type);
        PyErr_Format(PyExc_ImportError, "%s is not a class", type_name);
        return -1;
    }
    record->type = (PyTypeObject *)type;
    record->count = 0;
    snprintf(buffer, sizeof buffer, "%s%s", names, kind == NULL ? "" : " kind");
    char *rest = NULL;
    for (char *name = strtok_r(buffer, " ", &rest); name != NULL; name = strtok_r(NULL, " ", &rest)) {
        if (record->count == VE_RECORD_FIELDS) {
            PyErr_Format(PyExc_ImportError, "%s has too many fields", type_name);
            return -1;
        }
        if (find_offset(record->type, name, &record->offsets[record->count]) != 0) {
            return -1;
        }
        record->count++;
    }
    PyObject *fields = PyObject_GetAttrString(type, "__dataclass_fields__");
    Py_ssize_t expected = fields == NULL ? -1 : PyObject_Length(fields);
    Py_XDECREF(fields);
    if (expected < 0) {
        return -1;
    }
    if (expected != record->count) {
        PyErr_Format(PyExc_ImportError, "%s has %zd fields, the native engine was built for %d: build it again",
                     type_name, expected, record->count);
        return -1;
    }
    if (kind != NULL) {
        PyObject *kinds = PyObject_GetAttrString(module, "EventKind");
        record->kind = kinds == NULL ? NULL : PyObject_GetAttrString(kinds, kind);
        Py_XDECREF(kinds);
        if (record->kind == NULL) {
            return -1;
        }
    }
    return 0;
}

void ve_record_free(ve_record *record) {
    Py_CLEAR(record->type);
    Py_CLEAR(record->kind);
}

PyObject *ve_record_new(const ve_record *record, PyObject **values) {
    int given = record->kind == NULL ? record->count : record->count - 1;
    bool whole = true;
    for (int i = 0; i < given; i++) {
        whole = whole && values[i] != NULL;
    }
    PyObject *object = whole ? record->type->tp_alloc(record->type, 0) : NULL;
    if (object == NULL) {
        for (int i = 0; i < given; i++) {
            Py_XDECREF(values[i]);
        }
        return NULL;
    }
    for (int i = 0; i < given; i++) {
        *(PyObject **)((char *)object + record->offsets[i]) = values[i];
    }
    if (record->kind != NULL) {
        *(PyObject **)((char *)object + record->offsets[given]) = Py_NewRef(record->kind);
    }
    return object;
}
