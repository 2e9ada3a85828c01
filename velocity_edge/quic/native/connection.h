/* The state of one connection: its ngtcp2_conn, its nghttp3_conn, its streams.
 *
 * Ownership: the engine owns connections. ve_connection_new makes one for an accepted Initial. Its states:
 *
 *     open -> closing (we sent CONNECTION_CLOSE, and repeat it for 3 PTO when packets arrive) -> freed
 *          -> draining (the peer sent CONNECTION_CLOSE; nothing is sent for 3 PTO)            -> freed
 *          -> freed (idle timeout, handshake timeout: no CONNECTION_CLOSE is sent)
 *
 * When it leaves the open state it makes ConnectionClosed and frees everything but this struct, its IDs and the saved
 * packet. That never happens inside a callback of ngtcp2 or nghttp3: a callback notes an error, and the function that
 * called the library acts on it.
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
    /* Limits that the peer was told, or that must not change with use_settings(). */
    uint64_t streams_at_once;
    uint64_t max_streams_bidi; /* highest number of streams that the peer may open, including closed ones */
    uint64_t max_field_section_bytes;
    size_t half_open_memory_bytes;
    size_t received_memory_bytes;
    size_t sent_memory_bytes;
    uint64_t most_in_flight; /* bytes, highest value so far */
    ve_connection *previous; /* in the engine's list of open or of closing connections */
    ve_connection *next;
    ve_connection *dirty_next;
    bool dirty;

    ve_id *ids;
    unsigned id_count;
    uint8_t ids_by_config[VE_CID_CONFIGS]; /* number of IDs issued under each configuration (at most MAX_IDS) */

    bool in_timers;
    size_t timer_index;
    uint64_t deadline_ns;

    /* TLS (tls.c) */
    PyObject *accepted; /* what admit() returned; until the handshake completes */
    PyObject *handshake;
    ve_transport *transport;
    uint8_t *message; /* a TLS message that is not complete yet */
    size_t message_length;
    int message_level;
    bool feeding;
    bool parameters_ready;
    bool peer_parameters_set;
    unsigned installed; /* which keys are installed, as bits: level * 2 + write */
    bool handshake_completed;
    bool timed_out;

    /* Why the connection must close; the first reason is kept. */
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
    ve_stream *receiving; /* the stream that nghttp3 is being told about */
    ve_peer_http peer;
    size_t section_bytes; /* bytes of field sections that are not complete yet */
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

/* A field section larger than the advertised limit gets a 431 response (RFC 6585). One larger than this is not
 * decoded. */
static inline uint64_t ve_most_field_bytes(const ve_connection *connection) {
    return 4 * connection->max_field_section_bytes;
}

/* connection.c */

/* Note an error. The function that called ngtcp2 then closes the connection with it. The first error is kept. */
void ve_connection_fail(ve_connection *connection, ngtcp2_ccerr_type type, uint64_t code, const char *reason);

void ve_connection_mark(ve_connection *connection); /* there may be something to send */
void ve_connection_unmark(ve_connection *connection);

/* A stream of the peer failed or was abandoned: count it, and close the connection when there are too many per
 * second. */
void ve_connection_glitch(ve_connection *connection);

/* Add to, or remove from, one of the engine's lists: open connections, closing connections. */
void ve_connection_link(ve_connection **first, ve_connection *connection);
void ve_connection_unlink(ve_connection **first, ve_connection *connection);

#endif
