/* A client that takes nothing of its answers (RFC 9000 section 4.1): it has given no credit, or has paused.
 *
 * While an answer waits for him the connection is kept alive with PINGs, so that neither side takes a pause for an end:
 * ngtcp2 says STREAM_DATA_BLOCKED once, and then nothing is in flight that would be acknowledged. When nothing was taken
 * for `stall_timeout`, also by a client that keeps the connection alive himself, it is closed: answers hold memory and
 * descriptors.
 */
#ifndef VE_STALL_H
#define VE_STALL_H

#include "base.h"

typedef struct ve_stall {
    bool waiting;         /* something of an answer could not be sent, or is not acknowledged */
    uint64_t progress_ns; /* when that began, or was acknowledged in part */
} ve_stall;

/* After each write. */
void ve_stall_update(ve_connection *connection);
void ve_stall_progress(ve_connection *connection);
/* When it must be closed; VE_NEVER: nothing waits. */
uint64_t ve_stall_deadline(const ve_connection *connection);
void ve_stall_expire(ve_connection *connection);

#endif
