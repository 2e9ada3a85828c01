/* The life of a connection: it is opened, reads, writes, and ends. Whoever calls ngtcp2 or nghttp3 for a connection is
 * here, and nobody below is: callbacks note an error, and these functions end the connection after the library returned.
 */
#ifndef VE_LIFE_H
#define VE_LIFE_H

#include "connection.h"

/* --- opening.c --- */

/* What admission and the first packet say about a new connection. */
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
    PyObject *accepted; /* what admit() answered */
} ve_opening;

/* NULL: no memory. */
ve_connection *ve_connection_new(ve_engine *engine, const ve_opening *opening);

/* --- reading.c --- */

/* The datagram that opened it. False: the connection is freed as if it had never been opened, and the client must prove
 * its address first. ngtcp2 asks for that when the ClientHello does not begin in this datagram (datagrams were reordered):
 * it keeps data that arrives out of order for proven addresses only. */
bool ve_connection_read_first(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                              size_t length);
/* One datagram that belongs to it, whatever its state. */
void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length);
/* Its timer is due. */
void ve_connection_expire(ve_connection *connection);

/* --- writing.c --- */

typedef enum ve_written {
    VE_WRITTEN_ALL,  /* nothing more to send now */
    VE_WRITTEN_MORE, /* a quantum is written; other connections are served before the rest */
    VE_WRITTEN_FULL, /* the batch is full */
    VE_WRITTEN_LAST, /* the connection ended, and may be freed: don't use it */
} ve_written;
/* Fill the batch with at most a send quantum. */
ve_written ve_connection_write(ve_connection *connection, ve_batch *batch);

/* --- closing.c --- */

/* Send CONNECTION_CLOSE with the noted error, or the one that ngtcp2's `rv` stands for. */
void ve_connection_close(ve_connection *connection, int rv);
/* End without a CONNECTION_CLOSE: after a timeout (idle, handshake), or because the peer sent one (state VE_DRAINING). */
void ve_connection_vanish(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer);
/* Act on a return value of ngtcp2 or on a noted error. True: it is still open; false: it ended and may be freed. */
bool ve_connection_survives(ve_connection *connection, int rv);
void ve_connection_free(ve_connection *connection);
/* Free one that has just been opened, without an event, and take it out of the counters. */
void ve_connection_undo(ve_connection *connection);

#endif
