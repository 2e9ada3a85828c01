/* When a connection must be looked at, beside ngtcp2's own timers.
 *
 * A request has `request_timeout_ns` until its header section is complete; and, when the whole response was acknowledged
 * first, the same time again until the request ends.
 *
 * A client that takes nothing of its responses (RFC 9000 section 4.1) has given no credit, or has paused. While a response
 * waits for it the connection is kept alive with PINGs, so that neither side times out as idle: ngtcp2 sends
 * STREAM_DATA_BLOCKED once, and then nothing is in flight that would be acknowledged. When nothing was acknowledged for
 * `stall_timeout_ns`, also by a client that keeps the connection alive itself, the connection is closed: responses hold
 * memory and descriptors.
 */
#ifndef VE_DEADLINES_H
#define VE_DEADLINES_H

#include "base.h"

typedef struct ve_stall {
    bool waiting;         /* part of a response could not be sent, or is not acknowledged */
    uint64_t progress_ns; /* when that began, or when part of it was acknowledged last */
} ve_stall;

/* After each write: whether a response waits for the client. */
void ve_deadlines_update(ve_connection *connection);
/* Bytes of a response were acknowledged. */
void ve_deadlines_progress(ve_connection *connection);
/* Set the connection's timer to whatever is due first. */
void ve_deadlines_set_timer(ve_connection *connection);
/* The timer is due: reset or fail what is too late. */
void ve_deadlines_expire(ve_connection *connection);

#endif
