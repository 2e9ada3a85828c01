/* The Python module: its state, and what it imports from Python. */
#include "module.h"

#include "surface.h"
#include "tls.h"

#include <openssl/ssl.h>

static const char *const COUNTER_NAMES[VE_COUNTER_COUNT] = {
#define X(name) #name,
    VE_COUNTERS(X)
#undef X
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out) {
    *out = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *out == NULL ? -1 : PyModule_AddType(module, *out);
}

/* The names must be those of counters.py in the same order: the cells of a slab are found by index. */
static int check_counters(ve_module *state) {
    PyObject *counters = PyImport_ImportModule("velocity_edge.wire.counters");
    PyObject *expected = counters == NULL ? NULL : PyObject_GetAttrString(counters, "COUNTERS");
    PyObject *ours = expected == NULL ? NULL : PyTuple_New(VE_COUNTER_COUNT);
    for (int i = 0; ours != NULL && i < VE_COUNTER_COUNT; i++) {
        state->counter_names[i] = PyUnicode_InternFromString(COUNTER_NAMES[i]);
        if (state->counter_names[i] == NULL) {
            Py_CLEAR(ours);
        } else {
            PyTuple_SET_ITEM(ours, i, Py_NewRef(state->counter_names[i]));
        }
    }
    int equal = ours == NULL ? -1 : PyObject_RichCompareBool(ours, expected, Py_EQ);
    if (equal == 0) {
        PyErr_SetString(PyExc_ImportError, "the native engine was built for other counters: build it again");
    }
    Py_XDECREF(counters);
    Py_XDECREF(expected);
    Py_XDECREF(ours);
    return equal == 1 ? 0 : -1;
}

static int find_classes(ve_module *state) {
    int result = -1;
    PyObject *datagrams = PyImport_ImportModule("velocity_edge.quic.datagrams");
    PyObject *requests = datagrams == NULL ? NULL : PyImport_ImportModule("velocity_edge.http.requests");
    if (requests == NULL) {
        Py_XDECREF(datagrams);
        return -1;
    }
    state->accept = PyObject_GetAttrString(datagrams, "Accept");
    state->retry = PyObject_GetAttrString(datagrams, "Retry");
    state->refuse = PyObject_GetAttrString(datagrams, "Refuse");
    state->ignore = PyObject_GetAttrString(datagrams, "Ignore");
    state->file_range = PyObject_GetAttrString(requests, "FileRange");
    if (state->accept != NULL && state->retry != NULL && state->refuse != NULL && state->ignore != NULL &&
        state->file_range != NULL &&
        ve_record_init(&state->train, datagrams, "Train", "data segment_size peer local listener tos received_ns",
                       NULL) == 0 &&
        ve_record_init(&state->initial, datagrams, "Initial",
                       "version dcid scid token peer must_retry connections half_open", NULL) == 0 &&
        ve_record_init(&state->handshake_completed, requests, "HandshakeCompleted",
                       "connection peer alpn group cipher_suite signature_scheme server_name resumed "
                       "early_data_accepted duration_ns",
                       "HANDSHAKE_COMPLETED") == 0 &&
        ve_record_init(&state->request_received, requests, "RequestReceived",
                       "connection stream method scheme authority path headers fin early fields_too_large protocol",
                       "REQUEST_RECEIVED") == 0 &&
        ve_record_init(&state->body_received, requests, "BodyReceived", "stream data fin trailers", "BODY_RECEIVED") ==
            0 &&
        ve_record_init(&state->stream_writable, requests, "StreamWritable", "stream", "STREAM_WRITABLE") == 0 &&
        ve_record_init(&state->stream_closed, requests, "StreamClosed", "stream complete error_code",
                       "STREAM_CLOSED") == 0 &&
        ve_record_init(&state->connection_closed, requests, "ConnectionClosed",
                       "connection error_code application by_peer reason handshake_completed",
                       "CONNECTION_CLOSED") == 0) {
        result = 0;
    }
    Py_DECREF(datagrams);
    Py_DECREF(requests);
    return result;
}

/* What forwarding needs of velocity_edge/http/upstreams.py. */
static int find_upstream_classes(ve_module *state) {
    PyObject *requests = PyImport_ImportModule("velocity_edge.http.requests");
    PyObject *upstreams = requests == NULL ? NULL : PyImport_ImportModule("velocity_edge.http.upstreams");
    PyObject *errors = upstreams == NULL ? NULL : PyImport_ImportModule("velocity_edge.errors");
    state->velocity_error = errors == NULL ? NULL : PyObject_GetAttrString(errors, "VelocityError");
    int found = state->velocity_error == NULL
                    ? -1
                    : ve_record_init(&state->upstream_ended, requests, "UpstreamEnded",
                                     "stream pool outcome status head_sent body_sent reused request_bytes "
                                     "response_bytes connect_ns head_ns total_ns reason",
                                     "UPSTREAM_ENDED") |
                          ve_record_init(&state->pool_counts, upstreams, "PoolCounts",
                                         "open idle running connects connects_failed requests reused", NULL) |
                          ve_record_init(&state->forward_request, upstreams, "ForwardRequest",
                                         "method target authority fields drop add protocol max_body_bytes "
                                         "response_remove response_set response_add response_default",
                                         NULL);
    Py_XDECREF(errors);
    Py_XDECREF(upstreams);
    Py_XDECREF(requests);
    return found;
}

static int make_names(ve_module *state) {
    PyObject *logging = PyImport_ImportModule("logging");
    state->logger =
        logging == NULL ? NULL : PyObject_CallMethod(logging, "getLogger", "s", "velocity_edge.quic.native");
    Py_XDECREF(logging);
    state->empty = PyBytes_FromStringAndSize("", 0);
    state->no_fields = PyTuple_New(0);
    state->websocket = PyBytes_FromString("websocket");
    state->https = PyBytes_FromString("https");
    state->get = PyBytes_FromString("GET");
    state->name_admit = PyUnicode_InternFromString("admit");
    state->name_handshake = PyUnicode_InternFromString("handshake");
    state->name_address_token = PyUnicode_InternFromString("address_token");
    state->name_feed = PyUnicode_InternFromString("feed");
    state->name_done = PyUnicode_InternFromString("done");
    return PyErr_Occurred() ? -1 : 0;
}

static int module_exec(PyObject *module) {
    ve_module *state = PyModule_GetState(module);
    OPENSSL_init_ssl(0, NULL); /* it reads its configuration now: later no file can be opened */
    if (ve_crypto_init(&state->crypto) != 0) {
        PyErr_SetString(PyExc_ImportError, "libcrypto has no AES-GCM, ChaCha20-Poly1305 or AES-ECB");
        return -1;
    }
    if (check_counters(state) != 0 || find_classes(state) != 0 || find_upstream_classes(state) != 0 ||
        make_names(state) != 0 || add_type(module, &ve_engine_spec, &state->engine_type) != 0 ||
        add_type(module, &ve_batch_spec, &state->batch_type) != 0 ||
        add_type(module, &ve_transport_spec, &state->transport_type) != 0 ||
        add_type(module, &ve_forwarding_spec, &state->forwarding_type) != 0) {
        return -1;
    }
    return 0;
}

/* All Python objects of the state, for the garbage collector. */
/* clang-format off */
#define VE_EACH_OBJECT(X) \
    X(engine_type) \
    X(batch_type) \
    X(transport_type) \
    X(forwarding_type) \
    X(accept) \
    X(retry) \
    X(refuse) \
    X(ignore) \
    X(file_range) \
    X(velocity_error) \
    X(logger) \
    X(empty) \
    X(no_fields) \
    X(websocket) \
    X(https) \
    X(get) \
    X(name_admit) \
    X(name_handshake) \
    X(name_address_token) \
    X(name_feed) \
    X(name_done)

#define VE_EACH_RECORD(X) \
    X(train) \
    X(initial) \
    X(handshake_completed) \
    X(request_received) \
    X(body_received) \
    X(stream_writable) \
    X(stream_closed) \
    X(connection_closed) \
    X(upstream_ended) \
    X(pool_counts) \
    X(forward_request)
/* clang-format on */

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    ve_module *state = PyModule_GetState(module);
#define X(name) Py_VISIT(state->name);
    VE_EACH_OBJECT(X)
#undef X
#define X(name) Py_VISIT(state->name.type);
    VE_EACH_RECORD(X)
#undef X
    return 0;
}

static int module_clear(PyObject *module) {
    ve_module *state = PyModule_GetState(module);
#define X(name) Py_CLEAR(state->name);
    VE_EACH_OBJECT(X)
#undef X
#define X(name) ve_record_free(&state->name);
    VE_EACH_RECORD(X)
#undef X
    for (int i = 0; i < VE_COUNTER_COUNT; i++) {
        Py_CLEAR(state->counter_names[i]);
    }
    for (int i = 0; i < VE_FIELD_NAMES; i++) {
        Py_CLEAR(state->field_names[i]);
    }
    return 0;
}

static void module_free(void *module) {
    ve_module *state = PyModule_GetState(module);
    module_clear(module);
    ve_crypto_free(&state->crypto);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The native engine; see docs/native-engine.md.",
    .m_size = sizeof(ve_module),
    .m_methods = ve_module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&definition);
}
