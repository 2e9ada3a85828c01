/* Which heads of responses are accepted, beyond what llhttp checks. */
#include "upstream_h1.h"

/* What llhttp leaves to its caller (RFC 9112 sections 6.1 and 6.3). NULL, or what is wrong. */
const char *ve_h1_check(const ve_h1 *h1, const ve_field *fields) {
    const llhttp_t *parser = &h1->parser;
    unsigned lengths = 0;
    unsigned codings = 0;
    if (parser->http_major != 1) {
        return "the response is not HTTP/1";
    }
    if (parser->status_code < 100 || parser->status_code > 599) {
        return "the status of the response is out of range 100..599";
    }
    for (size_t i = 0; i < h1->count; i++) {
        if (ve_text_is(fields[i].name, "content-length")) {
            int64_t length;
            lengths++;
            if (!ve_text_read_length(fields[i].value, &length)) {
                return "the length of the response is no number of at most 18 digits";
            }
        } else if (ve_text_is(fields[i].name, "transfer-encoding")) {
            codings++;
            if (!ve_text_equals(fields[i].value, "chunked") || parser->http_minor == 0) {
                return "the transfer coding of the response is not chunked";
            }
        }
    }
    if (codings > 1 || lengths > 1 || (codings > 0 && lengths > 0)) {
        return "the length of the response is ambiguous";
    }
    if ((codings > 0 && (parser->status_code < 200 || parser->status_code == 204)) ||
        (lengths > 0 && parser->status_code < 200)) {
        return "a response that has no body has a length or a transfer coding";
    }
    return NULL;
}

/* 101 to a request for a WebSocket (RFC 6455 section 4.1). */
const char *ve_h1_switch_protocols(ve_h1 *h1, const ve_field *fields) {
    ve_field passed[64];
    size_t n = 0;
    bool upgrade = false;
    bool accept = false;
    if (!h1->attempt->websocket) {
        return "the upstream switches protocols, and nobody asked for that";
    }
    for (size_t i = 0; i < h1->count; i++) {
        if (ve_text_is(fields[i].name, "upgrade")) {
            upgrade = ve_text_equals(fields[i].value, "websocket");
        } else if (ve_text_is(fields[i].name, "sec-websocket-accept")) {
            accept = fields[i].value.length == strlen(h1->accept) &&
                     memcmp(fields[i].value.at, h1->accept, fields[i].value.length) == 0;
        } else if (ve_text_is(fields[i].name, "content-length") || ve_text_is(fields[i].name, "transfer-encoding")) {
            return "the answer that switches protocols has a body";
        } else if (n < sizeof passed / sizeof passed[0]) {
            passed[n++] = fields[i];
        } else {
            return "the response has too many fields";
        }
    }
    if (!upgrade || !accept || !h1->parser.upgrade) {
        return "the upstream does not accept the WebSocket as RFC 6455 requires";
    }
    h1->tunnel = true;
    return ve_attempt_head(h1->attempt, 200, passed, n, false);
}
