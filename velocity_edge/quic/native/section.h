/* Field sections (RFC 9204 section 4.5), decoded as a whole with nghttp3's QPACK decoder.
 *
 * No peer has a dynamic table, so a section depends on nothing else: one decoder serves all connections of an engine.
 * After a section that fails the decoder is made anew.
 */
#ifndef VE_SECTION_H
#define VE_SECTION_H

#include "base.h"

/* The decoder, and the fields of the last section. */
typedef struct ve_sections {
    nghttp3_qpack_decoder *decoder;
    nghttp3_qpack_stream_context *context;
    nghttp3_qpack_nv *fields;
    size_t count;
    size_t capacity;
    size_t bytes; /* as RFC 9114 section 4.2.2 counts them */
} ve_sections;

typedef enum ve_decoded {
    VE_DECODED,
    VE_DECODED_TOO_LARGE, /* more than `most` bytes, or a string longer than nghttp3 accepts */
    VE_DECODED_INVALID,   /* QPACK_DECOMPRESSION_FAILED */
    VE_DECODED_NO_MEMORY,
} ve_decoded;

/* Decode a whole section. The fields are valid until ve_sections_clear(), whatever the result. */
ve_decoded ve_sections_decode(ve_sections *sections, const uint8_t *data, size_t length, size_t most);
void ve_sections_clear(ve_sections *sections);
void ve_sections_free(ve_sections *sections);

#endif
