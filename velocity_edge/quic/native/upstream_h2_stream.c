/* A stream of an upstream's connection: its memory, its field sections, its early end, and work for the next turn. */
#include "upstream_h2.h"

#include <stdlib.h>

enum { FIELD_OVERHEAD = 32, FIRST_TEXT = 1024, FIRST_FIELDS = 16 };

void ve_h2_watch(ve_h2 *h2) {
    ve_wire_watch(h2->upstream, true, h2->write_failed ? h2->due : h2->blocked || h2->due);
}

void ve_h2_later(ve_h2 *h2) {
    h2->due = true;
    if (!h2->working) {
        ve_h2_watch(h2); /* the socket is writable: the next turn begins with this connection */
    }
}

ve_h2_stream *ve_h2_stream_new(ve_h2 *h2, ve_attempt *attempt) {
    ve_h2_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return NULL;
    }
    stream->attempt = attempt;
    attempt->state = stream;
    stream->next = h2->streams;
    if (stream->next != NULL) {
        stream->next->previous = stream;
    }
    h2->streams = stream;
    return stream;
}

void ve_h2_section_clear(ve_h2_stream *stream) {
    free(stream->text);
    free(stream->fields);
    stream->text = NULL;
    stream->fields = NULL;
    stream->text_length = stream->text_capacity = 0;
    stream->count = stream->capacity = stream->section_bytes = 0;
}

void ve_h2_detach(ve_h2_stream *stream) {
    if (stream->attempt != NULL) {
        stream->attempt->state = NULL;
        stream->attempt = NULL;
    }
}

void ve_h2_stream_free(ve_h2 *h2, ve_h2_stream *stream) {
    ve_h2_detach(stream);
    ve_h2_section_clear(stream);
    *(stream->previous != NULL ? &stream->previous->next : &h2->streams) = stream->next;
    if (stream->next != NULL) {
        stream->next->previous = stream->previous;
    }
    free(stream);
}

void ve_h2_refuse(ve_h2 *h2, ve_h2_stream *stream, uint32_t code, ve_outcome outcome, const char *reason) {
    ve_attempt *attempt = stream->attempt;
    if (stream->id > 0) {
        nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id, code);
    }
    if (attempt != NULL) {
        ve_h2_detach(stream);
        ve_attempt_end(attempt, outcome, reason);
    }
    if (stream->id == 0) {
        ve_h2_stream_free(h2, stream); /* nghttp2 does not know it */
    }
    ve_h2_later(h2);
}

static bool reserve(void **memory, size_t *capacity, size_t needed, size_t size, size_t first) {
    size_t more = *capacity == 0 ? first : *capacity;
    if (needed <= *capacity) {
        return true;
    }
    while (more < needed) {
        more *= 2;
    }
    void *fresh = realloc(*memory, more * size);
    if (fresh == NULL) {
        return false;
    }
    *memory = fresh;
    *capacity = more;
    return true;
}

bool ve_h2_section_add(ve_h2_stream *stream, ve_text name, ve_text value) {
    const ve_pool *pool = stream->attempt->pool;
    void *text = stream->text;
    void *fields = stream->fields;
    stream->section_bytes += name.length + value.length + FIELD_OVERHEAD;
    if (stream->count == pool->max_fields || stream->section_bytes > pool->max_head_bytes) {
        return false;
    }
    bool good = reserve(&text, &stream->text_capacity, stream->text_length + name.length + value.length, 1, FIRST_TEXT);
    stream->text = text;
    good = good && reserve(&fields, &stream->capacity, stream->count + 1, sizeof *stream->fields, FIRST_FIELDS);
    stream->fields = fields;
    if (!good) {
        return false;
    }
    ve_h2_field *field = &stream->fields[stream->count++];
    *field = (ve_h2_field){.name = (uint32_t)stream->text_length,
                           .name_length = (uint32_t)name.length,
                           .value = (uint32_t)(stream->text_length + name.length),
                           .value_length = (uint32_t)value.length};
    memcpy(stream->text + field->name, name.at, name.length);
    memcpy(stream->text + field->value, value.at, value.length);
    stream->text_length += name.length + value.length;
    return true;
}
