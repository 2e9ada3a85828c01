/* Which requests are well-formed: the rules of velocity_edge/http/message.py, one by one (RFC 9114 sections 4.1.2,
 * 4.2, 4.3 and 10.3; RFC 9110 sections 5 and 6.5). Pure functions. nghttp3 1.8 removes invalid fields and accepts the
 * rest, which allows request smuggling; so the fields are checked here, before Python objects are made of them.
 */
#ifndef VE_MESSAGE_H
#define VE_MESSAGE_H

#include "base.h"

/* Fields of a well-formed request by name; NULL: absent. They point into the field section. */
typedef struct ve_head {
    const nghttp3_qpack_nv *method;
    const nghttp3_qpack_nv *scheme;
    const nghttp3_qpack_nv *authority;
    const nghttp3_qpack_nv *path;
    const nghttp3_qpack_nv *protocol; /* extended CONNECT (RFC 9220) */
    const nghttp3_qpack_nv *host;
    int64_t content_length; /* -1: absent */
    size_t pseudo;          /* number of pseudo-header fields, which come first */
} ve_head;

/* Whether the fields are a well-formed request; fills `head`. */
bool ve_message_request(const nghttp3_qpack_nv *fields, size_t count, ve_head *head);

/* Whether the fields are allowed as trailers. */
bool ve_message_trailers(const nghttp3_qpack_nv *fields, size_t count);

/* Whether a value may be received or sent (RFC 9110 section 5.5). */
bool ve_message_is_value(const uint8_t *value, size_t length);

/* Whether a field of this name may come after the content (RFC 9110 section 6.5.1); the name is a valid one. */
bool ve_message_may_trail(const uint8_t *name, size_t length);

#endif
