/* Variable-length integers (RFC 9000 section 16). Pure functions. */
#ifndef VE_VARINT_H
#define VE_VARINT_H

#include "base.h"

typedef struct ve_varint {
    uint64_t value;
    uint8_t left; /* missing bytes */
} ve_varint;

/* Read from `*at`, byte by byte as data arrives. True: the integer is complete, and the next call begins a new one. */
static inline bool ve_varint_read(ve_varint *v, const uint8_t **at, const uint8_t *end) {
    while (*at < end) {
        uint8_t byte = *(*at)++;
        if (v->left == 0) {
            v->left = (uint8_t)(1u << (byte >> 6));
            v->value = byte & 0x3f;
        } else {
            v->value = v->value << 8 | byte;
        }
        if (--v->left == 0) {
            return true;
        }
    }
    return false;
}

/* Read the integer at `*offset`. False: it is longer than the data. */
static inline bool ve_varint_at(const uint8_t *data, size_t length, size_t *offset, uint64_t *value) {
    if (*offset >= length) {
        return false;
    }
    size_t size = (size_t)1 << (data[*offset] >> 6);
    if (size > length - *offset) {
        return false;
    }
    *value = data[*offset] & 0x3f;
    for (size_t i = 1; i < size; i++) {
        *value = *value << 8 | data[*offset + i];
    }
    *offset += size;
    return true;
}

#endif
