#include "engine.h"

#include "connection.h"
#include "events.h"
#include "http.h"
#include "module.h"
#include "stream.h"

/* --- for the other files --------------------------------------------------------------------------------------------- */

void ve_engine_event(ve_engine *engine, PyObject *event) {
    if (event == NULL || PyList_Append(engine->events, event) != 0) {
        PyErr_Clear(); /* no memory for one small object: the rest of this process has the same trouble */
        engine->counters[VE_upcall_errors]++;
    }
    Py_XDECREF(event);
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
    if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception)) {
        if (engine->interrupt == NULL) {
            engine->interrupt = Py_NewRef(exception);
        }
    } else if (!engine->logged[upcall]) {
        /* Once per engine and upcall: what a stranger can trigger must not fill a disk. The counter goes on. */
        engine->logged[upcall] = true;
        PyObject *method = PyObject_GetAttrString(engine->module->logger, "error");
        PyObject *arguments = Py_BuildValue("(ss)", "upcall %s failed; its next failures are only counted", names[upcall]);
        PyObject *keywords = Py_BuildValue("{sO}", "exc_info", exception);
        PyObject *result = method != NULL && arguments != NULL && keywords != NULL
                               ? PyObject_Call(method, arguments, keywords)
                               : NULL;
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

void ve_engine_answer(ve_engine *engine, const uint8_t *data, size_t length, const ve_train *train) {
    ve_answer head = {.local = train->local, .peer = train->peer, .listener = train->listener, .length = (uint32_t)length};
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

/* --- turns ----------------------------------------------------------------------------------------------------------- */

static bool enter(ve_engine *engine) {
    if (engine->busy) {
        PyErr_SetString(PyExc_RuntimeError, "cannot call an engine from one of its upcalls, or from another thread");
        return false;
    }
    engine->busy = true;
    return true;
}

/* Read `now_ns`. It never goes back: ngtcp2 asserts that. */
static bool enter_at(ve_engine *engine, PyObject *now) {
    unsigned long long now_ns = PyLong_AsUnsignedLongLong(now);
    if (PyErr_Occurred() || !enter(engine)) {
        return false;
    }
    if (now_ns > engine->now_ns) {
        engine->now_ns = now_ns;
    }
    return true;
}

static void flush_bodies(ve_engine *engine) {
    for (size_t i = 0; i < engine->body_count; i++) {
        ve_stream *stream = ve_handle_find(&engine->streams, engine->bodies[i]);
        if (stream != NULL) {
            ve_stream_body_event(stream);
        }
    }
    engine->body_count = 0;
}

/* The events of a turn, or what an upcall must not swallow. */
static PyObject *leave_with_events(ve_engine *engine) {
    flush_bodies(engine);
    engine->busy = false;
    if (engine->interrupt != NULL) {
        PyObject *interrupt = engine->interrupt;
        engine->interrupt = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(interrupt), interrupt);
        Py_DECREF(interrupt);
        return NULL;
    }
    PyObject *fresh = PyList_New(0);
    if (fresh == NULL) {
        return NULL;
    }
    PyObject *events = engine->events;
    engine->events = fresh;
    return events;
}

static ve_batch *as_batch(ve_engine *engine, PyObject *object) {
    if (!PyObject_TypeCheck(object, engine->module->batch_type) || ((ve_batch *)object)->engine != engine) {
        PyErr_SetString(PyExc_TypeError, "not a batch of this engine");
        return NULL;
    }
    return (ve_batch *)object;
}

static PyObject *engine_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(batch, now_ns)");
        return NULL;
    }
    ve_batch *batch = as_batch(engine, arguments[0]);
    if (batch == NULL || !enter_at(engine, arguments[1])) {
        return NULL;
    }
    batch->busy = true;
    for (unsigned i = batch->first; i < batch->count; i++) {
        const ve_train *train = &batch->trains[i];
        uint32_t offset = 0;
        do {
            uint32_t left = train->length - offset;
            uint32_t length = left < train->segment_size ? left : train->segment_size;
            ve_demux(engine, train, batch->memory + train->offset + offset, length);
            offset += length;
        } while (offset < train->length);
    }
    ve_batch_clear(batch);
    batch->busy = false;
    return leave_with_events(engine);
}

static bool send_answers(ve_engine *engine, ve_batch *batch) {
    size_t offset = 0;
    while (offset < engine->answer_bytes) {
        ve_answer head;
        memcpy(&head, engine->answers + offset, sizeof head);
        if (!ve_batch_add(batch, engine->answers + offset + sizeof head, head.length, &head.local, &head.peer,
                          head.listener)) {
            break;
        }
        offset += sizeof head + head.length;
    }
    engine->answer_bytes -= offset;
    memmove(engine->answers, engine->answers + offset, engine->answer_bytes);
    return engine->answer_bytes == 0;
}

static void send_connections(ve_engine *engine, ve_batch *batch) {
    while (engine->dirty_first != NULL) {
        ve_connection *connection = engine->dirty_first;
        engine->dirty_first = connection->dirty_next;
        if (engine->dirty_first == NULL) {
            engine->dirty_last = NULL;
        }
        connection->dirty = false;
        switch (ve_connection_write(connection, batch)) {
        case VE_WRITTEN_MORE:
            ve_connection_mark(connection);
            break;
        case VE_WRITTEN_FULL:
            ve_connection_mark(connection);
            return;
        case VE_WRITTEN_ALL:
        case VE_WRITTEN_LAST:
            break;
        }
    }
}

static PyObject *engine_send(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "send(batch, now_ns)");
        return NULL;
    }
    ve_batch *batch = as_batch(engine, arguments[0]);
    if (batch == NULL) {
        return NULL;
    }
    if (batch->count != batch->first) {
        PyErr_SetString(PyExc_ValueError, "send() needs an empty batch");
        return NULL;
    }
    if (!enter_at(engine, arguments[1])) {
        return NULL;
    }
    ve_batch_clear(batch);
    batch->busy = true;
    if (engine->answer_bytes == 0 || send_answers(engine, batch)) {
        send_connections(engine, batch);
    }
    batch->busy = false;
    engine->busy = false;
    return PyBool_FromLong(batch->count > 0);
}

static PyObject *engine_expire(PyObject *self, PyObject *now) {
    ve_engine *engine = (ve_engine *)self;
    if (!enter_at(engine, now)) {
        return NULL;
    }
    ve_connection *due;
    while ((due = ve_timer_first(&engine->timers)) != NULL && due->deadline_ns <= engine->now_ns) {
        ve_connection_expire(due);
    }
    return leave_with_events(engine);
}

static PyObject *engine_next_timer_ns(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    const ve_connection *first = ve_timer_first(&engine->timers);
    (void)unused;
    if (PyList_GET_SIZE(engine->events) > 0) {
        return PyLong_FromUnsignedLongLong(engine->now_ns); /* made while sending: fetched by expire() */
    }
    if (first == NULL || first->deadline_ns == VE_NEVER) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(first->deadline_ns);
}

static PyObject *engine_strays(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    (void)unused;
    PyObject *fresh = PyList_New(0);
    if (fresh == NULL) {
        return NULL;
    }
    PyObject *strays = engine->strays;
    engine->strays = fresh;
    return strays;
}

/* --- answers --------------------------------------------------------------------------------------------------------- */

/* The stream of a handle; NULL without an exception when it is gone. */
static ve_stream *find_stream(ve_engine *engine, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&engine->streams, number);
}

static ve_connection *find_connection(ve_engine *engine, PyObject *handle) {
    unsigned long long number = PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() ? NULL : ve_handle_find(&engine->connections, number);
}

static PyObject *engine_respond(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *body = n >= 4 ? arguments[3] : Py_None;
    int fin = 1;
    if (n < 3 || n > 4) {
        PyErr_SetString(PyExc_TypeError, "respond(stream, status, headers, body=None, *, fin=True)");
        return NULL;
    }
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        if (PyUnicode_CompareWithASCIIString(name, "fin") == 0) {
            fin = PyObject_IsTrue(arguments[n + i]);
        } else if (n < 4 && PyUnicode_CompareWithASCIIString(name, "body") == 0) {
            body = arguments[n + i];
        } else {
            return PyErr_Format(PyExc_TypeError, "respond() has no argument %R", name);
        }
    }
    long status = PyLong_AsLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !enter(engine)) {
        return NULL;
    }
    int done = stream == NULL || !stream->headers_done
                   ? 0
                   : ve_http_respond(stream, (int)status, arguments[2], body, fin != 0);
    engine->busy = false;
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *engine_write(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2 || names == NULL || PyTuple_GET_SIZE(names) != 1 ||
        PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "fin") != 0) {
        PyErr_SetString(PyExc_TypeError, "write(stream, data, *, fin)");
        return NULL;
    }
    int fin = PyObject_IsTrue(arguments[2]);
    ve_stream *stream = find_stream(engine, arguments[0]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *data = PyBytes_FromObject(arguments[1]); /* the same object when it is bytes */
    if (data == NULL || !enter(engine)) {
        Py_XDECREF(data);
        return NULL;
    }
    PyObject *result = NULL;
    if (stream == NULL || !stream->responded || stream->ended) {
        result = PyLong_FromLong(-1);
    } else if (ve_stream_push(stream, data) == 0) {
        stream->ended = fin != 0;
        stream->wants_writable = stream->unsent >= engine->limits.send_high_bytes;
        ve_http_resume(stream);
        result = PyLong_FromSize_t(stream->unsent);
    }
    engine->busy = false;
    Py_DECREF(data);
    return result;
}

static PyObject *engine_credit(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "credit(stream, n_bytes)");
        return NULL;
    }
    unsigned long long bytes = PyLong_AsUnsignedLongLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !enter(engine)) {
        return NULL;
    }
    if (stream != NULL) {
        ve_connection *connection = stream->connection;
        bytes = bytes < stream->uncredited ? bytes : stream->uncredited;
        stream->uncredited -= bytes;
        ngtcp2_conn_extend_max_offset(connection->quic, bytes);
        if (ngtcp2_conn_extend_max_stream_offset(connection->quic, stream->id, bytes) != 0) {
            ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_INTERNAL_ERROR, "");
            connection->close_requested = true;
        }
        ve_connection_mark(connection);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

static PyObject *engine_reset(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_engine *engine = (ve_engine *)self;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "reset(stream, error_code)");
        return NULL;
    }
    unsigned long long code = PyLong_AsUnsignedLongLong(arguments[1]);
    ve_stream *stream = PyErr_Occurred() ? NULL : find_stream(engine, arguments[0]);
    if (PyErr_Occurred() || !enter(engine)) {
        return NULL;
    }
    if (stream != NULL) {
        ve_connection_reset_stream(stream->connection, stream, code);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

static PyObject *engine_close(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"connection", "error_code", "reason", NULL};
    ve_engine *engine = (ve_engine *)self;
    PyObject *handle;
    unsigned long long code;
    const char *reason = "";
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OK|s:close", names, &handle, &code, &reason)) {
        return NULL;
    }
    ve_connection *connection = find_connection(engine, handle);
    if (PyErr_Occurred() || !enter(engine)) {
        return NULL;
    }
    if (connection != NULL) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, code, reason);
        connection->close_requested = true;
        ve_connection_mark(connection);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

static PyObject *engine_goaway(PyObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"connection", "final", NULL};
    ve_engine *engine = (ve_engine *)self;
    PyObject *handle;
    int final;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O$p:goaway", names, &handle, &final)) {
        return NULL;
    }
    ve_connection *connection = find_connection(engine, handle);
    if (PyErr_Occurred() || !enter(engine)) {
        return NULL;
    }
    if (connection != NULL && connection->http != NULL) {
        int rv = final ? nghttp3_conn_shutdown(connection->http) : nghttp3_conn_submit_shutdown_notice(connection->http);
        if (rv != 0) {
            ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_INTERNAL_ERROR, nghttp3_strerror(rv));
            connection->close_requested = true;
        }
        ve_connection_mark(connection);
    }
    engine->busy = false;
    Py_RETURN_NONE;
}

/* --- what it knows --------------------------------------------------------------------------------------------------- */

static PyObject *engine_connections(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *list = PyList_New(0);
    (void)unused;
    for (ve_connection *c = engine->open_first; list != NULL && c != NULL; c = c->next) {
        PyObject *row = Py_BuildValue("(KKI)", (unsigned long long)c->handle,
                                      (unsigned long long)(engine->now_ns - c->opened_ns), c->stream_count);
        if (row == NULL || PyList_Append(list, row) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *engine_counters(PyObject *self, PyObject *unused) {
    ve_engine *engine = (ve_engine *)self;
    PyObject *counters = PyDict_New();
    (void)unused;
    for (int i = 0; counters != NULL && i < VE_COUNTER_COUNT; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(engine->counters[i]);
        if (value == NULL || PyDict_SetItem(counters, engine->module->counter_names[i], value) != 0) {
            Py_CLEAR(counters);
        }
        Py_XDECREF(value);
    }
    return counters;
}

static PyObject *engine_batch(PyObject *self, PyObject *unused) {
    (void)unused;
    return ve_batch_new((ve_engine *)self);
}

static PyObject *engine_use_keys(PyObject *self, PyObject *keys) {
    ve_engine *engine = (ve_engine *)self;
    if (!enter(engine)) {
        return NULL;
    }
    int rv = ve_cids_use(&engine->cids, &engine->module->crypto, keys);
    engine->busy = false;
    if (rv != 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *engine_use_roster(PyObject *self, PyObject *ids) {
    ve_engine *engine = (ve_engine *)self;
    uint8_t live[sizeof engine->live_workers] = {0};
    PyObject *iterator = PyObject_GetIter(ids);
    PyObject *item;
    if (iterator == NULL) {
        return NULL;
    }
    while ((item = PyIter_Next(iterator)) != NULL) {
        long id = PyLong_AsLong(item);
        Py_DECREF(item);
        if (!PyErr_Occurred() && (id < 0 || id > 65535)) {
            PyErr_Format(PyExc_ValueError, "worker id %ld is not in 0..65535", id);
        }
        if (PyErr_Occurred()) {
            break;
        }
        live[id / 8] |= (uint8_t)(1 << (id % 8));
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred()) {
        return NULL;
    }
    memcpy(engine->live_workers, live, sizeof live);
    Py_RETURN_NONE;
}

/* --- birth and death ------------------------------------------------------------------------------------------------- */

/* A non-negative number in attribute `name`, times `scale`. */
static uint64_t number(PyObject *object, const char *name, double scale) {
    if (PyErr_Occurred()) {
        return 0;
    }
    PyObject *value = PyObject_GetAttrString(object, name);
    double result = value == NULL ? 0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    if (!PyErr_Occurred() && !(result >= 0 && result * scale < 9e18)) {
        PyErr_Format(PyExc_ValueError, "%s is out of range", name);
    }
    return PyErr_Occurred() ? 0 : (uint64_t)(result * scale);
}

static void read_limits(ve_limits *limits, PyObject *object) {
    limits->max_connections = number(object, "max_connections", 1);
    limits->max_half_open = number(object, "max_half_open", 1);
    limits->handshake_timeout_ns = number(object, "handshake_timeout_s", 1e9);
    limits->idle_timeout_ns = number(object, "idle_timeout_s", 1e9);
    limits->max_crypto_bytes = number(object, "max_crypto_bytes", 1);
    limits->stream_window_bytes = number(object, "stream_window_bytes", 1);
    limits->connection_window_bytes = number(object, "connection_window_bytes", 1);
    limits->max_streams_bidi = number(object, "max_streams_bidi", 1);
    limits->max_streams_uni = number(object, "max_streams_uni", 1);
    limits->max_field_section_bytes = number(object, "max_field_section_bytes", 1);
    limits->send_high_bytes = number(object, "send_high_bytes", 1);
    limits->send_low_bytes = number(object, "send_low_bytes", 1);
    limits->max_unacked_bytes = number(object, "max_unacked_bytes", 1);
    limits->max_unacked_bytes_per_worker = number(object, "max_unacked_bytes_per_worker", 1);
    limits->max_active_cids = number(object, "max_active_cids", 1);
    limits->max_glitches_per_s = (unsigned)number(object, "max_glitches_per_s", 1);
    limits->request_timeout_ns = number(object, "request_timeout_s", 1e9);
    limits->max_resets_per_s = (unsigned)number(object, "max_resets_per_s", 1);
    limits->max_version_negotiations_per_s = (unsigned)number(object, "max_version_negotiations_per_s", 1);
}

static void read_congestion_control(ve_engine *engine, PyObject *settings) {
    static const struct {
        const char *name;
        ngtcp2_cc_algo algorithm;
    } known[] = {{"cubic", NGTCP2_CC_ALGO_CUBIC}, {"bbr", NGTCP2_CC_ALGO_BBR}, {"reno", NGTCP2_CC_ALGO_RENO}};
    PyObject *name = PyErr_Occurred() ? NULL : PyObject_GetAttrString(settings, "congestion_control");
    if (name == NULL) {
        return;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, known[i].name) == 0) {
            engine->congestion_control = known[i].algorithm;
            Py_DECREF(name);
            return;
        }
    }
    PyErr_Format(PyExc_ValueError, "congestion_control %R is not cubic, bbr or reno", name);
    Py_DECREF(name);
}

static void read_settings(ve_engine *engine, PyObject *settings) {
    PyObject *limits = PyObject_GetAttrString(settings, "limits");
    if (limits == NULL) {
        return;
    }
    read_limits(&engine->limits, limits);
    Py_DECREF(limits);
    engine->worker_id = (uint16_t)number(settings, "worker_id", 1);
    engine->node_id = (uint32_t)number(settings, "node_id", 1);
    read_congestion_control(engine, settings);
}

static PyObject *engine_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"settings", "upcalls", NULL};
    PyObject *settings;
    PyObject *upcalls;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OO:NativeEngine", names, &settings, &upcalls)) {
        return NULL;
    }
    ve_engine *engine = (ve_engine *)type->tp_alloc(type, 0);
    if (engine == NULL) {
        return NULL;
    }
    engine->module = PyType_GetModuleState(type);
    engine->upcalls = Py_NewRef(upcalls);
    engine->events = PyList_New(0);
    engine->strays = PyList_New(0);
    ve_cids_init(&engine->cids);
    ve_handles_init(&engine->connections);
    ve_handles_init(&engine->streams);
    if (ve_id_table_init(&engine->ids) != 0) {
        PyErr_NoMemory();
    } else if (!PyErr_Occurred()) {
        read_settings(engine, settings);
    }
    if (PyErr_Occurred()) {
        Py_DECREF(engine);
        return NULL;
    }
    return (PyObject *)engine;
}

static int engine_traverse(PyObject *self, visitproc visit, void *arg) {
    ve_engine *engine = (ve_engine *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(engine->upcalls);
    Py_VISIT(engine->events);
    Py_VISIT(engine->strays);
    Py_VISIT(engine->interrupt);
    for (ve_connection *c = engine->open_first; c != NULL; c = c->next) {
        Py_VISIT(c->handshake);
    }
    return 0;
}

static int engine_clear(PyObject *self) {
    ve_engine *engine = (ve_engine *)self;
    Py_XSETREF(engine->upcalls, Py_NewRef(Py_None)); /* an engine in a dying cycle may still be called */
    Py_CLEAR(engine->interrupt);
    return 0;
}

static void engine_dealloc(PyObject *self) {
    ve_engine *engine = (ve_engine *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    engine->busy = true;
    while (engine->open_first != NULL) {
        ve_connection_free(engine->open_first);
    }
    while (engine->closing_first != NULL) {
        ve_connection_free(engine->closing_first);
    }
    ve_timers_free(&engine->timers);
    ve_id_table_free(&engine->ids);
    ve_handles_free(&engine->connections);
    ve_handles_free(&engine->streams);
    ve_cids_free(&engine->cids);
    free(engine->bodies);
    free(engine->answers);
    Py_CLEAR(engine->upcalls);
    Py_CLEAR(engine->events);
    Py_CLEAR(engine->strays);
    Py_CLEAR(engine->interrupt);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *engine_name(PyObject *self, void *unused) {
    (void)self;
    (void)unused;
    return PyUnicode_FromString("native");
}

static PyObject *engine_gauge(PyObject *self, void *which) {
    ve_engine *engine = (ve_engine *)self;
    switch ((intptr_t)which) {
    case 0:
        return PyLong_FromSize_t(engine->open_count);
    case 1:
        return PyLong_FromSize_t(engine->half_open);
    case 2:
        return PyLong_FromSize_t(engine->stream_count);
    case 3:
        return PyLong_FromSize_t(engine->closing_count);
    default:
        return PyLong_FromSize_t(engine->unacked);
    }
}

static PyGetSetDef engine_attributes[] = {
    {"name", engine_name, NULL, "\"native\"", NULL},
    {"connection_count", engine_gauge, NULL, "Open connections.", (void *)0},
    {"half_open_count", engine_gauge, NULL, "Those of them whose handshake is not complete.", (void *)1},
    {"stream_count", engine_gauge, NULL, "Open request streams.", (void *)2},
    {"closing_count", engine_gauge, NULL, "Connections in the closing or draining state.", (void *)3},
    {"unacked_bytes", engine_gauge, NULL, "Bytes of bodies in flight.", (void *)4},
    {0},
};

#define FAST(function) (PyCFunction)(void (*)(void))(function)
static PyMethodDef engine_methods[] = {
    {"batch", engine_batch, METH_NOARGS, "Return a new batch."},
    {"use_keys", engine_use_keys, METH_O, "Use these keys from now on."},
    {"use_roster", engine_use_roster, METH_O, "Whose packets are handed over."},
    {"receive", FAST(engine_receive), METH_FASTCALL, "Take in all trains of the batch and clear it."},
    {"strays", engine_strays, METH_NOARGS, "Return and forget the datagrams of other workers."},
    {"send", FAST(engine_send), METH_FASTCALL, "Fill the batch with what must leave."},
    {"next_timer_ns", engine_next_timer_ns, METH_NOARGS, "When expire() must be called, or None."},
    {"expire", engine_expire, METH_O, "Handle what is due."},
    {"respond", FAST(engine_respond), METH_FASTCALL | METH_KEYWORDS, "Answer a request."},
    {"write", FAST(engine_write), METH_FASTCALL | METH_KEYWORDS, "Add to a response's body."},
    {"credit", FAST(engine_credit), METH_FASTCALL, "The handler consumed that much of a request's body."},
    {"reset", FAST(engine_reset), METH_FASTCALL, "Abandon a stream both ways."},
    {"close", FAST(engine_close), METH_VARARGS | METH_KEYWORDS, "Close a connection."},
    {"goaway", FAST(engine_goaway), METH_VARARGS | METH_KEYWORDS, "Send GOAWAY."},
    {"connections", engine_connections, METH_NOARGS, "(connection, age in ns, open streams) of each."},
    {"counters", engine_counters, METH_NOARGS, "All counters since the engine began."},
    {0},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, "QUIC v1 and HTTP/3 on ngtcp2 and nghttp3 (velocity_edge.quic.engine.Engine)."},
    {Py_tp_new, engine_new},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_attributes},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_dealloc, engine_dealloc},
    {0, NULL},
};

PyType_Spec ve_engine_spec = {
    .name = "velocity_edge.quic.native._native.NativeEngine",
    .basicsize = sizeof(ve_engine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};
