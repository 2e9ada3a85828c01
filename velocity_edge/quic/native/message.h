/* What a well-formed request is: velocity_edge/http/message.py in C, rule for rule (RFC 9114 sections 4.1.2,
 * 4.2, 4.3 and 10.3; RFC 9110 sections 5 and 6.5). Pure. nghttp3 1.8 takes fields that are none out and lets the rest
 * pass; that is how requests are smuggled, so fields are judged here, before anything of them is a Python object.
 */
#ifndef VE_MESSAGE_H
#define VE_MESSAGE_H

#include "base.h"

/* Where a well-formed request has what; NULL where it has none. They point into the fields. */
typedef struct ve_head {
    const nghttp3_qpack_nv *method;
    const nghttp3_qpack_nv *scheme;
    const nghttp3_qpack_nv *authority;
    const nghttp3_qpack_nv *path;
    const nghttp3_qpack_nv *host;
    int64_t content_length; /* -1: not said */
    size_t pseudo;          /* this many fields, the first ones, are pseudo-headers */
} ve_head;

/* Whether the fields are a well-formed request; fills `head`. */
bool ve_message_request(const nghttp3_qpack_nv *fields, size_t count, ve_head *head);

/* Whether they may follow a body. */
bool ve_message_trailers(const nghttp3_qpack_nv *fields, size_t count);

#endif
