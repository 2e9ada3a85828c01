/* What happens when an upcall raises: counted, logged once, and the engine goes on. */
#include "engine.h"
#include "module.h"

static PyObject *take_exception(void) {
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type;
    PyObject *value;
    PyObject *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL && value != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

void ve_engine_upcall_failed(ve_engine *engine, enum ve_upcall upcall) {
    static const char *const names[VE_UPCALL_COUNT] = {"admit", "handshake", "feed", "address_token"};
    PyObject *exception = take_exception();
    engine->counters[VE_upcall_errors]++;
    if (exception == NULL) {
        return;
    }
    /* Without memory the next upcall would fail, too: whoever calls the engine shall end this worker. */
    if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception) ||
        PyErr_GivenExceptionMatches(exception, PyExc_MemoryError)) {
        if (engine->interrupt == NULL) {
            engine->interrupt = Py_NewRef(exception);
        }
    } else if (!engine->logged[upcall]) {
        /* Once per engine and upcall: what a stranger can trigger must not fill a disk. The counter goes on. */
        engine->logged[upcall] = true;
        PyObject *method = PyObject_GetAttrString(engine->module->logger, "error");
        PyObject *arguments =
            Py_BuildValue("(ss)", "upcall %s failed; its next failures are only counted", names[upcall]);
        PyObject *keywords = Py_BuildValue("{sO}", "exc_info", exception);
        PyObject *result =
            method != NULL && arguments != NULL && keywords != NULL ? PyObject_Call(method, arguments, keywords) : NULL;
        if (result == NULL) {
            PyErr_WriteUnraisable(engine->module->logger);
        }
        Py_XDECREF(result);
        Py_XDECREF(method);
        Py_XDECREF(arguments);
        Py_XDECREF(keywords);
    }
    Py_DECREF(exception);
}
