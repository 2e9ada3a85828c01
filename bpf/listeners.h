/* Whether a frame is addressed to a listener, and whether its source is denied or a reflector.
 *
 * Decides by addresses and ports alone. What becomes of the packet is decided in xdp.c.
 */
#ifndef VELOCITY_LISTENERS_H
#define VELOCITY_LISTENERS_H

#include "frame.h"

#define ANY_PORT 0x10000

QUIC_INLINE int has_listener(const struct settings *settings, unsigned int port, const unsigned char *address,
                             int family) {
    const struct listener *listener;

#pragma unroll
    for (int i = 0; i < MAX_LISTENERS; i++) {
        listener = &settings->listener[i];
        if (!listener->port) {
            return 0;
        }
        if ((listener->port != port && port != ANY_PORT) || !(listener->families & family)) {
            continue;
        }
        if (listener->wildcard) {
            return 1;
        }
        if (quic_load32(address) != listener->address[0]) {
            continue;
        }
        if (family == FAMILY_IPV4 ||
            (quic_load32(address + 4) == listener->address[1] && quic_load32(address + 8) == listener->address[2] &&
             quic_load32(address + 12) == listener->address[3])) {
            return 1;
        }
    }
    return 0;
}

/* Whether there is a listener with this destination address and port. */
QUIC_INLINE int is_ours(const struct settings *settings, const struct frame *frame, unsigned int port) {
    if (frame->is_ipv6) {
        return has_listener(settings, port, ((struct ipv6 *)frame->ip)->destination, FAMILY_IPV6);
    }
    return has_listener(settings, port, (unsigned char *)&((struct ipv4 *)frame->ip)->destination, FAMILY_IPV4);
}

QUIC_INLINE int is_denied(const struct frame *frame) {
    struct deny4_key key4 = {.bits = 32};
    struct deny6_key key6 = {.bits = 128};

    if (frame->is_ipv6) {
        __builtin_memcpy(key6.address, ((struct ipv6 *)frame->ip)->source, 16);
        return map_lookup(MAP(deny6), &key6) != 0;
    }
    *(unsigned int *)key4.address = ((struct ipv4 *)frame->ip)->source;
    return map_lookup(MAP(deny4), &key4) != 0;
}

/* Source ports that no client uses: chargen, qotd, DNS, NTP, NetBIOS, SNMP ... (the list of s2n-quic). */
QUIC_INLINE int is_reflector(unsigned int port) {
    switch (port) {
    case 0:
    case 17:
    case 19:
    case 53:
    case 111:
    case 123:
    case 137:
    case 138:
    case 161:
    case 389:
    case 500:
        return 1;
    }
    return 0;
}
#endif
