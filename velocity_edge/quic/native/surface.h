/* What Python can call: types, and methods that are defined in other files than the table of their type. */
#ifndef VE_SURFACE_H
#define VE_SURFACE_H

#include "engine.h"

extern PyType_Spec ve_engine_spec;        /* engine.c */
extern PyType_Spec ve_batch_spec;         /* trains.c */
extern PyType_Spec ve_forwarding_spec;    /* forwarding.c */
extern PyMethodDef ve_module_functions[]; /* functions.c */

/* Begin a call. False (with an exception): the engine is in use, by an upcall of the same thread or by another
 * thread. */
static inline bool ve_engine_enter(ve_engine *engine) {
    if (engine->busy) {
        PyErr_SetString(PyExc_RuntimeError, "cannot call an engine from one of its upcalls, or from another thread");
        return false;
    }
    engine->busy = true;
    return true;
}

/* forwarding.c */
PyObject *ve_engine_forwarding(PyObject *self, PyObject *unused);

/* turns.c */

/* Begin a turn at this time; false with an exception. */
bool ve_engine_enter_at(ve_engine *engine, PyObject *now);
/* End it: its events, or the exception that an upcall must not suppress. */
PyObject *ve_engine_leave(ve_engine *engine);
PyObject *ve_engine_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_engine_send(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_engine_expire(PyObject *self, PyObject *now);
PyObject *ve_engine_next_timer_ns(PyObject *self, PyObject *unused);
PyObject *ve_engine_strays(PyObject *self, PyObject *unused);

/* replies.c */
PyObject *ve_engine_respond(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names);
PyObject *ve_engine_write(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names);
PyObject *ve_engine_trailers(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_engine_credit(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_engine_reset(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_engine_close(PyObject *self, PyObject *arguments, PyObject *keywords);
PyObject *ve_engine_goaway(PyObject *self, PyObject *arguments, PyObject *keywords);

/* settings.c; they report failure by an exception */
void ve_engine_read_settings(ve_engine *engine, PyObject *settings);
PyObject *ve_engine_use_settings(PyObject *self, PyObject *settings);
PyObject *ve_engine_use_keys(PyObject *self, PyObject *keys);
PyObject *ve_engine_use_roster(PyObject *self, PyObject *ids);

/* queries.c */
PyObject *ve_engine_connections(PyObject *self, PyObject *unused);
PyObject *ve_engine_connections_by_config(PyObject *self, PyObject *unused);
PyObject *ve_engine_connections_on(PyObject *self, PyObject *configs);
PyObject *ve_engine_rename(PyObject *self, PyObject *connection);
PyObject *ve_engine_counters(PyObject *self, PyObject *unused);

/* trains.c, receiving.c, sending.c */
PyObject *ve_batch_new(ve_engine *engine);
PyObject *ve_batch_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n);
PyObject *ve_batch_transmit(PyObject *self, PyObject *sequence);

#endif
