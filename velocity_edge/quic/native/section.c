/* Decode a field section. */
#include "section.h"

#include <stdlib.h>

enum {
    FIELD_OVERHEAD = 32, /* RFC 9114 section 4.2.2 */
    FIRST_FIELDS = 32,
    /* After a request with more fields than this their memory is freed. */
    KEPT_FIELDS = 256,
};

static void renew(ve_sections *sections) {
    nghttp3_qpack_stream_context_del(sections->context);
    nghttp3_qpack_decoder_del(sections->decoder);
    sections->context = NULL;
    sections->decoder = NULL;
}

void ve_sections_clear(ve_sections *sections) {
    for (size_t i = 0; i < sections->count; i++) {
        nghttp3_rcbuf_decref(sections->fields[i].name);
        nghttp3_rcbuf_decref(sections->fields[i].value);
    }
    sections->count = 0;
    if (sections->capacity > KEPT_FIELDS) {
        free(sections->fields);
        sections->fields = NULL;
        sections->capacity = 0;
    }
}

void ve_sections_free(ve_sections *sections) {
    ve_sections_clear(sections);
    renew(sections);
    free(sections->fields);
    sections->fields = NULL;
    sections->capacity = 0;
}

static bool reserve(ve_sections *sections) {
    if (sections->count < sections->capacity) {
        return true;
    }
    size_t capacity = sections->capacity == 0 ? FIRST_FIELDS : 2 * sections->capacity;
    nghttp3_qpack_nv *fields = realloc(sections->fields, capacity * sizeof *fields);
    if (fields == NULL) {
        return false;
    }
    sections->fields = fields;
    sections->capacity = capacity;
    return true;
}

static ve_decoded decode(ve_sections *sections, const uint8_t *data, size_t length, size_t most) {
    uint8_t flags = 0;
    sections->bytes = 0;
    if (sections->decoder == NULL &&
        (nghttp3_qpack_decoder_new(&sections->decoder, 0, 0, nghttp3_mem_default()) != 0 ||
         nghttp3_qpack_stream_context_new(&sections->context, 0, nghttp3_mem_default()) != 0)) {
        return VE_DECODED_NO_MEMORY;
    }
    nghttp3_qpack_stream_context_reset(sections->context);
    do {
        nghttp3_qpack_nv field;
        nghttp3_ssize used =
            nghttp3_qpack_decoder_read_request(sections->decoder, sections->context, &field, &flags, data, length, 1);
        if (used < 0) {
            return used == NGHTTP3_ERR_NOMEM                    ? VE_DECODED_NO_MEMORY
                   : used == NGHTTP3_ERR_QPACK_HEADER_TOO_LARGE ? VE_DECODED_TOO_LARGE
                                                                : VE_DECODED_INVALID;
        }
        data += used;
        length -= (size_t)used;
        if (flags & NGHTTP3_QPACK_DECODE_FLAG_EMIT) {
            if (!reserve(sections)) {
                nghttp3_rcbuf_decref(field.name);
                nghttp3_rcbuf_decref(field.value);
                return VE_DECODED_NO_MEMORY;
            }
            sections->fields[sections->count++] = field;
            sections->bytes +=
                nghttp3_rcbuf_get_buf(field.name).len + nghttp3_rcbuf_get_buf(field.value).len + FIELD_OVERHEAD;
            if (sections->bytes > most) {
                return VE_DECODED_TOO_LARGE;
            }
        } else if (!(flags & NGHTTP3_QPACK_DECODE_FLAG_FINAL)) {
            return VE_DECODED_INVALID; /* it refers to a dynamic table, which no peer has */
        }
    } while (!(flags & NGHTTP3_QPACK_DECODE_FLAG_FINAL));
    return VE_DECODED;
}

ve_decoded ve_sections_decode(ve_sections *sections, const uint8_t *data, size_t length, size_t most) {
    ve_sections_clear(sections);
    ve_decoded result = decode(sections, data, length, most);
    if (result != VE_DECODED) {
        renew(sections); /* it may be in the middle of a field */
    }
    return result;
}
