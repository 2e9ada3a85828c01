/* Upstreams: the servers to which requests are forwarded (velocity_edge/http/upstreams.py). Pools of connections, the
 * attempts that run on them, and the seam for a protocol (HTTP/1.1 in upstream_h1.c; HTTP/2 is another one).
 *
 * Ownership: the engine owns one ve_upstreams; that owns pools, a pool its connections. An attempt belongs to its
 * stream, which it tells back by `stream->carrier`, and is freed by ve_attempt_end(), whichever side ended it. A closed
 * connection is buried: its memory is valid until the end of the call, with `closed` set.
 *
 * Long because it is the seam: what a protocol needs of the other files stands in one place.
 *
 * Nothing here raises an exception after forward() has accepted a request: a failure is the outcome of an attempt.
 */
#ifndef VE_UPSTREAM_H
#define VE_UPSTREAM_H

#include <openssl/ssl.h>
#include <sys/un.h>

#include "base.h"
#include "stream.h"
#include "table.h"
#include "upstream_fields.h"
#include "upstream_lists.h"

enum { VE_MAX_UPSTREAM_ADDRESSES = 8, VE_READ_BYTES = 64 * 1024, VE_MAX_INFORMATIONAL = 16 };

/* As in requests.py. */
typedef enum ve_outcome {
    VE_COMPLETE,
    VE_CONNECT_FAILED,
    VE_CONNECT_TIMEOUT,
    VE_CLOSED_EARLY,
    VE_RESPONSE_TIMEOUT,
    VE_INVALID,
    VE_TRUNCATED,
    VE_IDLE_TIMEOUT,
    VE_CLIENT_GONE,
    VE_REQUEST_TOO_LARGE,
    VE_REQUEST_TIMEOUT,
    VE_CANCELLED,
} ve_outcome;

typedef enum ve_speaks { VE_SPEAKS_H1, VE_SPEAKS_H2, VE_SPEAKS_AUTO } ve_speaks;

typedef struct ve_upstreams ve_upstreams;
typedef struct ve_pool ve_pool;
typedef struct ve_upstream ve_upstream;
typedef struct ve_attempt ve_attempt;
typedef struct ve_dial ve_dial;

typedef struct ve_peer {
    socklen_t length;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    };
} ve_peer;

/* What epoll knows. */
typedef enum ve_source_kind { VE_SOURCE_DEAD, VE_SOURCE_TIMER, VE_SOURCE_DIAL, VE_SOURCE_CONNECTION } ve_source_kind;
typedef struct ve_source {
    ve_source_kind kind;
    int fd;
    uint32_t interest;
    ve_upstream *upstream;
} ve_source;

/* A connection that is being made (upstream_dial.c): sockets that race. */
struct ve_dial {
    ve_grave grave;
    ve_upstream *upstream;
    ve_waiter waiter; /* for its next address */
    size_t next;
    size_t open;
    char reason[160];
    ve_source sources[VE_MAX_UPSTREAM_ADDRESSES];
    ve_peer peers[VE_MAX_UPSTREAM_ADDRESSES]; /* those of the pool when it began */
    size_t count;
};

/* A protocol on a connection. No function frees the connection directly: ve_upstream_close() buries it. */
typedef struct ve_protocol {
    const char *alpn;
    /* The connection is established. 0, or -1 without memory. */
    int (*begin)(ve_upstream *upstream);
    /* Whether one more attempt may start on it now. */
    bool (*has_room)(const ve_upstream *upstream);
    /* Send the request of an attempt (`upstream->running` counts it already). It may end the attempt at once. */
    void (*start)(ve_upstream *upstream, ve_attempt *attempt);
    /* The socket is ready, with or without an attempt. */
    void (*ready)(ve_upstream *upstream, uint32_t events);
    /* More of the request body is there: ve_attempt_body(). */
    void (*body)(ve_upstream *upstream, ve_attempt *attempt);
    /* The client has read: continue to read for it. Called within a callback of nghttp3: change the interest only. */
    void (*resume)(ve_upstream *upstream, ve_attempt *attempt);
    /* The attempt ends now (client gone, time-out, cancelled): forget it. */
    void (*abandon)(ve_upstream *upstream, ve_attempt *attempt);
    /* Free `state`. */
    void (*end)(ve_upstream *upstream);
} ve_protocol;

/* One connection to a server. */
struct ve_upstream {
    ve_grave grave;
    ve_source source;
    ve_pool *pool;
    const ve_protocol *protocol; /* NULL: not connected yet */
    void *state;                 /* of the protocol */
    SSL *tls;
    ve_dial *dial;         /* until it is connected */
    ve_attempt *attempts;  /* those that wait for the connection, or run on it */
    ve_upstream *previous; /* in the pool */
    ve_upstream *next;
    ve_waiter waiter; /* connecting, or idle */
    ve_peer peer;
    uint64_t requests;
    unsigned running;
    bool idle;
    bool closed;
    bool retiring;  /* takes no other attempt, and is closed with its last one */
    bool displaces; /* some of its attempts must find another connection */
    bool only_h1;   /* HTTP/2 is not offered: for WebSocket, which few servers have there */
};

struct ve_pool {
    ve_grave grave;
    ve_upstreams *owner;
    ve_pool *previous;
    ve_pool *next;
    uint64_t handle;
    ve_speaks speaks;
    SSL_CTX *tls;
    SSL_SESSION *session;
    char *server_name; /* a host name, or an address */
    bool verify;
    size_t max_connections;
    size_t max_idle;
    uint64_t max_requests;
    size_t max_head_bytes;
    size_t max_fields;
    uint64_t tcp_keepalive_ns;
    ve_peer peers[VE_MAX_UPSTREAM_ADDRESSES];
    size_t peer_count;
    ve_upstream *connections;
    ve_waiting connecting; /* connections */
    ve_waiting responding; /* attempts: no head yet, the request is sent */
    ve_waiting moving;     /* attempts: bytes of a body are awaited */
    ve_waiting resting;    /* idle connections; the last one is used first */
    bool closing;
    bool shares; /* the last connection spoke HTTP/2: several attempts wait for one that is being made */
    size_t open;
    size_t idle;
    size_t running;
    uint64_t connects;
    uint64_t connects_failed;
    uint64_t requests;
    uint64_t reused;
};

struct ve_upstreams {
    ve_engine *engine;
    int epoll;
    ve_source timer;
    uint64_t armed_ns;
    ve_handles pools;
    ve_pool *first_pool;
    ve_waiting staggered; /* dials that begin with their next address (RFC 8305) */
    ve_chunk *spare;      /* a buffer of VE_READ_BYTES behind a chunk's head */
    ve_chunk *reading;    /* the one that is parsed; NULL: it was kept */
    ve_grave *graves;
    bool turning;
    bool ending; /* the engine is being freed: no events, nothing for clients */
};

/* One attempt to have a request answered. The request was validated, and is in memory of its own behind the struct. */
struct ve_attempt {
    ve_carrier carrier;
    ve_upstreams *owner;
    ve_pool *pool;
    ve_stream *stream;
    ve_upstream *upstream; /* NULL: none yet */
    ve_attempt *next;      /* of the connection */
    void *state;           /* of the protocol */
    ve_waiter waiter;
    uint64_t handle; /* of the stream */

    ve_text method;
    ve_text target;
    ve_text authority;
    ve_field *fields; /* connection-specific ones and `host` are removed; `te` is "trailers" */
    size_t field_count;
    int64_t content_length; /* -1: not given; it is among the fields, too */
    bool websocket;
    bool expects; /* 100-continue */
    bool is_head;

    uint64_t max_body_bytes;
    PyObject *edits[4]; /* tuples: remove, set, add, default */

    bool body_sent;
    bool request_done; /* the protocol has taken all of the request */
    bool head_sent;
    bool displaced; /* it must find another connection */
    bool reused;
    bool resumable; /* the client is behind: resume() is due */
    int status;
    unsigned informational;
    uint64_t request_bytes;
    uint64_t response_bytes;
    uint64_t begun_ns;
    uint64_t connected_ns;
    uint64_t head_ns;
};

/* --- upstream_waits.c --- */

void ve_source_add(ve_upstreams *owner, ve_source *source, uint32_t interest);
void ve_source_change(ve_upstreams *owner, ve_source *source, uint32_t interest);
void ve_bury(ve_upstreams *owner, ve_grave *grave);
void ve_bury_all(ve_upstreams *owner);
/* Have it become readable at that time. */
void ve_upstreams_arm(ve_upstreams *owner, uint64_t due_ns);
/* Have the descriptor become readable. */
void ve_upstreams_wake(ve_upstreams *owner);
/* Wait in a list of the owner or a pool. */
void ve_wait(ve_upstreams *owner, ve_waiter *waiter, ve_waiting *list);
/* --- upstream_wire.c: bytes over a socket, with or without TLS --- */

enum { VE_WIRE_END = 0, VE_WIRE_BLOCKED = -1, VE_WIRE_FAILED = -2 };
/* Bytes read or written, or one of these. */
ssize_t ve_wire_read(ve_upstream *upstream, void *buffer, size_t length);
struct iovec;
ssize_t ve_wire_write(ve_upstream *upstream, const struct iovec *pieces, int count);
/* No more will be written; the other direction stays open. */
void ve_wire_end(ve_upstream *upstream);
/* Tell epoll what to wait for. Bytes that TLS holds already count as readable. */
void ve_wire_watch(ve_upstream *upstream, bool read, bool write);

/* --- upstream_tls.c --- */

/* From a TlsClient; 0, or -1 with an exception. */
int ve_pool_use_tls(ve_pool *pool, PyObject *client);
/* A connection's SSL; NULL: no memory. */
SSL *ve_tls_client(ve_pool *pool, int fd);
/* Why the handshake failed, in `reason`. */
void ve_tls_client_reason(const SSL *tls, char *reason, size_t length);

/* --- upstream_pool.c --- */

/* A connection in the pool, not connected; NULL: no memory. */
ve_upstream *ve_upstream_new(ve_pool *pool);
/* Its attempts must have ended. */
void ve_upstream_close(ve_upstream *upstream);
/* One of the sockets lost; all of them, and the dial. */
void ve_dial_close_source(ve_dial *dial, ve_source *source);
void ve_dial_free(ve_upstream *upstream);
/* An attempt is over, and the connection can be used again (or is retiring). */
void ve_upstream_rest(ve_upstream *upstream);
/* An attempt begins on it: it is not idle any more. */
void ve_upstream_wake(ve_upstream *upstream);
/* The connection that was used last; NULL: none is idle. It is not idle any more. */
ve_upstream *ve_pool_take_idle(ve_pool *pool);
/* Close idle connections: all, or those to other addresses than the pool's. */
void ve_pool_close_idle(ve_pool *pool, bool all);
/* Free a pool that is closing and has no connection. */
void ve_pool_settle(ve_pool *pool);

/* --- upstream_attempt.c --- */

/* It belongs to the stream from now on, and ve_attempt_end() is due. False: its body is too large, and it has ended. */
bool ve_attempt_begin(ve_attempt *attempt, ve_pool *pool, ve_stream *stream);

/* The bytes of the request body that wait; `*end`: nothing follows them. */
const uint8_t *ve_attempt_body(ve_attempt *attempt, size_t *length, bool *end);
/* The first `length` of them are sent: the client gets credit. */
void ve_attempt_sent(ve_attempt *attempt, size_t length);
/* The last byte of the request is on its way. */
void ve_attempt_request_done(ve_attempt *attempt);
/* Something happened: the idle time-out begins again. */
void ve_attempt_moves(ve_attempt *attempt);
/* Bytes of the response's body. `chunk`: the memory in which they are, or NULL; true is returned when it was kept.
 * `*failed` is set without memory. */
bool ve_attempt_data(ve_attempt *attempt, const uint8_t *data, size_t length, ve_chunk *chunk, bool *failed);
/* Whether the client has so much to read that no more should be given. It is asked once it is below that. */
bool ve_attempt_is_behind(ve_attempt *attempt);
/* The response is complete, with these trailers. */
void ve_attempt_complete(ve_attempt *attempt, const nghttp3_nv *trailers, size_t count);
/* End an attempt: UpstreamEnded, and the attempt is freed. The connection is the caller's to close or use again. */
void ve_attempt_end(ve_attempt *attempt, ve_outcome outcome, const char *reason);
/* The same, and tell the protocol first. */
void ve_attempt_abandon(ve_attempt *attempt, ve_outcome outcome, const char *reason);
void ve_attempt_attach(ve_upstream *upstream, ve_attempt *attempt);
void ve_attempt_detach(ve_attempt *attempt);

/* --- upstream_answer.c: heads from the upstream to the client --- */

/* A header section, with names in lower case. NULL, or why it is not accepted; INVALID is the outcome then. `end`: no
 * body follows. */
const char *ve_attempt_head(ve_attempt *attempt, int status, const ve_field *fields, size_t count, bool end);

/* --- upstream_request.c --- */

/* A validated copy of a ForwardRequest; NULL with an exception. */
ve_attempt *ve_attempt_new(ve_module *module, PyObject *request);

/* --- upstream_dial.c --- */

typedef enum ve_dialled { VE_DIALLING, VE_DIALLED, VE_DIAL_FAILED } ve_dialled;
/* Begin to connect. */
ve_dialled ve_dial_begin(ve_upstream *upstream);
/* A socket of it is ready. */
ve_dialled ve_dial_ready(ve_upstream *upstream, ve_source *source);
/* The address has had its time: begin with the next one, too. */
ve_upstream *ve_dial_of(ve_waiter *waiter);
ve_dialled ve_dial_next(ve_upstream *upstream);
const char *ve_dial_reason(const ve_upstream *upstream);

/* --- upstream_h1.c --- */

extern const ve_protocol ve_protocol_h1;

/* --- upstream_h2.c --- */

extern const ve_protocol ve_protocol_h2;

/* --- upstream_start.c --- */

/* Find or make a connection for the attempt and start it. */
void ve_attempt_place(ve_attempt *attempt);
/* The same for attempts for which a connection has no room after all. */
void ve_upstream_displace(ve_upstream *upstream);
/* What dialling has come to. */
void ve_upstream_dialled(ve_upstream *upstream, ve_dialled dialled);

/* --- upstream_turn.c --- */

int ve_upstreams_new(ve_engine *engine); /* 0, or -1 with an exception */
void ve_upstreams_free(ve_engine *engine);
void ve_upstreams_turn(ve_upstreams *owner);

/* --- upstream_settings.c --- */

/* From PoolSettings, and from addresses of Python; 0 (NULL), or -1 with an exception. */
ve_pool *ve_pool_new(ve_upstreams *owner, PyObject *settings);
int ve_pool_use_addresses(ve_pool *pool, PyObject *addresses);

#endif
