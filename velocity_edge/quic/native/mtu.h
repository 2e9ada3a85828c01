/* How large a datagram of a connection may be, when ngtcp2 believes too much (RFC 8899 section 4.3, RFC 9000 14.3).
 *
 * ngtcp2 probes for a larger size and never doubts what it found. A path can become narrower: then small packets arrive,
 * large ones do not, and the transfer stands until the connection idles out. Here the connection goes on with 1200 bytes,
 * which every path of QUIC carries, when
 *   - four large packets or more left and nothing that large was acknowledged for five PTO, or
 *   - something was, or got lost by what ngtcp2 knows, but no stream got further for twelve PTO, or
 *   - an interface of this machine refused such a packet.
 * It stays there until its path changes: a wrong guess costs a few per cent, trying again would cost a stall.
 */
#ifndef VE_MTU_H
#define VE_MTU_H

#include "base.h"

enum {
    VE_LEAST_DATAGRAM = 1200, /* RFC 9000 section 14.1 */
    VE_LARGE = 1100,          /* bytes of streams that came in no smaller packet */
};

/* Large packets that left since something was acknowledged, and when the first of them did. */
typedef struct ve_doubt {
    unsigned packets;
    uint64_t since_ns;
} ve_doubt;

typedef struct ve_mtu {
    bool lowered;
    ve_doubt silence; /* nothing left the flight that could be a large packet */
    ve_doubt stall;   /* no stream got on by the size of a large packet */
    uint64_t in_flight;
    uint64_t acked; /* bytes of streams, in order, since the packet that is read now came */
} ve_mtu;

/* Bytes that the next packet may have. */
size_t ve_mtu_size(ve_connection *connection);
void ve_mtu_sent(ve_connection *connection, size_t length);
/* Around a packet that is read. */
void ve_mtu_reading(ve_connection *connection);
void ve_mtu_read(ve_connection *connection);
void ve_mtu_moved(ve_connection *connection);
/* A timer is due: perhaps nothing large arrives. */
void ve_mtu_expire(ve_connection *connection);
/* An interface of ours cannot carry a datagram of this size. */
void ve_mtu_refused(ve_connection *connection, size_t length);

#endif
