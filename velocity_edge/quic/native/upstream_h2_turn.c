/* What an HTTP/2 connection does with bytes and room: read, let nghttp2 work, do what callbacks left, write. */
#include "upstream_h2.h"

#include <stdlib.h>
#include <sys/uio.h>

#include "engine.h"

/* Written at once: one system call, and no more than a socket takes without waiting. */
enum { OUT_BYTES = 64 * 1024 };

/* The connection is of no use any more, nor are its attempts. */
static void fail_all(ve_h2 *h2, ve_outcome outcome, const char *reason) {
    ve_upstream *upstream = h2->upstream;
    ve_upstream_close(upstream); /* frees `h2` */
    while (upstream->attempts != NULL) {
        ve_attempt_end(upstream->attempts, outcome, reason);
    }
}

/* Write what nghttp2 has. False: the connection is closed. */
static bool flush(ve_h2 *h2) {
    uint8_t buffer[OUT_BYTES];
    h2->blocked = false;
    while (!h2->write_failed) {
        size_t length = h2->out_length - h2->out_start;
        const uint8_t *data = h2->out + h2->out_start;
        if (length == 0) {
            free(h2->out);
            h2->out = NULL;
            h2->out_start = h2->out_length = 0;
            while (length <
                   sizeof buffer / 2) { /* a frame has 16 KiB at most, as the upstream may not raise it for us */
                const uint8_t *frame;
                h2->working = true;
                ssize_t n = nghttp2_session_mem_send(h2->session, &frame);
                h2->working = false;
                if (n < 0) {
                    fail_all(h2, VE_INVALID, "no memory for HTTP/2");
                    return false;
                }
                if (n == 0) {
                    break;
                }
                memcpy(buffer + length, frame, (size_t)n);
                length += (size_t)n;
            }
            data = buffer;
        }
        if (length == 0) {
            return true;
        }
        struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
        ssize_t n = ve_wire_write(h2->upstream, &piece, 1);
        if (n < 0 && n != VE_WIRE_BLOCKED) {
            h2->write_failed = true;
            break;
        }
        size_t sent = n < 0 ? 0 : (size_t)n;
        if (sent == length) {
            h2->out_start = h2->out_length;
            continue;
        }
        if (data == buffer) {
            h2->out = malloc(length - sent);
            if (h2->out == NULL) {
                fail_all(h2, VE_CLOSED_EARLY, "no memory");
                return false;
            }
            memcpy(h2->out, buffer + sent, length - sent);
            h2->out_length = length - sent;
        } else {
            h2->out_start += sent;
        }
        h2->blocked = true;
        break;
    }
    return true;
}

/* Requests that it takes at a time. */
unsigned ve_h2_most_streams(const ve_h2 *h2) {
    uint32_t most = nghttp2_session_get_remote_settings(h2->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    return h2->settings && most < VE_H2_STREAMS ? most : VE_H2_STREAMS;
}

/* The upstream's SETTINGS are there: requests that waited for them begin, those above its limit elsewhere
 * (upstream_turn.c). */
static void begin_waiting(ve_h2 *h2) {
    bool tunnels = nghttp2_session_get_remote_settings(h2->session, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1;
    unsigned sent = 0;
    ve_h2_stream *next;
    for (ve_h2_stream *stream = h2->streams; stream != NULL; stream = stream->next) {
        sent += stream->id > 0 && stream->attempt != NULL;
    }
    for (ve_h2_stream *stream = h2->streams; stream != NULL; stream = next) {
        ve_attempt *attempt = stream->attempt;
        next = stream->next;
        if (stream->id > 0) {
            continue;
        }
        if (attempt->websocket && !tunnels) {
            ve_h2_refuse(h2, stream, NGHTTP2_CANCEL, VE_CONNECT_FAILED,
                         "the upstream does not accept WebSocket over HTTP/2 (RFC 8441)");
        } else if (sent < ve_h2_most_streams(h2) && !h2->upstream->retiring) {
            sent += ve_h2_submit(h2, stream);
        } else {
            ve_h2_stream_free(h2, stream);
            attempt->displaced = h2->upstream->displaces = true;
        }
    }
}

/* What callbacks left to do. */
static void catch_up(ve_h2 *h2) {
    ve_h2_stream *next;
    bool waits = false;
    h2->due = false;
    for (const ve_h2_stream *stream = h2->streams; stream != NULL; stream = stream->next) {
        waits = waits || stream->id == 0;
    }
    if (waits && h2->settings) {
        begin_waiting(h2);
    }
    for (ve_h2_stream *stream = h2->streams; stream != NULL; stream = next) {
        next = stream->next;
        if (stream->attempt == NULL || stream->id == 0) {
            continue;
        }
        if (stream->resumed) {
            stream->resumed = false;
            nghttp2_session_consume_stream(h2->session, stream->id, stream->unconsumed);
            stream->unconsumed = 0;
        } else if (stream->tunnel_end && stream->request_ended) {
            ve_h2_complete(h2, stream, NULL, 0);
        }
    }
}

bool ve_h2_settle(ve_h2 *h2) {
    ve_upstream *upstream = h2->upstream;
    do {
        catch_up(h2);
        if (!h2->blocked && !flush(h2)) {
            return false;
        }
    } while (h2->due && !h2->blocked && !h2->write_failed);
    if (h2->broken || (!nghttp2_session_want_read(h2->session) && !nghttp2_session_want_write(h2->session))) {
        fail_all(h2, h2->broken ? VE_INVALID : VE_CLOSED_EARLY,
                 h2->broken ? "no HTTP/2, or an error in it" : "the upstream announced the end of the connection");
        return false;
    }
    if (upstream->running == 0 && !upstream->idle) {
        ve_upstream_rest(upstream);
    } else if (upstream->idle && upstream->retiring) {
        ve_upstream_close(upstream);
    }
    if (upstream->closed) {
        return false;
    }
    ve_h2_watch(h2);
    return true;
}

bool ve_h2_read_once(ve_h2 *h2) {
    ve_upstream *upstream = h2->upstream;
    ve_upstreams *owner = upstream->pool->owner;
    if (owner->spare == NULL) {
        owner->spare = malloc(sizeof *owner->spare + VE_READ_BYTES);
    }
    if (owner->spare == NULL) {
        fail_all(h2, VE_CLOSED_EARLY, "no memory");
        return false;
    }
    uint8_t *data = (uint8_t *)(owner->spare + 1);
    ssize_t n = ve_wire_read(upstream, data, VE_READ_BYTES);
    if (n == VE_WIRE_BLOCKED) {
        ve_h2_settle(h2);
        return false;
    }
    if (n == VE_WIRE_END || n == VE_WIRE_FAILED) {
        h2->broken = true; /* nothing can be written */
        fail_all(h2, VE_CLOSED_EARLY,
                 n == VE_WIRE_END ? "the upstream closed the connection" : "the upstream reset the connection");
        return false;
    }
    h2->working = true;
    ssize_t used = nghttp2_session_mem_recv(h2->session, data, (size_t)n);
    h2->working = false;
    h2->empty_bytes += (size_t)n; /* also those of frames that nghttp2 does not know, and skips */
    bool flood = h2->empty_frames > VE_H2_EMPTY_FRAMES || h2->empty_bytes > VE_H2_EMPTY_BYTES;
    if (used < 0 || h2->empty_bytes > VE_H2_EMPTY_BYTES) {
        h2->broken = true;
        fail_all(h2, VE_INVALID, flood || used == NGHTTP2_ERR_FLOODED ? "a flood of HTTP/2 frames" : "no HTTP/2");
        return false;
    }
    return ve_h2_settle(h2) && (n == VE_READ_BYTES || upstream->tls != NULL);
}
