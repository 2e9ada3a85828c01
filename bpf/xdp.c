/* The shield: malformed packets, deny lists and floods end here, before the kernel allocates memory for them.
 *
 * `judge` decides, and marks packets that need a Retry; `shield` counts and acts. frame.h finds the UDP header,
 * listeners.h compares addresses and ports, limits.h has the rates. Nothing that socket selection (reuseport.c) could
 * deliver is dropped, except by a limit, the deny list, the list of source ports, attack mode, or because it is a
 * fragment or has more headers than any client sends. What cannot become a datagram for a listener is passed to the
 * stack.
 */
#include "limits.h"
#include "listeners.h"

enum action { XDP_DROP_ = 1, XDP_PASS_ = 2 };

#define MUST_RETRY_TOS (0x2f << 2) /* velocity_edge.quic.datagrams.MUST_RETRY_DSCP */

/* struct xdp_md, as far as it is used. */
struct shield_context {
    unsigned int data, data_end;
};

/* The receiver of a packet, as far as `judge` found it. */
struct found {
    struct worker *worker; /* NULL: a new connection with this `dcid` */
    unsigned long long dcid;
};

/* Set the DSCP that requests a Retry from the worker; ECN is unchanged. */
QUIC_INLINE void mark_must_retry(const struct frame *frame) {
    struct ipv4 *ipv4 = (void *)frame->ip;
    struct ipv6 *ipv6 = (void *)frame->ip;
    unsigned char tos;
    unsigned int sum;

    if (frame->is_ipv6) {
        ipv6->version_class = 0x60 | MUST_RETRY_TOS >> 4;
        ipv6->class_label = (ipv6->class_label & 0x3f) | (MUST_RETRY_TOS & 0x0c) << 4;
        return;
    }
    tos = MUST_RETRY_TOS | (ipv4->tos & 3);
    /* RFC 1624: new checksum = ~(~old + ~before + after). TOS is the second byte of its word: the high one on this
       machine. */
    sum = (unsigned short)~ipv4->checksum + (unsigned short)~(ipv4->tos << 8) + (tos << 8);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ipv4->checksum = ~sum;
    ipv4->tos = tos;
}

/* Judge a datagram for one of our listeners, from its first byte. */
QUIC_INLINE int judge_quic(struct shield_context *ctx, const struct settings *settings, const struct frame *frame,
                           struct found *found, const unsigned char *p, const unsigned char *end, unsigned int length) {
    struct quic_packet packet;
    enum limit limit = LIMITS;
    unsigned long long digest = 0;
    int decodes = 0;

    switch (quic_parse(p, end, length, &packet)) {
    case QUIC_MALFORMED:
        return XDP_dropped_malformed;
    case QUIC_UNREADABLE:
        /* The frame ends too early, or the rest is beyond its linear part. */
        if (xdp_buffer_length(ctx) < (unsigned long)(p - (unsigned char *)(long)ctx->data) + length) {
            return XDP_dropped_malformed;
        }
        return XDP_passed_not_linear;
    case QUIC_RETRY:
    case QUIC_NEGOTIATION:
        return XDP_dropped_impossible_type;
    case QUIC_SHORT:
    case QUIC_HANDSHAKE:
        break;
    case QUIC_INITIAL:
        if (length < QUIC_MIN_INITIAL_DATAGRAM) {
            return XDP_dropped_small_initial;
        }
        limit = packet.has_token ? LIMIT_TOKEN : LIMIT_INITIAL;
        break;
    case QUIC_ZERO_RTT:
        limit = LIMIT_ZERO_RTT;
        break;
    default:
        if (length < QUIC_MIN_INITIAL_DATAGRAM) {
            return XDP_dropped_small_version;
        }
        limit = LIMIT_VERSION;
    }
    if (limit < LIMIT_VERSION && packet.dcid_length < QUIC_MIN_INITIAL_DCID) {
        return XDP_dropped_short_dcid;
    }
    if (limit != LIMIT_VERSION) {
        found->worker = known_worker(settings, &packet, &decodes, &digest);
    }
    if (found->worker && limit != LIMITS && !is_known_within(settings, frame, digest)) {
        return XDP_dropped_known_limit;
    }
    if (found->worker) {
        return XDP_passed_known_worker;
    }
    if (limit == LIMITS) {
        return decodes ? XDP_dropped_unknown_worker : XDP_dropped_undecodable;
    }
    if (settings->attack && limit >= LIMIT_ZERO_RTT) {
        return XDP_dropped_attack;
    }
    if (packet.dcid + 8 <= end) {
        found->dcid = quic_load64(packet.dcid);
    }
    if (is_within(settings, frame, limit)) {
        return XDP_passed_initial + limit;
    }
    if (limit == LIMIT_INITIAL && settings->slip && random_u32() % settings->slip == 0) {
        mark_must_retry(frame);
        return XDP_passed_must_retry;
    }
    return XDP_dropped_initial_limit + limit;
}

/* Judge a packet whose port is unknown. */
QUIC_INLINE int judge_portless(const struct settings *settings, const struct frame *frame, enum reach reach) {
    if (reach == FRAME_OTHER) {
        return XDP_passed_not_ours;
    }
    if (reach == FRAME_TAGS) {
        return XDP_dropped_header_chain;
    }
    if (!is_ours(settings, frame, ANY_PORT)) {
        return XDP_passed_not_ours;
    }
    if (settings->deny && is_denied(frame)) {
        return XDP_dropped_denied;
    }
    /* A later fragment may belong to another service. If it is for us, its first fragment was dropped. */
    return reach == FRAME_CHAIN ? XDP_dropped_header_chain : XDP_passed_fragment;
}

QUIC_INLINE int judge(struct shield_context *ctx, const struct settings *settings, struct found *found) {
    unsigned char *data = (unsigned char *)(long)ctx->data, *end = (unsigned char *)(long)ctx->data_end;
    struct frame position = {}, *frame = &position;
    enum reach reach = follow(data, end, frame);
    unsigned int length;
    struct udp *udp;

    if (reach > FRAME_FIRST) {
        return judge_portless(settings, frame, reach);
    }
    udp = (void *)(data + forget(data, frame->udp, MAX_OFFSET));
    if ((unsigned char *)(udp + 1) > end || !is_ours(settings, frame, udp->destination)) {
        return XDP_passed_not_ours;
    }
    if (settings->deny && is_denied(frame)) {
        return XDP_dropped_denied;
    }
    if (reach == FRAME_FIRST) {
        return XDP_dropped_fragment;
    }
    length = __builtin_bswap16(udp->length);
    if (length < UDP_LENGTH || length > frame->left) {
        return XDP_dropped_malformed;
    }
    if (is_reflector(__builtin_bswap16(udp->source))) {
        return XDP_dropped_source_port;
    }
    return judge_quic(ctx, settings, frame, found, (unsigned char *)(udp + 1), end, length - UDP_LENGTH);
}

/* Tier D: redirect to the CPU of the worker. Without an entry in the map the packet stays on this CPU. */
QUIC_INLINE int move(const struct settings *settings, const struct found *found) {
    struct worker *worker = found->worker;
    unsigned int id;
    int worker_id, action = XDP_PASS_;

    if (!worker) {
        worker_id = accepting_worker(settings, found->dcid);
        if (worker_id >= 0) {
            id = worker_id;
            worker = map_lookup(MAP(workers), &id);
        }
    }
    if (worker && worker->slot_plus_1) {
        action = redirect_map(MAP(cpus), worker->cpu, XDP_PASS_);
    }
    count(STAGE_CPUMAP, action == XDP_PASS_ ? CPUMAP_stayed : CPUMAP_moved);
    return action;
}

PROGRAM(shield)(struct shield_context *ctx) {
    unsigned int zero = 0;
    struct settings *settings = map_lookup(MAP(settings), &zero);
    struct found found = {};
    int verdict;

    if (!settings) {
        return XDP_PASS_;
    }
    verdict = judge(ctx, settings, &found);
    count(STAGE_XDP, verdict);
    if (verdict >= XDP_DROPPED) {
        return XDP_DROP_;
    }
    if (settings->move && verdict >= XDP_passed_known_worker) {
        return move(settings, &found);
    }
    return XDP_PASS_;
}

/* Runs on the CPU that a packet was moved to, and counts it. */
PROGRAM(arrived)(struct shield_context *ctx) {
    count(STAGE_CPUMAP, CPUMAP_arrived);
    return XDP_PASS_;
}
