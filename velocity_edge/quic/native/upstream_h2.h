/* HTTP/2 to an upstream (RFC 9113): many requests at a time on a connection, framed and parsed by nghttp2.
 *
 * Back-pressure: the window of a stream is given back when the client has room, the connection's as bytes arrive, so
 * that a slow client stops only its own stream. Body bytes of a request are copied into DATA frames when the upstream
 * has given window for them and the socket takes them; only then does the client get credit.
 *
 * Ownership: a ve_h2 is the `state` of its connection, a ve_h2_stream that of its attempt; the connection owns both. A
 * stream outlives its attempt until nghttp2 has closed it. Callbacks of nghttp2 end attempts, but close nothing:
 * upstream_h2_turn.c does that after the library returned.
 */
#ifndef VE_UPSTREAM_H2_H
#define VE_UPSTREAM_H2_H

#include <nghttp2/nghttp2.h>

#include "upstream.h"

enum {
    /* Requests at a time on a connection; more open another one. As many as the default of servers. */
    VE_H2_STREAMS = 100,
    /* What an upstream may send ahead of a client: 1 Gbit/s at 2 ms. */
    VE_H2_STREAM_WINDOW = 256 * 1024,
    VE_H2_CONNECTION_WINDOW = 16 * 1024 * 1024,
    /* Frames that carry nothing, one after the other: a flood of them costs the receiver more than the sender. A body of
     * 16 MiB is answered by 1024 WINDOW_UPDATEs. */
    VE_H2_EMPTY_FRAMES = 4096,
    VE_H2_EMPTY_BYTES = 256 * 1024,
};

typedef struct ve_h2_field {
    uint32_t name;
    uint32_t name_length;
    uint32_t value;
    uint32_t value_length;
} ve_h2_field;

typedef struct ve_h2_stream {
    struct ve_h2_stream *previous; /* of the connection */
    struct ve_h2_stream *next;
    ve_attempt *attempt; /* NULL: it has ended */
    int32_t id;          /* 0: it waits for the upstream's SETTINGS */

    /* The field section that is received; names and values are in `text`. */
    char *text;
    size_t text_length;
    size_t text_capacity;
    ve_h2_field *fields;
    size_t count;
    size_t capacity;
    size_t section_bytes; /* as RFC 9113 section 10.5.1 counts them */
    int status;

    size_t unconsumed; /* bytes of DATA for which no window was given back */
    bool request_ended : 1;
    bool tunnel : 1;
    bool tunnel_end : 1; /* the upstream has sent all */
    bool resumed : 1;    /* the client has read: give window back */
    bool invalid : 1;    /* nghttp2 found an error in the response */
} ve_h2_stream;

typedef struct ve_h2 {
    ve_upstream *upstream;
    nghttp2_session *session;
    ve_h2_stream *streams;
    uint8_t *out; /* what the socket did not take */
    size_t out_start;
    size_t out_length;
    bool blocked;      /* the socket takes no more */
    bool write_failed; /* what was received before tells why */
    bool settings;     /* the upstream's SETTINGS were received */
    bool broken;       /* an error of the connection was found */
    bool due;          /* something waits for the next turn */
    bool working;      /* nghttp2 is on the stack */
    bool began;        /* a request was submitted */
    unsigned empty_frames;
    size_t empty_bytes; /* received since the last frame that carried something */
} ve_h2;

/* --- upstream_h2_turn.c --- */

/* Requests that it takes at a time. */
unsigned ve_h2_most_streams(const ve_h2 *h2);
/* After anything happened: do what callbacks left, and write. False: the connection is closed. */
bool ve_h2_settle(ve_h2 *h2);
/* Read once. False: nothing more now, or the connection is closed. */
bool ve_h2_read_once(ve_h2 *h2);

/* --- upstream_h2_stream.c --- */

/* Tell epoll what to wait for. */
void ve_h2_watch(ve_h2 *h2);
/* Have the next turn send and settle: within callbacks. */
void ve_h2_later(ve_h2 *h2);

/* NULL: no memory. */
ve_h2_stream *ve_h2_stream_new(ve_h2 *h2, ve_attempt *attempt);
void ve_h2_stream_free(ve_h2 *h2, ve_h2_stream *stream);
/* The attempt has ended, or will in the next line, or goes elsewhere. */
void ve_h2_detach(ve_h2_stream *stream);
/* End the attempt; the stream is reset with `code`, unless nghttp2 has closed it. */
void ve_h2_refuse(ve_h2 *h2, ve_h2_stream *stream, uint32_t code, ve_outcome outcome, const char *reason);
/* The field section that is received: forget it, add to it. False: it is too large, or there is no memory. */
void ve_h2_section_clear(ve_h2_stream *stream);
bool ve_h2_section_add(ve_h2_stream *stream, ve_text name, ve_text value);

/* --- upstream_h2_request.c --- */

/* Submit the request. False: the attempt has ended. */
bool ve_h2_submit(ve_h2 *h2, ve_h2_stream *stream);
/* Both directions of a tunnel, or the response, are through. */
void ve_h2_complete(ve_h2 *h2, ve_h2_stream *stream, const nghttp3_nv *trailers, size_t count);

/* --- upstream_h2_receive.c --- */

/* NULL: no memory. */
nghttp2_session *ve_h2_session(ve_h2 *h2);

#endif
