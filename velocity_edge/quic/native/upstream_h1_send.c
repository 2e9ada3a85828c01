/* The request to the upstream: its head, then body bytes straight from the client's stream. */
#include "upstream_h1.h"

#include <sys/uio.h>

/* Add to `out` what comes before the next body bytes. False: nothing may be added now. */
static bool frame(ve_h1 *h1, size_t length, bool end) {
    char head[24];
    if (h1->request_done || h1->left > 0) {
        return true;
    }
    switch (h1->framing) {
    case VE_FRAMING_NONE:
    case VE_FRAMING_LENGTH:
        h1->request_done = true;
        return true;
    case VE_FRAMING_CHUNKED:
        if (length > 0) {
            h1->left = length;
            return ve_h1_put(h1, head, (size_t)snprintf(head, sizeof head, "%zx\r\n", length)) == 0;
        }
        if (end) {
            h1->request_done = true;
            return ve_h1_put_last_chunk(h1) == 0;
        }
        return true;
    case VE_FRAMING_RAW:
        h1->left = length;
        h1->request_done = end && length == 0;
        return true;
    }
    return true;
}

static void sent(ve_h1 *h1, size_t n, size_t piece) {
    size_t out = h1->out_length - h1->out_start;
    if (n < out) {
        h1->out_start += n;
        return;
    }
    h1->out_start = h1->out_length = 0;
    n -= out;
    size_t body = n < piece ? n : piece;
    if (body == 0) {
        return;
    }
    h1->left -= body;
    ve_attempt_sent(h1->attempt, body);
    if (h1->framing == VE_FRAMING_CHUNKED && h1->left == 0 && ve_h1_put(h1, "\r\n" + (n - body), 2 - (n - body)) != 0) {
        h1->write_failed = true;
    }
}

void ve_h1_send(ve_h1 *h1) {
    ve_attempt *attempt = h1->attempt;
    bool was_done = h1->request_done;
    h1->blocked = false;
    while (!h1->write_failed) {
        size_t length;
        bool end;
        const uint8_t *body = ve_attempt_body(attempt, &length, &end);
        if (!frame(h1, length, end)) {
            h1->write_failed = true;
            break;
        }
        size_t out = h1->out_length - h1->out_start;
        size_t piece = length < h1->left ? length : (size_t)h1->left;
        struct iovec pieces[3] = {{.iov_base = h1->out + h1->out_start, .iov_len = out},
                                  {.iov_base = (void *)(uintptr_t)body, .iov_len = piece},
                                  {.iov_base = (void *)(uintptr_t)"\r\n", .iov_len = 2}};
        if (out + piece == 0) {
            break;
        }
        bool ends_chunk = h1->framing == VE_FRAMING_CHUNKED && piece > 0 && piece == h1->left;
        ssize_t n = ve_wire_write(h1->upstream, out > 0 ? pieces : pieces + 1,
                                  (out > 0) + (piece > 0) + (piece > 0 && ends_chunk));
        if (n == VE_WIRE_BLOCKED) {
            h1->blocked = true;
            break;
        }
        if (n < 0) {
            h1->write_failed = true; /* a response may have come before: reading tells */
            break;
        }
        sent(h1, (size_t)n, piece);
    }
    if (h1->request_done && h1->out_length == h1->out_start && !h1->write_failed) {
        if (h1->framing == VE_FRAMING_RAW) {
            if (!was_done) {
                ve_wire_end(h1->upstream);
            }
        } else if (!attempt->request_done) {
            free(h1->out);
            h1->out = NULL;
            h1->out_capacity = 0;
            ve_attempt_request_done(attempt);
        }
    }
}
