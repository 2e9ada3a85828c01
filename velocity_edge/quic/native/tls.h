/* Complete TLS messages to Python, keys and TLS bytes back (`Handshake` and `ServerTransport` in Python).
 *
 * Ownership: a connection owns its handshake and its transport from the first complete message until the handshake
 * completes or the connection closes. Python may hold the transport longer. The transport borrows the connection; the
 * pointer is cleared when the handshake ends, after which every method raises. Its methods work only while Python is
 * inside feed().
 *
 * Python is called inside ngtcp2's recv_crypto_data because the keys then exist before the next coalesced packet is
 * opened, and no second state machine is needed. It gets complete messages only because clients send a ClientHello in
 * a dozen shuffled frames, and a message must not begin under one key and end under another.
 */
#ifndef VE_TLS_H
#define VE_TLS_H

#include "engine.h"

struct ve_transport {
    PyObject_HEAD ve_connection *connection; /* NULL: the handshake ended */
};

extern PyType_Spec ve_transport_spec; /* transport.c */

/* --- handshake.c --- */

/* Release the Python side. Idempotent. */
void ve_tls_end(ve_connection *connection);
/* An upcall or a method of the transport raised: close the connection. Returns what the callback must return. */
int ve_tls_failed(ve_connection *connection, enum ve_upcall upcall);
/* The handshake reports that it is done. 0 or an ngtcp2 error. */
int ve_tls_finish(ve_connection *connection);

/* --- tls.c: ngtcp2 callback --- */

int ve_tls_receive(ngtcp2_conn *quic, ngtcp2_encryption_level level, uint64_t offset, const uint8_t *data,
                   size_t length, void *user);

#endif
