/* Finds the UDP header of a frame: after VLAN tags, IPv4 options and IPv6 extension headers.
 *
 * Decides how far a packet can be parsed without the network stack. What becomes of it is decided in xdp.c.
 *
 * The rule: what the stack would deliver to a socket is parsed up to its port. AH, ESP and tunnels are not, because
 * they need a security association or a tunnel that an administrator configured. The first IPv4 fragment has the whole
 * UDP header, because fragments come in units of 8 bytes and the stack drops overlapping ones; the first IPv6 fragment
 * has it too, or is CHAIN (RFC 7112).
 *
 * Note: VLAN 0 is a priority tag, not a VLAN, and the stack removes any number of such tags. An IPv6 payload length of
 * 0 before a hop-by-hop header means "as long as the frame", with or without a jumbo option.
 */
#ifndef VELOCITY_FRAME_H
#define VELOCITY_FRAME_H

#include "maps.h"

#define MAX_TAGS 8
#define MAX_VLANS 2       /* among the tags; a third one needs a third VLAN device */
#define MAX_EXTENSIONS 3  /* each that the stack would walk, once; RFC 8504 section 5.3 allows a host to set a limit */
#define MAX_OFFSET 0x1fff /* more than 14 + MAX_TAGS * 4 + 40 + MAX_EXTENSIONS * 2048 */

#define HOP_BY_HOP 0
#define UDP 17
#define ROUTING 43
#define FRAGMENT 44
#define DESTINATION_OPTIONS 60
#define UDP_LENGTH 8

enum reach {
    FRAME_WHOLE, /* a datagram: `udp` and `left` are known */
    FRAME_FIRST, /* the fragment with the UDP header; `udp` and `left` are known */
    FRAME_OTHER, /* not UDP, or nothing that the stack would deliver */
    FRAME_REST,  /* a later fragment */
    FRAME_CHAIN, /* more extension headers than any client sends, or headers that end outside this packet */
    FRAME_TAGS,  /* more tags than any client sends: even the addresses are unknown */
};

struct vlan {
    unsigned short tag, protocol;
};

struct ethernet {
    unsigned char to[6], from[6];
    unsigned short protocol;
};

struct ipv4 {
    unsigned char version_words, tos;
    unsigned short length, id, fragment;
    unsigned char ttl, protocol;
    unsigned short checksum;
    unsigned int source, destination;
};

struct ipv6 {
    unsigned char version_class, class_label, label[2];
    unsigned short length;
    unsigned char next, hops;
    unsigned char source[16], destination[16];
};

struct extension {
    unsigned char next, words;  /* length in units of 8 bytes, not counting the first 8 */
    unsigned short offset_more; /* of a fragment header: its offset in bytes, and 1 when more follow */
    unsigned char unused[4];
};

struct udp {
    unsigned short source, destination, length, checksum;
};

struct frame {
    unsigned char *ip;
    unsigned int is_ipv6;
    unsigned int left; /* bytes from the UDP header to the end of the IP payload */
    unsigned long udp; /* offset of the UDP header from the start of the frame */
};

QUIC_INLINE int is_tag(unsigned short protocol) {
    return protocol == htons_constant(0x8100) || protocol == htons_constant(0x88a8);
}

/* Return the offset unchanged, but known to the verifier only as a value within `mask`. Otherwise the verifier walks
 * the rest of the program once for each value. */
QUIC_INLINE unsigned long forget(const unsigned char *data, unsigned long offset, unsigned long mask) {
    unsigned long any = data[0], same = any;

    QUIC_OPAQUE(same);
    return (offset + any - same) & mask;
}

/* Skip the tags at `offset`. */
QUIC_INLINE enum reach skip_tags(const unsigned char *data, const unsigned char *end, unsigned long *offset,
                                 unsigned short *protocol) {
    unsigned int vlans = 0;
    const struct vlan *vlan;

#pragma unroll
    for (int i = 0; i < MAX_TAGS && is_tag(*protocol); i++) {
        vlan = (const void *)(data + *offset);
        if ((const unsigned char *)(vlan + 1) > end) {
            return FRAME_OTHER;
        }
        vlans += ((__builtin_bswap16(vlan->tag) & 0xfffu) + 0xfff) >> 12;
        *protocol = vlan->protocol;
        *offset += sizeof(*vlan);
    }
    if (vlans > MAX_VLANS) {
        return FRAME_OTHER;
    }
    if (is_tag(*protocol)) {
        return FRAME_TAGS;
    }
    *offset = forget(data, *offset, 63);
    return FRAME_WHOLE;
}

/* Walk from the extension header at frame->udp to the UDP header. */
QUIC_INLINE enum reach walk(const unsigned char *data, const unsigned char *end, unsigned int next,
                            struct frame *frame) {
    const struct extension *extension;
    enum reach reach = FRAME_WHOLE;
    unsigned int length;

#pragma unroll
    for (int i = 0; i <= MAX_EXTENSIONS && next != UDP; i++) {
        if (next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != DESTINATION_OPTIONS) {
            return FRAME_OTHER;
        }
        extension = (const void *)(data + (frame->udp & MAX_OFFSET));
        if (i == MAX_EXTENSIONS || (const unsigned char *)(extension + 1) > end) {
            return FRAME_CHAIN;
        }
        length = sizeof(*extension);
        if (next != FRAGMENT) {
            length += extension->words * sizeof(*extension);
        } else if (extension->offset_more & htons_constant(0xfff8)) {
            return FRAME_REST;
        } else if (extension->offset_more & htons_constant(1)) {
            reach = FRAME_FIRST;
        }
        if (frame->left < length) {
            return FRAME_CHAIN;
        }
        next = extension->next;
        frame->udp += length;
        frame->left -= length;
    }
    frame->udp &= MAX_OFFSET;
    return frame->left < UDP_LENGTH || data + frame->udp + UDP_LENGTH > end ? FRAME_CHAIN : reach;
}

QUIC_INLINE enum reach follow_ipv6(unsigned char *data, const unsigned char *end, unsigned long offset,
                                   struct frame *frame) {
    struct ipv6 *ipv6 = (void *)(data + offset);

    QUIC_OPAQUE(ipv6);
    if ((unsigned char *)(ipv6 + 1) > end) {
        return FRAME_OTHER;
    }
    frame->ip = (unsigned char *)ipv6;
    frame->is_ipv6 = 1;
    frame->left = __builtin_bswap16(ipv6->length);
    frame->udp = offset + sizeof(*ipv6);
    if (__builtin_expect(ipv6->next == UDP, 1)) {
        return FRAME_WHOLE;
    }
    if (!frame->left && ipv6->next == HOP_BY_HOP) {
        frame->left = ~0u;
    }
    return walk(data, end, ipv6->next, frame);
}

QUIC_INLINE enum reach follow_ipv4(unsigned char *data, const unsigned char *end, unsigned long offset,
                                   struct frame *frame) {
    struct ipv4 *ipv4 = (void *)(data + offset);
    unsigned int header, length;

    QUIC_OPAQUE(ipv4);
    if ((unsigned char *)(ipv4 + 1) > end || ipv4->protocol != UDP) {
        return FRAME_OTHER;
    }
    header = (ipv4->version_words & 15) * 4;
    length = __builtin_bswap16(ipv4->length);
    if (header < sizeof(*ipv4) || length < header) {
        return FRAME_OTHER;
    }
    frame->ip = (unsigned char *)ipv4;
    frame->is_ipv6 = 0;
    frame->left = length - header;
    frame->udp = offset + header;
    if (ipv4->fragment & htons_constant(0x1fff)) {
        return FRAME_REST;
    }
    return ipv4->fragment & htons_constant(0x2000) ? FRAME_FIRST : FRAME_WHOLE;
}

QUIC_INLINE enum reach follow(unsigned char *data, const unsigned char *end, struct frame *frame) {
    struct ethernet *ethernet = (void *)data;
    unsigned long offset = sizeof(*ethernet);
    unsigned short protocol;
    enum reach reach;

    if (data + offset > end) {
        return FRAME_OTHER;
    }
    protocol = ethernet->protocol;
    if (__builtin_expect(is_tag(protocol), 0)) {
        reach = skip_tags(data, end, &offset, &protocol);
        if (reach != FRAME_WHOLE) {
            return reach;
        }
    }
    if (protocol == htons_constant(0x0800)) {
        return follow_ipv4(data, end, offset, frame);
    }
    if (protocol == htons_constant(0x86dd)) {
        return follow_ipv6(data, end, offset, frame);
    }
    return FRAME_OTHER;
}
#endif
