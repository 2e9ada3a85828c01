/* Names and values of fields, as bytes that somebody else owns. Pure, but for the two that read Python's objects. */
#ifndef VE_UPSTREAM_FIELDS_H
#define VE_UPSTREAM_FIELDS_H

#include "base.h"

typedef struct ve_text {
    const char *at;
    size_t length;
} ve_text;

typedef struct ve_field {
    ve_text name;
    ve_text value;
} ve_field;

bool ve_text_is(ve_text text, const char *word);
/* The same in any case. */
bool ve_text_equals(ve_text text, const char *word);
/* RFC 9110 section 5.6.2; `lower`: without upper case. */
bool ve_text_is_token(ve_text text, bool lower);
/* RFC 9110 section 5.5: no control character but HTAB. */
bool ve_text_is_value(ve_text text);
/* A field that belongs to one connection and is not passed on (RFC 9110 section 7.6.1). */
bool ve_text_is_hop_by_hop(ve_text name);
bool ve_text_read_length(ve_text value, int64_t *out);

/* Borrowed from bytes, and from a pair of bytes; false: it is something else. */
bool ve_text_of(PyObject *bytes, ve_text *out);
bool ve_field_of(PyObject *pair, ve_field *out);

#endif
