/* One request stream: received bytes that Python does not have yet, and response bytes that are not acknowledged yet.
 *
 * Ownership: a stream belongs to its connection, from ngtcp2's stream_open to its stream_close (or until the
 * connection closes). Its handle is then invalid. Response bytes are a queue of chunks. A chunk holds a reference to
 * the Python bytes, or has memory of its own (pieces of files); it is freed when its last byte is acknowledged,
 * because ngtcp2 retransmits from the same memory. A file is read piece by piece when there is room in flight, never
 * ahead.
 */
#ifndef VE_STREAM_H
#define VE_STREAM_H

#include "base.h"
#include "varint.h"

typedef struct ve_chunk {
    struct ve_chunk *next;
    PyObject *owner; /* NULL: the bytes follow this struct */
    const uint8_t *data;
    size_t length;
    size_t given; /* bytes given to nghttp3 */
} ve_chunk;

/* What takes a request to another server and brings the response back. The stream tells it, outside
 * of callbacks of ngtcp2 (but `writable`), what it must know. It has detached itself before it is freed. */
typedef struct ve_carrier ve_carrier;
typedef struct ve_carrier_type {
    void (*body)(ve_carrier *carrier); /* bytes of the request body, or its end, are there to be taken */
    void (*writable)(
        ve_carrier *carrier);          /* the client has read: more may be pushed; called by nghttp3's data_reader */
    void (*gone)(ve_carrier *carrier); /* the stream ends; it is not attached any more */
} ve_carrier_type;
struct ve_carrier {
    const ve_carrier_type *type;
};

struct ve_stream {
    ve_connection *connection;
    int64_t id;
    uint64_t handle;
    ve_stream *previous; /* of the connection */
    ve_stream *next;

    /* The connection's list of streams that wait for the peer, oldest first: for the header section, or, when the
       whole response was acknowledged before it, for the end of the request. */
    ve_stream *incomplete_previous;
    ve_stream *incomplete_next;
    uint64_t begun_ns;

    /* The parser. */
    ve_varint varint;
    uint64_t frame_type;
    uint64_t frame_left;
    uint8_t *section; /* pieces of a field section that arrived in more than one */
    size_t section_length;
    int64_t body_left; /* from content-length; negative: none */

    /* The request body. `body` collects what arrives in one turn, and the handle is in the list `bodies` of the
       engine. */
    uint8_t *body;
    size_t body_start; /* bytes before it were taken by the carrier */
    size_t body_length;
    size_t body_capacity;
    uint64_t uncredited;
    ve_carrier *carrier; /* takes the body instead of Python */
    PyObject *trailers;  /* of the request, a list of pairs; NULL: none, or Python has them */

    /* The response. */
    ve_chunk *first;
    ve_chunk *last;
    ve_chunk *last_piece; /* last piece of the file; NULL: none is in the queue */
    ve_chunk *reading;    /* first one that nghttp3 does not have completely */
    size_t unsent;
    size_t unacked;
    size_t acked_of_first;
    PyObject *file;
    int fd;
    uint64_t file_offset;
    uint64_t file_left;
    uint8_t informational; /* number of informational responses */

    bool begun : 1;         /* nghttp3 knows the stream */
    bool prioritised : 1;   /* by PRIORITY_UPDATE */
    bool in_frame_head : 1; /* the type is known, the length is not */
    bool in_frame : 1;
    bool trailers_done : 1;
    bool incomplete : 1;   /* in the list of that name */
    bool headers_done : 1; /* RequestReceived was made */
    bool early : 1;        /* some of it arrived in 0-RTT */
    bool head : 1;         /* method HEAD: the response has no body */
    bool body_listed : 1;  /* in the engine's list */
    bool body_fin : 1;     /* the end of the request waits for its event */
    bool fin_given : 1;    /* Python was told the end of the request */
    bool held : 1;         /* an attempt failed: the body waits for the next one, or for a response */
    bool discards : 1;     /* nobody wants the rest of the request body */
    bool request_ended : 1;
    bool tunnel : 1;         /* extended CONNECT */
    bool responded : 1;      /* the final header section is submitted */
    bool ended : 1;          /* no more body will be written */
    bool eof_given : 1;      /* nghttp3 knows the end */
    bool blocked : 1;        /* nghttp3 waits for nghttp3_conn_resume_stream() */
    bool paused : 1;         /* the same, because too much is in flight */
    bool wants_writable : 1; /* above the high mark: StreamWritable follows below the low mark */
    bool over : 1;           /* StreamClosed was made and the handle released: no response any more */
    bool glitched : 1;       /* counted as a glitch */
    bool broken : 1;         /* the file was shorter than promised: reset after this write */
};

ve_stream *ve_stream_new(ve_connection *connection, int64_t id, uint64_t now_ns);
/* No response is possible any more: make StreamClosed if Python knows the stream, and release the handle.
 * Idempotent. */
void ve_stream_over(ve_stream *stream, bool complete, uint64_t error_code);
/* Abandon a stream both ways: RESET_STREAM and STOP_SENDING. */
void ve_stream_reset(ve_stream *stream, uint64_t code);
/* Free it; calls ve_stream_over first. */
void ve_stream_free(ve_stream *stream);

/* Free an incomplete field section. */
void ve_stream_drop_section(ve_stream *stream);

/* Wait for the peer, `request_timeout_ns` from now. */
void ve_stream_wait(ve_stream *stream, uint64_t now_ns);
/* Wait no longer. */
void ve_stream_not_incomplete(ve_stream *stream);

/* Bytes of the request body, or its end. 0, or -1 without memory. */
int ve_stream_body(ve_stream *stream, const uint8_t *data, size_t length);
int ve_stream_body_end(ve_stream *stream);
/* Bytes that Python gives back, which it had got by BodyReceived. 0, or -1 without memory. */
int ve_stream_unread(ve_stream *stream, const uint8_t *data, size_t length, bool fin);
/* Hand on what has come: by BodyReceived, or to the carrier. */
void ve_stream_body_event(ve_stream *stream);
/* The whole request was received, and its end is not with Python. */
bool ve_stream_request_whole(const ve_stream *stream);
/* The first `length` of the bytes that wait are used. */
void ve_stream_take(ve_stream *stream, size_t length);
/* Allow the client that many bytes more. */
void ve_stream_credit(ve_stream *stream, uint64_t bytes);
/* Drop the rest of the request body, now and from now on. */
void ve_stream_discard(ve_stream *stream);

/* --- outgoing.c --- */

/* The whole response was acknowledged. */
bool ve_stream_answered(const ve_stream *stream);
/* Bytes in flight stay in memory until they are acknowledged: whether there may be more of them. */
bool ve_connection_has_room(const ve_connection *connection);
/* Add to the response. 0, or -1 with an exception. */
int ve_stream_push(ve_stream *stream, PyObject *bytes);
/* Memory for `capacity` bytes behind the struct, to which `data` points; NULL: there is none. */
ve_chunk *ve_chunk_new(size_t capacity);
void ve_chunk_free(ve_chunk *chunk);
/* The same with memory of ours: takes the chunk over, which is not empty. */
void ve_stream_push_chunk(ve_stream *stream, ve_chunk *chunk);
int ve_stream_push_file(ve_stream *stream, PyObject *file_range);
/* Bytes for nghttp3: the number of vectors filled. When it is 0, `*end` says whether the body is complete or there
 * is nothing just now. */
size_t ve_stream_pull(ve_stream *stream, nghttp3_vec *vectors, size_t count, bool *end);
void ve_stream_acked(ve_stream *stream, uint64_t length);
/* Free all chunks. */
void ve_stream_forget_response(ve_stream *stream);

#endif
