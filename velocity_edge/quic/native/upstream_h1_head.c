/* Requests as bytes (RFC 9112 sections 3 to 7, RFC 6455 section 4.1). */
#include "upstream_h1.h"

#include <openssl/evp.h>

#include "crypto.h"

enum { KEY_BYTES = 16, KEY_TEXT = 24 };

int ve_h1_put(ve_h1 *h1, const void *data, size_t length) {
    if (length == 0) {
        return 0;
    }
    if (h1->out_length + length > h1->out_capacity) {
        size_t capacity = h1->out_capacity == 0 ? 1024 : h1->out_capacity;
        while (capacity < h1->out_length + length) {
            capacity *= 2;
        }
        uint8_t *out = realloc(h1->out, capacity);
        if (out == NULL) {
            return -1;
        }
        h1->out = out;
        h1->out_capacity = capacity;
    }
    memcpy(h1->out + h1->out_length, data, length);
    h1->out_length += length;
    return 0;
}

#define PUT(h1, text) ve_h1_put(h1, text, sizeof(text) - 1)

static int put_text(ve_h1 *h1, ve_text text) {
    return ve_h1_put(h1, text.at, text.length);
}

static int put_field(ve_h1 *h1, ve_text name, ve_text value) {
    return put_text(h1, name) | PUT(h1, ": ") | put_text(h1, value) | PUT(h1, "\r\n");
}

static bool named(const ve_field *field, const char *name) {
    return field->name.length == strlen(name) && memcmp(field->name.at, name, field->name.length) == 0;
}

/* The field that asks for a WebSocket, and what must come back. */
static int put_upgrade(ve_h1 *h1) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t key[KEY_BYTES];
    uint8_t text[KEY_TEXT + sizeof guid];
    uint8_t digest[EVP_MAX_MD_SIZE];
    if (ve_random(key, sizeof key) != 0) {
        return -1;
    }
    EVP_EncodeBlock(text, key, sizeof key);
    memcpy(text + KEY_TEXT, guid, sizeof guid);
    if (EVP_Digest(text, KEY_TEXT + sizeof guid - 1, digest, NULL, EVP_sha1(), NULL) != 1) {
        return -1;
    }
    EVP_EncodeBlock((uint8_t *)h1->accept, digest, 20);
    return PUT(h1, "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ") | ve_h1_put(h1, text, KEY_TEXT) |
           PUT(h1, "\r\n");
}

static bool expects_a_length(ve_text method) {
    return (method.length == 4 && memcmp(method.at, "POST", 4) == 0) ||
           (method.length == 3 && memcmp(method.at, "PUT", 3) == 0) ||
           (method.length == 5 && memcmp(method.at, "PATCH", 5) == 0);
}

/* How the body is sent. A request that is whole and has no body needs no framing (RFC 9110 section 8.6). */
static int put_framing(ve_h1 *h1) {
    ve_attempt *attempt = h1->attempt;
    size_t length;
    bool end;
    ve_attempt_body(attempt, &length, &end);
    if (attempt->content_length >= 0) {
        h1->framing = VE_FRAMING_LENGTH;
        h1->left = (uint64_t)attempt->content_length;
        return 0; /* the field is among the others */
    }
    if (end && length == 0 && attempt->stream->trailers == NULL) {
        h1->framing = VE_FRAMING_NONE;
        return expects_a_length(attempt->method) ? PUT(h1, "content-length: 0\r\n") : 0;
    }
    h1->framing = VE_FRAMING_CHUNKED;
    h1->left = 0;
    return PUT(h1, "transfer-encoding: chunked\r\n");
}

int ve_h1_put_head(ve_h1 *h1) {
    ve_attempt *attempt = h1->attempt;
    bool te = false;
    int failed = attempt->websocket ? PUT(h1, "GET") : put_text(h1, attempt->method);
    failed |= PUT(h1, " ") | put_text(h1, attempt->target) | PUT(h1, " HTTP/1.1\r\nhost: ") |
              put_text(h1, attempt->authority) | PUT(h1, "\r\n");
    for (size_t i = 0; i < attempt->field_count; i++) {
        const ve_field *field = &attempt->fields[i];
        if (attempt->websocket && (named(field, "content-length") || named(field, "sec-websocket-key"))) {
            continue;
        }
        te = te || named(field, "te");
        failed |= put_field(h1, field->name, field->value);
    }
    if (attempt->websocket) {
        h1->framing = VE_FRAMING_NONE; /* raw after the answer */
        failed |= put_upgrade(h1);
    } else {
        failed |= put_framing(h1);
        failed |= te ? PUT(h1, "connection: te\r\n") : 0; /* RFC 9110 section 10.1.4 */
    }
    return failed | PUT(h1, "\r\n");
}

int ve_h1_put_last_chunk(ve_h1 *h1) {
    PyObject *trailers = h1->attempt->stream->trailers; /* a list of valid pairs */
    int failed = PUT(h1, "0\r\n");
    for (Py_ssize_t i = 0; trailers != NULL && i < PyList_GET_SIZE(trailers); i++) {
        PyObject *pair = PyList_GET_ITEM(trailers, i);
        PyObject *name = PyTuple_GET_ITEM(pair, 0);
        PyObject *value = PyTuple_GET_ITEM(pair, 1);
        failed |= put_field(h1, (ve_text){PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name)},
                            (ve_text){PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value)});
    }
    return failed | PUT(h1, "\r\n");
}
