/* What ngtcp2 tells a connection, and what it asks: the callbacks.
 *
 * They run inside ngtcp2_conn_read_pkt, _writev_stream and _handle_expiry. None of them frees a connection or an
 * ngtcp2_conn: an error is noted (ve_connection_fail) and returned, and whoever called the library ends the connection
 * (closing.c).
 */
#ifndef VE_CALLBACKS_H
#define VE_CALLBACKS_H

#include "base.h"

extern const ngtcp2_callbacks ve_callbacks;

#endif
