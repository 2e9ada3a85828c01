/* One request stream: what came in and was not given to Python yet, and what must go out and was not acknowledged yet.
 *
 * Ownership: a stream belongs to its connection, from ngtcp2's stream_open to its stream_close (or the connection's
 * end). Its handle dies with it. Bytes to send are a queue of chunks; a chunk holds a reference to the Python bytes it
 * came from, or memory of its own (pieces of files, small writes); it goes when its last byte is acknowledged, because
 * ngtcp2 sends again from the same memory. A file is read in pieces when there is room in flight, never ahead of it.
 */
#ifndef VE_STREAM_H
#define VE_STREAM_H

#include "base.h"
#include "varint.h"

typedef struct ve_chunk {
    struct ve_chunk *next;
    PyObject *owner; /* NULL: the bytes follow this header */
    const uint8_t *data;
    size_t length;
    size_t given; /* to nghttp3 */
} ve_chunk;

struct ve_stream {
    ve_connection *connection;
    int64_t id;
    uint64_t handle;
    ve_stream *previous; /* of the connection */
    ve_stream *next;

    /* Streams that wait for their peer, in the connection's `incomplete` list: for the header section, or, when the whole
       answer arrived before it, for the request's end. Oldest first. */
    ve_stream *incomplete_previous;
    ve_stream *incomplete_next;
    uint64_t begun_ns;

    /* Where in its frames it is. */
    ve_varint varint;
    uint64_t frame_type;
    uint64_t frame_left;
    uint8_t *section; /* pieces of a field section that came in more than one */
    size_t section_length;
    int64_t body_left; /* by content-length; negative when there was none */

    /* The request body: `body` collects what arrives in one turn, the engine's `bodies` remember to make its event. */
    uint8_t *body;
    size_t body_length;
    size_t body_capacity;
    uint64_t uncredited;

    /* The response. */
    ve_chunk *first;
    ve_chunk *last;
    ve_chunk *last_piece; /* of the file; NULL when none is there */
    ve_chunk *reading;    /* the first one not wholly given to nghttp3 */
    size_t unsent;
    size_t unacked;
    size_t acked_of_first;
    PyObject *file;
    int fd;
    uint64_t file_offset;
    uint64_t file_left;

    bool begun : 1;         /* nghttp3 knows it */
    bool prioritised : 1;   /* by PRIORITY_UPDATE */
    bool in_frame_head : 1; /* the type is known, the length not yet */
    bool in_frame : 1;
    bool trailers_done : 1;
    bool incomplete : 1;   /* in the list of that name */
    bool headers_done : 1; /* RequestReceived was made */
    bool early : 1;        /* some of it came in 0-RTT */
    bool head : 1;         /* HEAD: the answer has no body */
    bool body_listed : 1;  /* in the engine's list */
    bool body_fin : 1;     /* the request's end waits for its event */
    bool request_ended : 1;
    bool responded : 1;      /* final header section submitted */
    bool ended : 1;          /* no more body will be written */
    bool eof_given : 1;      /* nghttp3 knows */
    bool blocked : 1;        /* nghttp3 waits for nghttp3_conn_resume_stream() */
    bool paused : 1;         /* the same, because too much is in flight */
    bool wants_writable : 1; /* above the high mark: StreamWritable is due below the low one */
    bool over : 1;           /* StreamClosed was made, the handle is gone: no more answers */
    bool glitched : 1;       /* counted as a glitch */
    bool broken : 1;         /* the file ended early: to be reset after this write */
};

ve_stream *ve_stream_new(ve_connection *connection, int64_t id, uint64_t now_ns);
/* No answer is possible any more: say StreamClosed if Python knows the stream, and release its handle. Idempotent. */
void ve_stream_over(ve_stream *stream, bool complete, uint64_t error_code);
/* Abandon a stream both ways: RESET_STREAM and STOP_SENDING. */
void ve_stream_reset(ve_stream *stream, uint64_t code);
/* Its memory; over first. */
void ve_stream_free(ve_stream *stream);

/* Give back the memory of a section that is not whole. */
void ve_stream_drop_section(ve_stream *stream);

/* The peer has `request_timeout_ns` from now on. */
void ve_stream_wait(ve_stream *stream, uint64_t now_ns);
/* It waits for nothing any more. */
void ve_stream_not_incomplete(ve_stream *stream);

/* Bytes of the request body, or its end. 0, or -1 without memory. */
int ve_stream_body(ve_stream *stream, const uint8_t *data, size_t length);
int ve_stream_body_end(ve_stream *stream);
/* Make the BodyReceived that waits. */
void ve_stream_body_event(ve_stream *stream);

/* --- outgoing.c --- */

/* The whole answer arrived. */
bool ve_stream_answered(const ve_stream *stream);
/* What is in flight stays in memory until it is acknowledged: whether there may be more. */
bool ve_connection_has_room(const ve_connection *connection);
/* Add to the response. 0, or -1 with an exception. */
int ve_stream_push(ve_stream *stream, PyObject *bytes);
int ve_stream_push_file(ve_stream *stream, PyObject *file_range);
/* Bytes for nghttp3: the number of vectors filled. With none, `*end` says whether that is all or all for now. */
size_t ve_stream_pull(ve_stream *stream, nghttp3_vec *vectors, size_t count, bool *end);
void ve_stream_acked(ve_stream *stream, uint64_t length);
/* Drop what is left of it. */
void ve_stream_forget_response(ve_stream *stream);

#endif
