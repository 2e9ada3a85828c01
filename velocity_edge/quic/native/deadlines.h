/* Deadlines of a connection beside the timers of ngtcp2.
 *
 * Request timeout: a request must have a complete header section within `request_timeout_ns`. When the whole response
 * is acknowledged before the request ends, the rest of the request gets the same time again.
 *
 * Stall timeout: a client may stop reading responses, without flow-control credit (RFC 9000 section 4.1) or
 * acknowledgements. While a response waits for the client, PING frames keep the connection from the idle timeout of
 * either side: ngtcp2 sends STREAM_DATA_BLOCKED once, and after that nothing is in flight that the client would
 * acknowledge. When no byte of a response is acknowledged for `stall_timeout_ns` the connection is closed, even if the
 * client sends PINGs itself, because responses hold memory and descriptors.
 */
#ifndef VE_DEADLINES_H
#define VE_DEADLINES_H

#include "base.h"

typedef struct ve_stall {
    bool waiting;         /* bytes of a response are unsent for lack of credit, or not acknowledged */
    uint64_t progress_ns; /* when that began, or when bytes were acknowledged last */
} ve_stall;

/* After each write: check whether a response waits for the client. */
void ve_deadlines_update(ve_connection *connection);
/* Bytes of a response were acknowledged. */
void ve_deadlines_progress(ve_connection *connection);
/* Set the timer of the connection to the earliest deadline. */
void ve_deadlines_set_timer(ve_connection *connection);
/* The timer expired: reset requests that are late, close a stalled connection. */
void ve_deadlines_expire(ve_connection *connection);

#endif
