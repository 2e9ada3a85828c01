/* libFuzzer on the responses of upstreams: upstream_h1_parse.c and what it calls, without sockets and without a client.
 *
 * The first byte says what the request was, the second in which pieces the response arrives. The same response in one
 * piece must have the same effect. No field with an invalid name or value may get through, and no more body than a
 * content-length says. tests/native/test_upstreams_fuzz.py compiles and runs it.
 */
#include <assert.h>
#include <stdlib.h>

#include "upstream_h1.h"

enum { MOST_BYTES = 1 << 16, WANTS_WEBSOCKET = 1, WANTS_HEAD = 2, ENDS = 4 };

/* What a client has seen. */
typedef struct trace {
    uint8_t bytes[4 * MOST_BYTES];
    size_t length;
    uint64_t body;
    int64_t promised; /* by content-length, when a body follows; -1: nothing */
    bool final;
} trace;

static trace *current;

static void note(const void *data, size_t length) {
    assert(current->length + length < sizeof current->bytes);
    memcpy(current->bytes + current->length, data, length);
    current->length += length;
}

const char *ve_attempt_head(ve_attempt *attempt, int status, const ve_field *fields, size_t count, bool end) {
    (void)attempt;
    assert(status >= 100 && status <= 599 && status != 101 && !current->final);
    note(&status, sizeof status);
    current->final = status >= 200;
    for (size_t i = 0; i < count; i++) {
        assert(ve_text_is_token(fields[i].name, true) && ve_text_is_value(fields[i].value));
        if (ve_text_is(fields[i].name, "content-length") && !end) {
            assert(ve_text_read_length(fields[i].value, &current->promised));
        }
        note(fields[i].name.at, fields[i].name.length);
        note(":", 1);
        note(fields[i].value.at, fields[i].value.length);
        note("\n", 1);
    }
    return NULL;
}

bool ve_attempt_data(ve_attempt *attempt, const uint8_t *data, size_t length, ve_chunk *chunk, bool *failed) {
    (void)attempt;
    (void)chunk;
    (void)failed;
    assert(current->final);
    current->body += length;
    assert(current->promised < 0 || current->body <= (uint64_t)current->promised);
    note(data, length);
    return false;
}

static void run(trace *into, uint8_t kind, const uint8_t *data, size_t length, size_t piece) {
    ve_upstreams owner = {0};
    ve_pool pool = {.owner = &owner, .max_head_bytes = 8192, .max_fields = 50};
    ve_upstream upstream = {.pool = &pool};
    ve_attempt attempt = {.websocket = kind & WANTS_WEBSOCKET, .is_head = kind & WANTS_HEAD};
    ve_h1 h1 = {.upstream = &upstream, .attempt = &attempt, .accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="};
    nghttp3_nv trailers[8];
    size_t used;
    int rv = 0;
    current = into;
    *into = (trace){.promised = -1};
    ve_h1_parser_begin(&h1);
    for (size_t at = 0; at < length && rv == 0 && !h1.complete && !h1.tunnel; at += piece) {
        size_t n = length - at < piece ? length - at : piece;
        uint8_t *copy = malloc(n); /* so that AddressSanitizer sees where it ends */
        memcpy(copy, data + at, n);
        rv = ve_h1_parse(&h1, copy, n, &used);
        assert(rv != 0 || used <= n);
        assert(rv == 0 || h1.reason != NULL);
        free(copy);
    }
    if (rv == 0 && !h1.complete && !h1.tunnel && (kind & ENDS)) {
        llhttp_finish(&h1.parser);
    }
    if (h1.complete) {
        assert(into->final && (into->promised < 0 || into->body == (uint64_t)into->promised));
        size_t n = h1.trailers ? ve_h1_trailers(&h1, trailers, 8) : 0;
        for (size_t i = 0; i < n; i++) {
            note(trailers[i].name, trailers[i].namelen);
            note(trailers[i].value, trailers[i].valuelen);
        }
    }
    note(&h1.complete, 1);
    note(&h1.tunnel, 1);
    note(rv == 0 ? "+" : "-", 1);
    free(h1.text);
    free(h1.spans);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length) {
    static trace whole;
    static trace pieces;
    if (length < 2 || length > MOST_BYTES) {
        return 0;
    }
    run(&whole, data[0], data + 2, length - 2, MOST_BYTES);
    run(&pieces, data[0], data + 2, length - 2, 1 + data[1] % 37);
    assert(whole.length == pieces.length && memcmp(whole.bytes, pieces.bytes, whole.length) == 0);
    return 0;
}

#ifdef WITHOUT_LIBFUZZER
/* Where the compiler has no libFuzzer: mutations of the files that are named, from a seed. */
#include <stdio.h>

static uint64_t dice = 88172645463325252ull;

static size_t roll(size_t sides) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return sides == 0 ? 0 : (size_t)(dice % sides);
}

static size_t mutate(uint8_t *data, size_t length) {
    static const char *const words[] = {"\r\n",      "\r\n\r\n", ":", " ", "content-length: 3\r\n",
                                        "0\r\n\r\n", "\n",       ";", ","};
    for (size_t i = 1 + roll(4); i > 0; i--) {
        size_t at = roll(length);
        const char *word = words[roll(sizeof words / sizeof words[0])];
        switch (roll(4)) {
        case 0:
            data[at] = (uint8_t)roll(256);
            break;
        case 1:
            memmove(data + at + strlen(word), data + at, length - at);
            memcpy(data + at, word, strlen(word));
            length += strlen(word);
            break;
        case 2:
            length -= length - at > 1;
            memmove(data + at, data + at + 1, length - at);
            break;
        default:
            length = roll(8) == 0 && at > 2 ? at : length;
        }
    }
    return length;
}

int main(int count, char **arguments) {
    static uint8_t seed[4096];
    static uint8_t data[8192];
    for (int i = 0; i < 40000; i++) {
        FILE *file = fopen(arguments[1 + roll((size_t)count - 1)], "rb");
        size_t length = fread(seed, 1, sizeof seed, file);
        fclose(file);
        memcpy(data, seed, length);
        LLVMFuzzerTestOneInput(data, mutate(data, length));
    }
    return 0;
}
#endif
