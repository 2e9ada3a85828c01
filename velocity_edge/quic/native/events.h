/* The objects that Python sees: instances of the frozen dataclasses of velocity_edge/quic/datagrams.py.
 *
 * They are made without calling __init__: a dataclass with slots keeps each field in a T_OBJECT_EX member at a known
 * offset, and writing there costs no more than filling a tuple. One definition serves both engines, and the module
 * refuses to load when a field is not where it was.
 */
#ifndef VE_EVENTS_H
#define VE_EVENTS_H

#include "base.h"

enum { VE_RECORD_FIELDS = 12 };

typedef struct ve_record {
    PyTypeObject *type;
    int count;
    Py_ssize_t offsets[VE_RECORD_FIELDS];
    PyObject *kind; /* the last field of an event; NULL in other records */
} ve_record;

/* `names`: the fields in the order of ve_record_new(), separated by spaces. 0, or -1 with an exception. */
int ve_record_init(ve_record *record, PyObject *module, const char *type_name, const char *names, const char *kind);
void ve_record_free(ve_record *record);

/* Takes over the references in `values`, also when it fails or one of them is NULL. */
PyObject *ve_record_new(const ve_record *record, PyObject **values);

#endif
