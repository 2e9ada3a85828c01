/* Responses by llhttp: fields are collected, a head goes to the client as soon as it is complete, a body as it comes. */
#include "upstream_h1.h"

enum { FIRST_TEXT = 2048, FIRST_SPANS = 32 };

/* Stop the parser: this response is not accepted. */
static int stop(ve_h1 *h1, const char *reason) {
    h1->outcome = VE_INVALID;
    h1->reason = reason;
    return -1;
}

static int keep(ve_h1 *h1, const char *at, size_t length, bool lower) {
    if (h1->text_length + length > h1->upstream->pool->max_head_bytes) {
        return stop(h1, "the fields of the response are too large");
    }
    if (h1->text_length + length > h1->text_capacity) {
        size_t capacity = h1->text_capacity == 0 ? FIRST_TEXT : h1->text_capacity;
        while (capacity < h1->text_length + length) {
            capacity *= 2;
        }
        char *text = realloc(h1->text, capacity);
        if (text == NULL) {
            return stop(h1, "no memory");
        }
        h1->text = text;
        h1->text_capacity = capacity;
    }
    char *to = h1->text + h1->text_length;
    for (size_t i = 0; i < length; i++) {
        to[i] = lower && at[i] >= 'A' && at[i] <= 'Z' ? (char)(at[i] + ('a' - 'A')) : at[i];
    }
    h1->text_length += length;
    return 0;
}

static int on_begin(llhttp_t *parser) {
    ve_h1 *h1 = parser->data;
    h1->text_length = 0;
    h1->count = 0;
    h1->in_value = true;
    h1->trailers = false;
    return 0;
}

static int on_name(llhttp_t *parser, const char *at, size_t length) {
    ve_h1 *h1 = parser->data;
    if (h1->in_value) {
        if (h1->count >= h1->upstream->pool->max_fields) {
            return stop(h1, "the response has too many fields");
        }
        if (h1->count == h1->capacity) {
            size_t capacity = h1->capacity == 0 ? FIRST_SPANS : h1->capacity * 2;
            ve_span *spans = realloc(h1->spans, capacity * sizeof *spans);
            if (spans == NULL) {
                return stop(h1, "no memory");
            }
            h1->spans = spans;
            h1->capacity = capacity;
        }
        h1->spans[h1->count++] = (ve_span){.name = (uint32_t)h1->text_length};
        h1->in_value = false;
    }
    h1->spans[h1->count - 1].name_length += (uint32_t)length;
    return keep(h1, at, length, true);
}

static int on_value(llhttp_t *parser, const char *at, size_t length) {
    ve_h1 *h1 = parser->data;
    ve_span *span = &h1->spans[h1->count - 1];
    if (!h1->in_value) {
        span->value = (uint32_t)h1->text_length;
        h1->in_value = true;
    }
    span->value_length += (uint32_t)length;
    return keep(h1, at, length, false);
}

/* llhttp gives no value callback for an empty one. */
static int on_value_complete(llhttp_t *parser) {
    ve_h1 *h1 = parser->data;
    h1->in_value = true;
    return 0;
}

static ve_field field_at(const ve_h1 *h1, size_t i) {
    const ve_span *span = &h1->spans[i];
    ve_text value = {h1->text + span->value, span->value_length};
    while (value.length > 0 && (value.at[value.length - 1] == ' ' || value.at[value.length - 1] == '\t')) {
        value.length--;
    }
    return (ve_field){.name = {h1->text + span->name, span->name_length}, .value = value};
}

static int on_head(llhttp_t *parser) {
    ve_h1 *h1 = parser->data;
    ve_field few[128];
    ve_field *fields = h1->count > sizeof few / sizeof few[0] ? malloc(h1->count * sizeof *fields) : few;
    int status = parser->status_code;
    if (fields == NULL) {
        return stop(h1, "no memory");
    }
    for (size_t i = 0; i < h1->count; i++) {
        fields[i] = field_at(h1, i);
    }
    bool bodiless = h1->attempt->is_head || status == 204 || status == 304;
    const char *wrong = ve_h1_check(h1, fields);
    if (wrong == NULL) {
        wrong = status == 101 ? ve_h1_switch_protocols(h1, fields)
                              : ve_attempt_head(h1->attempt, status, fields, h1->count, bodiless);
    }
    if (fields != few) {
        free(fields);
    }
    h1->text_length = 0;
    h1->count = 0;
    h1->framing_bytes = status < 200 ? h1->framing_bytes : 0;
    h1->trailers = status >= 200;
    if (wrong != NULL) {
        return stop(h1, wrong);
    }
    return (bodiless || status < 200) && status != 101 ? 1 : 0; /* 1: no body follows */
}

static int on_body(llhttp_t *parser, const char *at, size_t length) {
    ve_h1 *h1 = parser->data;
    bool failed = false;
    h1->framing_bytes = 0;
    ve_upstreams *owner = h1->upstream->pool->owner;
    if (ve_attempt_data(h1->attempt, (const uint8_t *)at, length, owner->reading, &failed)) {
        owner->reading = NULL;
    }
    return failed ? stop(h1, "no memory") : 0;
}

static int on_complete(llhttp_t *parser) {
    ve_h1 *h1 = parser->data;
    if (parser->status_code < 200 && !h1->tunnel) {
        return 0; /* informational: the final one follows */
    }
    h1->complete = !h1->tunnel;
    return HPE_PAUSED;
}

size_t ve_h1_trailers(const ve_h1 *h1, nghttp3_nv *fields, size_t most) {
    size_t n = 0;
    for (size_t i = 0; i < h1->count && n < most; i++) {
        ve_field field = field_at(h1, i);
        if (!ve_text_is_hop_by_hop(field.name)) {
            fields[n++] = (nghttp3_nv){.name = (uint8_t *)(uintptr_t)field.name.at,
                                       .value = (uint8_t *)(uintptr_t)field.value.at,
                                       .namelen = field.name.length,
                                       .valuelen = field.value.length};
        }
    }
    return n;
}

static const llhttp_settings_t settings = {
    .on_message_begin = on_begin,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

void ve_h1_parser_begin(ve_h1 *h1) {
    llhttp_init(&h1->parser, HTTP_RESPONSE, &settings);
    h1->parser.data = h1;
}

int ve_h1_parse(ve_h1 *h1, const uint8_t *data, size_t length, size_t *used) {
    h1->framing_bytes += length;
    h1->any = true;
    llhttp_errno_t error = llhttp_execute(&h1->parser, (const char *)data, length);
    *used = length;
    if (error == HPE_PAUSED || error == HPE_PAUSED_UPGRADE) {
        *used = (size_t)((const uint8_t *)llhttp_get_error_pos(&h1->parser) - data);
        return 0;
    }
    if (error != HPE_OK) {
        if (h1->reason == NULL) {
            const char *reason = llhttp_get_error_reason(&h1->parser);
            stop(h1, reason == NULL || reason[0] == 0 ? "the response is no HTTP/1.1" : reason);
        }
        return -1;
    }
    if (h1->framing_bytes > h1->upstream->pool->max_head_bytes + VE_READ_BYTES) {
        return stop(h1, "the head or the framing of the response is too large");
    }
    return 0;
}
