/* Whole TLS messages to Python, keys and TLS bytes back (`Handshake` and `HandshakeTransport` of datagrams.py).
 *
 * Ownership: a connection owns its Handshake and its Transport from the first whole message until the handshake is done
 * or the connection ends. The Python side owns the Transport too, maybe longer: it borrows the connection, and the
 * pointer is cleared when either ends, after which every method raises. Its methods work only while Python is inside
 * feed().
 *
 * Why Python is called inside ngtcp2's recv_crypto_data: the keys exist before the next coalesced packet is opened, and
 * there is no second state machine. Why only whole messages: clients cut a ClientHello into a dozen shuffled frames,
 * and a message must not begin under one key and end under another.
 */
#ifndef VE_TLS_H
#define VE_TLS_H

#include "engine.h"

struct ve_transport {
    PyObject_HEAD ve_connection *connection; /* NULL: over */
};

extern PyType_Spec ve_transport_spec; /* transport.c */

/* --- handshake.c --- */

/* Drop the Python side. Idempotent. */
void ve_tls_end(ve_connection *connection);
/* An upcall raised, or a method of the transport did: the connection fails. Returns what the callback must return. */
int ve_tls_failed(ve_connection *connection, enum ve_upcall upcall);
/* The Handshake says that it is done. 0 or an ngtcp2 error. */
int ve_tls_finish(ve_connection *connection);

/* --- tls.c: ngtcp2 callback --- */

int ve_tls_receive(ngtcp2_conn *quic, ngtcp2_encryption_level level, uint64_t offset, const uint8_t *data,
                   size_t length, void *user);

#endif
