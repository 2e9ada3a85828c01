/* HTTP/1.1 to an upstream (RFC 9112): one request at a time on a connection, responses parsed by llhttp.
 *
 * Ownership: a ve_h1 is the `state` of its connection. Buffers exist only while a request runs; an idle connection has
 * none. Callbacks of llhttp note what is wrong (`reason`), and upstream_h1.c acts on it after the library returned.
 */
#ifndef VE_UPSTREAM_H1_H
#define VE_UPSTREAM_H1_H

#include <llhttp.h>

#include "upstream.h"

typedef enum ve_framing { VE_FRAMING_NONE, VE_FRAMING_LENGTH, VE_FRAMING_CHUNKED, VE_FRAMING_RAW } ve_framing;

typedef struct ve_span {
    uint32_t name;
    uint32_t name_length;
    uint32_t value;
    uint32_t value_length;
} ve_span;

typedef struct ve_h1 {
    llhttp_t parser;
    ve_upstream *upstream;
    ve_attempt *attempt; /* NULL: none runs */

    /* The request: `out` is sent before body bytes of the stream. */
    uint8_t *out;
    size_t out_start;
    size_t out_length;
    size_t out_capacity;
    ve_framing framing;
    uint64_t left; /* of the chunk that is sent, or of the content-length */
    bool request_done;
    bool write_failed;
    bool blocked;    /* the socket takes no more */
    char accept[29]; /* Sec-WebSocket-Accept that is expected, and 0 */

    /* The response. Names and values are in `text`. */
    char *text;
    size_t text_length;
    size_t text_capacity;
    ve_span *spans;
    size_t count;
    size_t capacity;
    size_t framing_bytes; /* of heads, chunk heads and trailers since the last byte of a body */
    bool in_value;
    bool any;      /* a byte of a response came */
    bool trailers; /* the fields are those of the trailer section */
    bool complete;
    bool tunnel;
    bool tunnel_end; /* the upstream has sent all */
    const char *reason;
    ve_outcome outcome;
} ve_h1;

/* --- upstream_h1_parse.c --- */

void ve_h1_parser_begin(ve_h1 *h1);
/* Parse. 0, or -1: `outcome` and `reason` say why not. `*used`: bytes before the end of the message. */
/* The fields of the trailer section that may be passed on, at most `most`; they point into `text`. */
size_t ve_h1_trailers(const ve_h1 *h1, nghttp3_nv *fields, size_t most);
int ve_h1_parse(ve_h1 *h1, const uint8_t *data, size_t length, size_t *used);

/* --- upstream_h1_check.c --- */

/* NULL, or what is wrong with a head. */
const char *ve_h1_check(const ve_h1 *h1, const ve_field *fields);
/* The head has status 101: begin a tunnel if it answers to a WebSocket, with 200 for the client. */
const char *ve_h1_switch_protocols(ve_h1 *h1, const ve_field *fields);

/* --- upstream_h1_head.c --- */

/* Append to `out`; 0, or -1 without memory. */
int ve_h1_put(ve_h1 *h1, const void *data, size_t length);
/* Append the head of the attempt's request, and choose the framing of its body. 0, or -1 without memory. */
int ve_h1_put_head(ve_h1 *h1);
/* The end of a chunked body, with the trailer section. */
int ve_h1_put_last_chunk(ve_h1 *h1);

/* --- upstream_h1_send.c --- */

/* Send what is there. */
void ve_h1_send(ve_h1 *h1);

#endif
