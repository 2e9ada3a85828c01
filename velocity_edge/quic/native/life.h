/* The life of a connection: opened, read, written, closed.
 *
 * These files call ngtcp2_conn_read_pkt, _writev_stream and _handle_expiry. Callbacks below only note an error; these
 * files close the connection after the library returned.
 */
#ifndef VE_LIFE_H
#define VE_LIFE_H

#include "connection.h"

/* --- opening.c --- */

/* What the first packet and admission say about a new connection. */
typedef struct ve_opening {
    const ngtcp2_path *path;
    uint32_t version;
    const uint8_t *dcid;
    size_t dcid_length;
    const uint8_t *scid;
    size_t scid_length;
    const uint8_t *token;
    size_t token_length;
    const uint8_t *original_dcid; /* NULL: no Retry */
    size_t original_dcid_length;
    bool validated;
    PyObject *accepted; /* what admit() returned */
} ve_opening;

/* NULL: no memory. */
ve_connection *ve_connection_new(ve_engine *engine, const ve_opening *opening);

/* --- reading.c --- */

/* Read the datagram that opened it. False: the connection is freed and not counted, and the client must prove its
 * address with a Retry token. ngtcp2 asks for that when the ClientHello does not begin in this datagram
 * (reordering): it buffers out-of-order data only of validated addresses. */
bool ve_connection_read_first(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                              size_t length);
/* Read one more datagram, in any state. */
void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length);
/* Its timer expired. */
void ve_connection_expire(ve_connection *connection);

/* --- writing.c --- */

typedef enum ve_written {
    VE_WRITTEN_ALL,  /* nothing more to send now */
    VE_WRITTEN_MORE, /* a quantum is written; other connections are served before the rest */
    VE_WRITTEN_FULL, /* the batch is full */
    VE_WRITTEN_LAST, /* the connection closed, and may be freed: do not use it */
} ve_written;
/* Fill the batch with at most one send quantum. */
ve_written ve_connection_write(ve_connection *connection, ve_batch *batch);

/* --- closing.c --- */

/* Send CONNECTION_CLOSE with the noted error, or with the one that ngtcp2 returned as `rv`. */
void ve_connection_close(ve_connection *connection, int rv);
/* Close without sending CONNECTION_CLOSE: after a timeout, or because the peer sent one (state VE_DRAINING). */
void ve_connection_vanish(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer);
/* Act on what ngtcp2 returned, or on a noted error. True: the connection is open. False: it closed, and may be
 * freed. */
bool ve_connection_survives(ve_connection *connection, int rv);
void ve_connection_free(ve_connection *connection);
/* Free a connection that was just opened, without an event, and remove it from the counters. */
void ve_connection_undo(ve_connection *connection);

#endif
