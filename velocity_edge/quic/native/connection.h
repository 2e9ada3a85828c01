/* One ngtcp2_conn and what belongs to it.
 *
 * Ownership: the engine owns connections. One is made by demux (ve_connection_new) and goes through
 *
 *     open -> closing (we said CONNECTION_CLOSE; repeat it when asked, for 3 PTO) -> freed
 *          -> draining (the peer said it; say nothing, for 3 PTO)                 -> freed
 *          -> freed (idle, handshake timeout: nobody is there to tell)
 *
 * On leaving `open` everything but this struct, its ids and the saved packet is freed at once, and ConnectionClosed is
 * made. That never happens inside a callback of ngtcp2 or nghttp3: callbacks note an error, the caller of the library
 * acts.
 */
#ifndef VE_CONNECTION_H
#define VE_CONNECTION_H

#include "base.h"
#include "http.h"
#include "memory.h"
#include "mtu.h"
#include "paths.h"
#include "stall.h"
#include "table.h"
#include "tls.h"

typedef enum ve_state { VE_OPEN, VE_CLOSING, VE_DRAINING } ve_state;

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

struct ve_connection {
    ve_engine *engine;
    ve_state state;
    ngtcp2_conn *quic;
    nghttp3_conn *http;
    ve_memory memory;
    ve_paths paths;
    ve_mtu mtu;
    ve_stall stall;
    uint64_t handle;
    uint64_t opened_ns;
    /* What the peer is told, from the limits of its time; the rest of them may change at any moment. */
    uint64_t streams_at_once;
    uint64_t max_streams_bidi; /* all that the peer may open so far, also those that are gone */
    uint64_t max_field_section_bytes;
    size_t half_open_memory_bytes;
    size_t received_memory_bytes;
    size_t sent_memory_bytes;
    uint64_t most_in_flight; /* bytes, since it was opened */
    ve_connection *previous; /* of the engine's open ones, or of its closing ones */
    ve_connection *next;
    ve_connection *dirty_next;
    bool dirty;

    ve_id *ids;
    unsigned id_count;
    uint8_t ids_by_config[VE_CID_CONFIGS]; /* how many of them were issued under each (MAX_IDS at most) */

    bool in_timers;
    size_t timer_index;
    uint64_t deadline_ns;

    /* TLS (tls.c) */
    PyObject *accepted; /* what admit() answered; until the handshake is over */
    PyObject *handshake;
    ve_transport *transport;
    uint8_t *message; /* the beginning of a TLS message */
    size_t message_length;
    int message_level;
    bool feeding;
    bool parameters_ready;
    bool peer_parameters_set;
    unsigned installed; /* which keys, as bits: level * 2 + write */
    bool handshake_completed;
    bool timed_out;

    /* Why it must end; the first reason counts. */
    ngtcp2_ccerr error;
    bool has_error;
    char reason[128];
    bool close_requested;

    /* HTTP */
    ve_stream *streams;
    ve_stream *incomplete_first;
    ve_stream *incomplete_last;
    unsigned stream_count;
    size_t unacked;
    unsigned paused_streams;
    unsigned broken_streams;
    ve_stream *receiving; /* which nghttp3 gets to know just now */
    ve_peer_http peer;
    size_t section_bytes; /* of field sections that are not whole yet */
    ve_rate glitches;

    /* closing */
    uint8_t *last_packet;
    size_t last_packet_length;
    bool repeat;
    unsigned packets_while_closing;
    ve_address last_peer;
    ve_address last_local;
    int last_listener;
};

/* A field section above what the peer was told gets a 431 (RFC 6585); one above this is not read. */
static inline uint64_t ve_most_field_bytes(const ve_connection *connection) {
    return 4 * connection->max_field_section_bytes;
}

/* NULL: no memory, or an upcall failed. */
ve_connection *ve_connection_new(ve_engine *engine, const ve_opening *opening);
void ve_connection_free(ve_connection *connection);
/* Free one that has just been opened; no event and no counter tells of it. */
void ve_connection_undo(ve_connection *connection);

/* The datagram that opened it. False: the connection is gone as if it had never been opened, and the client must prove
 * its address first. ngtcp2 says so of a hello that does not begin here (its datagrams overtook each other): what is out
 * of order is kept for proven addresses only. */
bool ve_connection_read_first(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                              size_t length);

/* One datagram that belongs to it, whatever its state. */
void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length);

typedef enum ve_written {
    VE_WRITTEN_ALL,  /* nothing more to say now */
    VE_WRITTEN_MORE, /* a quantum is written; the others' turn */
    VE_WRITTEN_FULL, /* the batch is full */
    VE_WRITTEN_LAST, /* it ended, and may be freed: don't touch it */
} ve_written;
/* Fill the batch with at most a send quantum. */
ve_written ve_connection_write(ve_connection *connection, ve_batch *batch);

/* Its timer is due. */
void ve_connection_expire(ve_connection *connection);

/* Note why it must end; it ends where the library was called from. */
void ve_connection_fail(ve_connection *connection, ngtcp2_ccerr_type type, uint64_t code, const char *reason);
/* Say CONNECTION_CLOSE with the noted error, or the one that ngtcp2's `rv` stands for. */
void ve_connection_close(ve_connection *connection, int rv);

/* End without a word: nobody is there (idle, handshake timeout), or the peer said it (state VE_DRAINING). */
void ve_connection_vanish(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer);
/* What a return value of ngtcp2, or a noted error, means. True: it is still open; false: it ended and may be freed. */
bool ve_connection_survives(ve_connection *connection, int rv);

void ve_connection_mark(ve_connection *connection); /* something may have to be sent */
void ve_connection_set_timer(ve_connection *connection);

/* A stream of the peer's that was no honest request: counted, too many a second end the connection. */
void ve_connection_glitch(ve_connection *connection);

/* Abandon a stream both ways. */
void ve_connection_reset_stream(ve_connection *connection, ve_stream *stream, uint64_t code);

#endif
