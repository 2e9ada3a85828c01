/* HTTP/3 of one connection. What comes in is read here (request.c: request streams, control.c: the peer's others); what
 * goes out, and in which order of urgency, is nghttp3's (response.c).
 *
 * nghttp3 reads none of the peer's bytes: it would drop what is no field from a request and let the rest pass, close
 * connections for errors of one stream, and keep limits of its own beside ours and ngtcp2's.
 *
 * Ownership: the nghttp3_conn belongs to its connection, from our 1-RTT write key to the connection's end. QPACK has no
 * dynamic table in either direction: no state that a peer could grow, no blocked streams.
 */
#ifndef VE_HTTP_H
#define VE_HTTP_H

#include "base.h"
#include "message.h"
#include "section.h"
#include "varint.h"

/* Frame types (RFC 9114 section 7.2, RFC 9218 section 7.2). */
enum {
    VE_FRAME_DATA = 0x00,
    VE_FRAME_HEADERS = 0x01,
    VE_FRAME_CANCEL_PUSH = 0x03,
    VE_FRAME_SETTINGS = 0x04,
    VE_FRAME_PUSH_PROMISE = 0x05,
    VE_FRAME_GOAWAY = 0x07,
    VE_FRAME_MAX_PUSH_ID = 0x0d,
    VE_FRAME_PRIORITY_UPDATE = 0xf0700,
    VE_FRAME_PRIORITY_UPDATE_PUSH = 0xf0701,
};

/* A unidirectional stream of the peer's. */
typedef struct ve_uni ve_uni;

/* An urgency that came before its request (RFC 9218 section 7.1). */
typedef struct ve_early_priority ve_early_priority;

/* What a connection knows of its peer's HTTP/3 beside request streams. */
typedef struct ve_peer_http {
    ve_uni *unis;
    unsigned kinds;  /* which of the critical streams are open, as bits */
    bool settings;   /* SETTINGS came */
    uint64_t goaway; /* the last one's id; 0 is the smallest */
    bool goaway_received;
    uint64_t max_push_id;
    bool max_push_id_received;
    ve_early_priority *priorities; /* oldest first */
    ve_early_priority *last_priority;
    size_t priority_count;
} ve_peer_http;

/* --- http.c --- */

/* 0, or -1 when the peer doesn't let us open our three streams, or without memory. */
int ve_http_start(ve_connection *connection);
/* An error of the whole connection; returns what its ngtcp2 callback must return. */
int ve_http_fail(ve_connection *connection, uint64_t code, const char *reason);
/* Whether a frame of this type is for another kind of stream, or none of HTTP/3 (RFC 9114 section 7.2.8). */
bool ve_http_is_foreign(uint64_t frame_type, bool control);
/* More is there to be sent for a stream whose data_reader had nothing. */
void ve_http_resume(ve_stream *stream);

/* --- request.c --- */

/* Stream bytes from ngtcp2; 0 or an ngtcp2 error (the connection's error is set). */
int ve_http_receive(ve_connection *connection, ve_stream *stream, const uint8_t *data, size_t length, bool fin);

/* --- head.c --- */

/* Make the RequestReceived of a request that is well-formed. `fin`: the request ends with it. */
void ve_http_request_event(ve_stream *stream, const ve_sections *section, const ve_head *head, bool fin);

/* --- uni.c: the same for the peer's unidirectional streams. A critical one may not be reset. --- */

int ve_uni_open(ve_connection *connection, int64_t id);
int ve_uni_receive(ve_connection *connection, ve_uni *uni, const uint8_t *data, size_t length, bool fin);
int ve_uni_reset(ve_connection *connection, const ve_uni *uni);
void ve_uni_free(ve_connection *connection, ve_uni *uni);
/* All of them, and the priorities that wait. */
void ve_peer_http_free(ve_connection *connection);

/* --- priority.c --- */

/* A PRIORITY_UPDATE frame; 0 or an ngtcp2 error. */
int ve_priority_update(ve_connection *connection, const uint8_t *at, const uint8_t *end);
/* A request stream begins: how urgent PRIORITY_UPDATE said it is. False: nothing was said. */
bool ve_priority_take(ve_connection *connection, int64_t id, nghttp3_pri *priority);
/* What the request's own fields say, which begin behind `pseudo` pseudo-header fields. */
void ve_priority_of_request(ve_stream *stream, const ve_sections *section, size_t pseudo);
void ve_priorities_free(ve_peer_http *peer);

/* --- response.c --- */

/* Answer: 1 done, 0 the stream can't take it, -1 with an exception. Informational ones don't end the section. */
int ve_http_respond(ve_stream *stream, int status, PyObject *headers, PyObject *body, bool fin);

#endif
