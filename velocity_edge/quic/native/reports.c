/* Reports of any layer to the engine: an event for Python, a packet without a connection, a failed upcall. */
#include "engine.h"

#include "module.h"

void ve_engine_event(ve_engine *engine, PyObject *event) {
    if (event == NULL || PyList_Append(engine->events, event) != 0) {
        PyErr_Clear(); /* no memory for a small object: the rest of the process will fail as well */
        engine->counters[VE_upcall_errors]++;
    }
    Py_XDECREF(event);
}

void ve_engine_answer(ve_engine *engine, const uint8_t *data, size_t length, const ve_train *train) {
    ve_answer head = {
        .local = train->local, .peer = train->peer, .listener = train->listener, .length = (uint32_t)length};
    if (engine->answer_bytes + sizeof head + length > VE_MAX_ANSWER_BYTES) {
        engine->counters[VE_send_errors]++;
        return;
    }
    if (engine->answers == NULL) {
        engine->answers = malloc(VE_MAX_ANSWER_BYTES);
        if (engine->answers == NULL) {
            engine->counters[VE_send_errors]++;
            return;
        }
    }
    memcpy(engine->answers + engine->answer_bytes, &head, sizeof head);
    memcpy(engine->answers + engine->answer_bytes + sizeof head, data, length);
    engine->answer_bytes += sizeof head + length;
}

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
    /* Without memory the next upcall would fail too: raise it to the caller of the engine, which ends the worker. */
    if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception) ||
        PyErr_GivenExceptionMatches(exception, PyExc_MemoryError)) {
        if (engine->interrupt == NULL) {
            engine->interrupt = Py_NewRef(exception);
        }
    } else if (!engine->logged[upcall]) {
        /* Once per engine and upcall: what a peer can cause must not fill a disk. The counter continues. */
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
