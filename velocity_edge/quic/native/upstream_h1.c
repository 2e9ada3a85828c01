/* HTTP/1.1 on one connection: what is read and written when, its end, and tunnels (RFC 6455). Long because each of them
 * may end the others. */
#include "upstream_h1.h"

#include <sys/epoll.h>

#include "connection.h"
#include "http.h"

/* Buffers of 64 KiB that are read before other connections have their turn. */
enum { READS = 4, MOST_TRAILERS = 64 };

static void forget_buffers(ve_h1 *h1) {
    free(h1->out);
    free(h1->text);
    free(h1->spans);
    h1->out = NULL;
    h1->text = NULL;
    h1->spans = NULL;
    h1->out_start = h1->out_length = h1->out_capacity = 0;
    h1->text_length = h1->text_capacity = h1->count = h1->capacity = 0;
}

static int begin(ve_upstream *upstream) {
    ve_h1 *h1 = calloc(1, sizeof *h1);
    if (h1 == NULL) {
        return -1;
    }
    h1->upstream = upstream;
    upstream->state = h1;
    return 0;
}

static void end(ve_upstream *upstream) {
    ve_h1 *h1 = upstream->state;
    forget_buffers(h1);
    free(h1);
}

static bool has_room(const ve_upstream *upstream) {
    const ve_h1 *h1 = upstream->state;
    return h1->attempt == NULL;
}

static void watch(ve_h1 *h1) {
    bool read = !h1->attempt->resumable && !h1->tunnel_end;
    ve_wire_watch(h1->upstream, read, h1->blocked && !h1->write_failed);
}

/* The attempt failed, and the connection with it. */
static void fail(ve_h1 *h1, ve_outcome outcome, const char *reason) {
    ve_attempt *attempt = h1->attempt;
    h1->attempt = NULL;
    ve_upstream_close(h1->upstream);
    ve_attempt_end(attempt, outcome, reason);
}

/* The response is complete. */
static void complete(ve_h1 *h1, bool whole_buffer) {
    ve_upstream *upstream = h1->upstream;
    ve_attempt *attempt = h1->attempt;
    nghttp3_nv trailers[MOST_TRAILERS];
    size_t count = h1->trailers ? ve_h1_trailers(h1, trailers, MOST_TRAILERS) : 0;
    bool alive = whole_buffer && attempt->request_done && !h1->tunnel && llhttp_should_keep_alive(&h1->parser);
    h1->attempt = NULL;
    ve_attempt_complete(attempt, trailers, count);
    if (alive) {
        forget_buffers(h1);
        ve_upstream_rest(upstream);
    } else {
        ve_upstream_close(upstream);
    }
}

/* Both directions of a tunnel are through. */
static bool tunnel_over(ve_h1 *h1) {
    if (h1->tunnel && h1->tunnel_end && h1->request_done && h1->out_length == h1->out_start) {
        complete(h1, false);
        return true;
    }
    return false;
}

static void send_more(ve_h1 *h1) {
    ve_h1_send(h1);
    if (h1->write_failed && h1->tunnel) {
        fail(h1, VE_TRUNCATED, "the upstream closed the tunnel");
        return;
    }
    if (!tunnel_over(h1)) {
        watch(h1);
    }
}

/* The upstream sends no more. */
static void at_end(ve_h1 *h1) {
    ve_attempt *attempt = h1->attempt;
    if (h1->tunnel) {
        h1->tunnel_end = true;
        attempt->stream->ended = true;
        ve_http_resume(attempt->stream);
        if (!tunnel_over(h1)) {
            watch(h1);
        }
        return;
    }
    /* A body without a length ends here. */
    if (attempt->head_sent) {
        llhttp_finish(&h1->parser);
        if (h1->complete) {
            complete(h1, false);
            return;
        }
    }
    fail(h1, VE_CLOSED_EARLY,
         attempt->head_sent ? "the upstream closed the connection within the response"
         : h1->any          ? "the upstream closed the connection within the head of the response"
                            : "the upstream closed the connection");
}

/* Bytes of the upstream. False: the connection is closed, or idle. */
static bool take(ve_h1 *h1, size_t length) {
    ve_upstreams *owner = h1->upstream->pool->owner;
    ve_upstream *upstream = h1->upstream;
    const uint8_t *data = (const uint8_t *)(owner->reading + 1);
    bool begins = false;
    size_t used = 0;
    if (!h1->tunnel) {
        if (ve_h1_parse(h1, data, length, &used) != 0) {
            fail(h1, h1->outcome, h1->reason);
            return false;
        }
        if (h1->complete) {
            complete(h1, used == length);
            return false;
        }
        if (!h1->tunnel) {
            return true;
        }
        h1->framing = VE_FRAMING_RAW;
        h1->left = 0;
        h1->request_done = false;
        begins = true;
    }
    if (used < length) {
        bool failed = false;
        if (ve_attempt_data(h1->attempt, data + used, length - used, owner->reading, &failed)) {
            owner->reading = NULL;
        }
        if (failed) {
            fail(h1, VE_TRUNCATED, "no memory");
            return false;
        }
    }
    if (begins) {
        send_more(h1);
    }
    return !upstream->closed;
}

static void read_more(ve_h1 *h1) {
    ve_upstream *upstream = h1->upstream;
    ve_upstreams *owner = upstream->pool->owner;
    for (int i = 0; i < READS; i++) {
        if (ve_attempt_is_behind(h1->attempt)) {
            break;
        }
        owner->reading = owner->spare != NULL ? owner->spare : ve_chunk_new(VE_READ_BYTES);
        owner->spare = NULL;
        if (owner->reading == NULL) {
            fail(h1, VE_INVALID, "no memory");
            return;
        }
        ssize_t n = ve_wire_read(upstream, owner->reading + 1, VE_READ_BYTES);
        bool alive = n > 0 && take(h1, (size_t)n);
        owner->spare = owner->reading;
        owner->reading = NULL;
        if (n == VE_WIRE_BLOCKED) {
            break;
        }
        if (n == VE_WIRE_END) {
            at_end(h1);
            return;
        }
        if (n == VE_WIRE_FAILED) {
            fail(h1, VE_CLOSED_EARLY, "the upstream reset the connection");
            return;
        }
        if (!alive) {
            return;
        }
        if (n < VE_READ_BYTES && upstream->tls == NULL) {
            break; /* there is hardly more, and epoll will tell */
        }
    }
    watch(h1);
}

/* Bytes or an end that nobody asked for: the connection cannot be used. TLS tickets are none. */
static void read_idle(ve_upstream *upstream) {
    char byte;
    if (ve_wire_read(upstream, &byte, 1) != VE_WIRE_BLOCKED) {
        ve_upstream_close(upstream);
    }
}

static void ready(ve_upstream *upstream, uint32_t events) {
    ve_h1 *h1 = upstream->state;
    if (h1->attempt == NULL) {
        read_idle(upstream);
        return;
    }
    if ((events & EPOLLOUT) && h1->blocked) {
        send_more(h1);
    }
    if (!upstream->closed && h1->attempt != NULL && !h1->attempt->resumable && !h1->tunnel_end) {
        read_more(h1);
    }
}

static void start(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h1 *h1 = upstream->state;
    llhttp_t parser = h1->parser;
    *h1 = (ve_h1){.upstream = upstream, .attempt = attempt, .parser = parser};
    ve_h1_parser_begin(h1);
    if (ve_h1_put_head(h1) != 0) {
        fail(h1, VE_CONNECT_FAILED, "no memory");
        return;
    }
    ve_h1_send(h1);
    watch(h1);
}

static void body(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h1 *h1 = upstream->state;
    (void)attempt;
    if (!h1->blocked && !h1->write_failed) {
        send_more(h1);
    }
}

static void resume(ve_upstream *upstream, ve_attempt *attempt) {
    (void)attempt;
    watch(upstream->state);
}

static void abandon(ve_upstream *upstream, ve_attempt *attempt) {
    ve_h1 *h1 = upstream->state;
    (void)attempt;
    h1->attempt = NULL;
    ve_upstream_close(upstream);
}

const ve_protocol ve_protocol_h1 = {
    .alpn = "http/1.1",
    .begin = begin,
    .has_room = has_room,
    .start = start,
    .ready = ready,
    .body = body,
    .resume = resume,
    .abandon = abandon,
    .end = end,
};
