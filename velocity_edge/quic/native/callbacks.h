/* The callbacks of ngtcp2.
 *
 * They run inside ngtcp2_conn_read_pkt, _writev_stream and _handle_expiry. None of them frees a connection or an
 * ngtcp2_conn: a callback notes an error (ve_connection_fail) and returns it, and the function that called ngtcp2
 * closes the connection (closing.c).
 */
#ifndef VE_CALLBACKS_H
#define VE_CALLBACKS_H

#include "base.h"

extern const ngtcp2_callbacks ve_callbacks;

#endif
