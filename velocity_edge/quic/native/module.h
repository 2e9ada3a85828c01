/* What all engines of a process share: types, classes of datagrams.py and requests.py, interned names, ciphers.
 *
 * Ownership: this is the state of the module. Each heap type keeps the module alive, so engines borrow a pointer to
 * it. Nothing else in this extension is global.
 */
#ifndef VE_MODULE_H
#define VE_MODULE_H

#include "base.h"
#include "crypto.h"
#include "events.h"

enum { VE_FIELD_NAMES = 128 };

struct ve_module {
    ve_crypto crypto;
    PyTypeObject *engine_type;
    PyTypeObject *batch_type;
    PyTypeObject *transport_type;
    PyTypeObject *forwarding_type;
    ve_record train;
    ve_record initial;
    ve_record handshake_completed;
    ve_record request_received;
    ve_record body_received;
    ve_record stream_writable;
    ve_record stream_closed;
    ve_record connection_closed;
    ve_record upstream_ended;
    ve_record pool_counts;
    ve_record forward_request; /* only read */
    PyObject *accept;
    PyObject *retry;
    PyObject *refuse;
    PyObject *ignore;
    PyObject *file_range;
    PyObject *velocity_error;
    PyObject *logger;
    PyObject *empty; /* b"" */
    PyObject *counter_names[VE_COUNTER_COUNT];
    PyObject *field_names[VE_FIELD_NAMES]; /* names of common fields, by nghttp3's QPACK token; made when first used */
    PyObject *no_fields;                   /* () */
    PyObject *https;
    PyObject *websocket;
    PyObject *get;
    PyObject *name_admit;
    PyObject *name_handshake;
    PyObject *name_address_token;
    PyObject *name_feed;
    PyObject *name_done;
};

#endif
