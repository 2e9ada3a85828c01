/* The shield: junk, deny lists and floods end here, before the kernel allocates anything for them.
 *
 * `judge` decides, and marks what needs a Retry; `shield` counts and acts; frame.h finds the UDP header. Nothing that
 * socket selection (reuseport.c) could deliver is dropped, except by a limit, the deny list, the list of source ports,
 * attack mode, or because it is in pieces or behind more headers than anybody sends. What cannot become a datagram for
 * a listener goes to the stack.
 *
 * What surprises: the limiter's buckets are an array indexed by a keyed hash of the prefix, not a hash table: the cost
 * does not grow with the number of sources, and a stranger can neither fill it nor aim at somebody else's bucket. The
 * price is that two prefixes may share a bucket. Buckets are updated without a lock: CPUs that race may admit a few more.
 */
#include "frame.h"

enum action { XDP_DROP_ = 1, XDP_PASS_ = 2 };
#define MUST_RETRY_TOS (0x2f << 2) /* velocity_edge.quic.datagrams.MUST_RETRY_DSCP */
/* Initials and 0-RTT with an id of ours: so many times the rate of Initials for a prefix, and for one id, whoever sends
 * it, so many at once and in a second. A handshake has 3 or 4, one that was lost in parts or has 0-RTT up to 40. */
#define KNOWN_SHARE 4
#define KNOWN_PER_ID 64
#define SECOND_NS 1000000000ULL

/* struct xdp_md, as far as it is used. */
struct shield_context {
    unsigned int data, data_end;
};

/* Who should get the packet: what `judge` finds on its way. */
struct found {
    struct worker *worker; /* NULL: a new connection with this `dcid` */
    unsigned long long dcid;
};

/* Ports that no client sends from: chargen, qotd, DNS, NTP, NetBIOS, SNMP ... (the list of s2n-quic). */
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

/* Whether a listener has this destination. */
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

/* The /24 or /56 that it comes from. Bytes in network order: the low ones are the first ones. */
QUIC_INLINE unsigned long long prefix_of(const struct frame *frame) {
    if (frame->is_ipv6) {
        return quic_load64(((struct ipv6 *)frame->ip)->source) & 0x00ffffffffffffffULL;
    }
    return ((struct ipv4 *)frame->ip)->source & 0x00ffffffU;
}

/* The bucket that something falls into, by a hash of it. */
QUIC_INLINE struct buckets *buckets_of(unsigned long long hash) {
    unsigned int index = hash & (LIMIT_ENTRIES - 1);

    return map_lookup(MAP(limits), &index);
}

/* GCRA: when the next one may come after one at `now`; 0 when this one comes too early. */
QUIC_INLINE unsigned long long next_arrival(unsigned long long tat, unsigned long long now,
                                            unsigned long long interval_ns, unsigned long long window_ns) {
    if (tat < now) {
        tat = now;
    }
    tat += interval_ns;
    return tat - now > window_ns ? 0 : tat;
}

/* Whether what opens a connection is within the rate of its prefix. */
QUIC_INLINE int is_within(const struct settings *settings, const struct frame *frame, enum limit limit) {
    const struct rate *rate = &settings->rate[limit];
    struct buckets *buckets;
    unsigned long long tat;

    if (!rate->interval_ns) {
        return !settings->attack;
    }
    buckets = buckets_of(quic_siphash13(&settings->secret, prefix_of(frame), 1 + frame->is_ipv6));
    if (!buckets) {
        return 0;
    }
    tat = next_arrival(buckets->tat[limit], ktime_ns(), rate->interval_ns, rate->window_ns);
    if (tat) {
        buckets->tat[limit] = tat;
    }
    return tat != 0;
}

/* Whether an Initial or 0-RTT with an id of ours is within the rates of its prefix and of its id: it need not come from
 * the client that was given the id. Neither bucket pays for what the other one refuses. Both lie in the column of unknown
 * versions, the least used one, at places of their own: so the map is the one that earlier versions pinned. */
QUIC_INLINE int is_known_within(const struct settings *settings, const struct frame *frame, unsigned long long digest) {
    const struct rate *rate = &settings->rate[LIMIT_INITIAL];
    unsigned long long now, prefix_tat = 0, id_tat;
    struct buckets *of_prefix = 0, *of_id;

    if (!rate->interval_ns && !settings->attack) {
        return 1;
    }
    of_id = buckets_of(digest >> 32);
    if (!of_id) {
        return 0;
    }
    now = ktime_ns();
    id_tat = next_arrival(of_id->tat[LIMIT_VERSION], now, SECOND_NS / KNOWN_PER_ID, SECOND_NS);
    if (!id_tat) {
        return 0;
    }
    if (rate->interval_ns) {
        of_prefix = buckets_of(quic_siphash13(&settings->secret, prefix_of(frame), 3 + frame->is_ipv6));
        if (!of_prefix) {
            return 0;
        }
        prefix_tat = next_arrival(of_prefix->tat[LIMIT_VERSION], now, rate->interval_ns / KNOWN_SHARE, rate->window_ns);
        if (!prefix_tat) {
            return 0;
        }
        of_prefix->tat[LIMIT_VERSION] = prefix_tat;
    }
    of_id->tat[LIMIT_VERSION] = id_tat;
    return 1;
}

/* Set the DSCP that asks a worker for a Retry; ECN stays. */
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
    /* RFC 1624: new checksum = ~(~old + ~before + after). The TOS is the second byte of its word: the high one here. */
    sum = (unsigned short)~ipv4->checksum + (unsigned short)~(ipv4->tos << 8) + (tos << 8);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ipv4->checksum = ~sum;
    ipv4->tos = tos;
}

/* A datagram of ours, from its first byte. */
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
        /* In a frame that ends too early, or only beyond its linear part? */
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

/* What has no port that we could read. */
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
    /* A later fragment is perhaps another service's. If not, then there is no first one for it. */
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

/* Tier D: onto the CPU of the worker. A CPU without an entry in the map keeps the packet here. */
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

/* Runs on the CPU that a packet was moved to: all that it does is to say that it came. */
PROGRAM(arrived)(struct shield_context *ctx) {
    count(STAGE_CPUMAP, CPUMAP_arrived);
    return XDP_PASS_;
}
