/* The datagram size of a connection when ngtcp2's path MTU is too large (RFC 8899 section 4.3, RFC 9000 section 14.3).
 *
 * ngtcp2 probes for a larger size and keeps what it found. When the path becomes narrower, small packets arrive and
 * large ones do not, and the transfer makes no progress until the connection idles out. Here the connection falls back
 * to 1200 bytes, which every QUIC path carries, when
 *   - at least four large packets were sent and nothing of that size was acknowledged for five PTO, or
 *   - some were acknowledged or declared lost by ngtcp2, but no stream made progress for twelve PTO, or
 *   - a local interface refused such a packet.
 * It stays there until the path changes: a wrong guess costs a few per cent of throughput, another attempt would cost
 * a stall.
 */
#ifndef VE_MTU_H
#define VE_MTU_H

#include "base.h"

enum {
    VE_LEAST_DATAGRAM = 1200, /* RFC 9000 section 14.1 */
    VE_LARGE = 1100,          /* stream bytes acknowledged at once that only a large packet can carry */
};

/* Large packets sent since something was acknowledged, and when the first of them was sent. */
typedef struct ve_doubt {
    unsigned packets;
    uint64_t since_ns;
} ve_doubt;

typedef struct ve_mtu {
    bool lowered;
    ve_doubt silence; /* bytes in flight did not decrease by a large packet */
    ve_doubt stall;   /* no stream advanced by a large packet */
    uint64_t in_flight;
    uint64_t acked; /* stream bytes acknowledged, in order, by the packet that is being read */
} ve_mtu;

/* The size that the next packet may have. */
size_t ve_mtu_size(ve_connection *connection);
void ve_mtu_sent(ve_connection *connection, size_t length);
/* Before and after a packet is read. */
void ve_mtu_reading(ve_connection *connection);
void ve_mtu_read(ve_connection *connection);
void ve_mtu_moved(ve_connection *connection);
/* The timer expired: check whether large packets are lost. */
void ve_mtu_expire(ve_connection *connection);
/* A local interface refused a datagram of this size. */
void ve_mtu_refused(ve_connection *connection, size_t length);

#endif
