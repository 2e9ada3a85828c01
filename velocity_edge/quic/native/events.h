/* Objects for Python: instances of the frozen dataclasses of velocity_edge/quic/datagrams.py and
 * velocity_edge/http/requests.py.
 *
 * They are made without calling __init__: a dataclass with slots keeps each field in a T_OBJECT_EX member at a fixed
 * offset, and writing there is as fast as filling a tuple. Both engines use one definition, and the module cannot be
 * imported when a field is not where it was.
 */
#ifndef VE_EVENTS_H
#define VE_EVENTS_H

#include "base.h"

enum { VE_RECORD_FIELDS = 16 };

typedef struct ve_record {
    PyTypeObject *type;
    int count;
    Py_ssize_t offsets[VE_RECORD_FIELDS];
    PyObject *kind; /* the last field of an event; NULL in other records */
} ve_record;

/* `names`: the fields in the order of ve_record_new()'s values, separated by spaces. 0, or -1 with an exception. */
int ve_record_init(ve_record *record, PyObject *module, const char *type_name, const char *names, const char *kind);
void ve_record_free(ve_record *record);

/* Make an instance. Takes over the references in `values`, also when it fails or when one of them is NULL. */
PyObject *ve_record_new(const ve_record *record, PyObject **values);

#endif
