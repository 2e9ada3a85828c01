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
#include "deadlines.h"
#include "http.h"
#include "memory.h"
#include "mtu.h"
#include "paths.h"
#include "table.h"

typedef enum ve_state { VE_OPEN, VE_CLOSING, VE_DRAINING } ve_state;

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

/* connection.c */

/* Note why it must end; it ends where the library was called from. The first reason counts. */
void ve_connection_fail(ve_connection *connection, ngtcp2_ccerr_type type, uint64_t code, const char *reason);

void ve_connection_mark(ve_connection *connection); /* something may have to be sent */
void ve_connection_unmark(ve_connection *connection);

/* A stream of the peer's that was no honest request: counted, too many a second end the connection. */
void ve_connection_glitch(ve_connection *connection);

/* Into, and out of, a list of the engine: its open connections, or its closing ones. */
void ve_connection_link(ve_connection **first, ve_connection *connection);
void ve_connection_unlink(ve_connection **first, ve_connection *connection);

#endif
