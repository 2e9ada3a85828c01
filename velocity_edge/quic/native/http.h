/* HTTP/3 of one connection. Bytes from the peer are parsed here (request.c: request streams, uni.c and control.c: the
 * others). Responses, and their order by priority, are nghttp3's (response.c).
 *
 * nghttp3 parses nothing that the peer sends: it would remove an invalid field and accept the rest of the request,
 * close a connection for the error of one stream, and apply limits of its own beside ours and ngtcp2's.
 *
 * Ownership: the nghttp3_conn belongs to its connection, from the 1-RTT write key until the connection closes. QPACK
 * has no dynamic table in either direction: there is no state for a peer to fill, and no blocked stream.
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

/* Informational responses to one request: more of them would only cost memory until they are acknowledged. */
enum { VE_MAX_INTERIM = 16 };

/* A unidirectional stream of the peer. */
typedef struct ve_uni ve_uni;

/* A priority that arrived before its request (RFC 9218 section 7.1). */
typedef struct ve_early_priority ve_early_priority;

/* The peer's HTTP/3 state, except for request streams. */
typedef struct ve_peer_http {
    ve_uni *unis;
    unsigned kinds;  /* which critical streams are open, as bits */
    bool settings;   /* SETTINGS was received */
    uint64_t goaway; /* id in the last GOAWAY */
    bool goaway_received;
    uint64_t max_push_id;
    bool max_push_id_received;
    ve_early_priority *priorities; /* oldest first */
    ve_early_priority *last_priority;
    size_t priority_count;
} ve_peer_http;

/* --- http.c --- */

/* Start HTTP/3. 0, or -1 without memory or when the peer allows fewer than three unidirectional streams. */
int ve_http_start(ve_connection *connection);
/* Close the connection with an HTTP/3 error. Returns what the ngtcp2 callback must return. */
int ve_http_fail(ve_connection *connection, uint64_t code, const char *reason);
/* Whether a frame of this type must not be on the control stream, or on a request stream (RFC 9114 section 7.2.8). */
bool ve_http_is_foreign(uint64_t frame_type, bool control);
/* There is more to send on a stream for which read_data returned NGHTTP3_ERR_WOULDBLOCK. */
void ve_http_resume(ve_stream *stream);

/* --- request.c --- */

/* Bytes of a request stream; 0 or an ngtcp2 error (and the connection has an error). */
int ve_http_receive(ve_connection *connection, ve_stream *stream, const uint8_t *data, size_t length, bool fin);

/* --- head.c --- */

/* A list of (name, value). NULL with an exception. */
PyObject *ve_http_fields(ve_module *module, const nghttp3_qpack_nv *fields, size_t count);
/* Make RequestReceived for a well-formed request. `fin`: the request ends here. */
void ve_http_request_event(ve_stream *stream, const ve_sections *section, const ve_head *head, bool fin);

/* --- uni.c: the peer's unidirectional streams; a critical one may not be reset --- */

int ve_uni_open(ve_connection *connection, int64_t id);
int ve_uni_receive(ve_connection *connection, ve_uni *uni, const uint8_t *data, size_t length, bool fin);
int ve_uni_reset(ve_connection *connection, const ve_uni *uni);
void ve_uni_free(ve_connection *connection, ve_uni *uni);
/* Free all of them, and the stored priorities. */
void ve_peer_http_free(ve_connection *connection);

/* --- priority.c --- */

/* A PRIORITY_UPDATE frame; 0 or an ngtcp2 error. */
int ve_priority_update(ve_connection *connection, const uint8_t *at, const uint8_t *end);
/* A request stream begins: take the priority that PRIORITY_UPDATE set. False: none was stored. */
bool ve_priority_take(ve_connection *connection, int64_t id, nghttp3_pri *priority);
/* Apply the priority field of a request. Its fields begin after `pseudo` pseudo-header fields. */
void ve_priority_of_request(ve_stream *stream, const ve_sections *section, size_t pseudo);
void ve_priorities_free(ve_peer_http *peer);

/* --- response.c --- */

/* Send a response from Python: 1 sent, 0 the stream does not take one any more, -1 with an exception. An
 * informational one may be followed by others, of which there are at most VE_MAX_INTERIM. */
int ve_http_respond(ve_stream *stream, int status, PyObject *headers, PyObject *body, bool fin);
/* The same with fields that begin at fields[1], names in lower case; fields[0] is for the status. Unless `fin`, a body
 * follows by ve_stream_push_chunk(). 1 sent, 0 not taken (also: an invalid field), -1 no memory. */
int ve_http_respond_fields(ve_stream *stream, int status, nghttp3_nv *fields, size_t n, bool fin);
/* End a response with trailers, from Python and from C, or without any. The results are those of the functions above. */
int ve_http_trailers(ve_stream *stream, PyObject *fields);
int ve_http_submit_trailers(ve_stream *stream, const nghttp3_nv *fields, size_t n);

#endif
