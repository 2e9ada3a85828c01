/* Rate limits for packets that open a connection: per prefix, and per connection ID.
 *
 * The buckets are an array indexed by a keyed hash of the prefix, not a hash table: the cost does not grow with the
 * number of sources, and a client can neither fill the array nor choose the bucket of another prefix. In return two
 * prefixes may share a bucket. Buckets are updated without a lock: when CPUs race, a few packets more than the limit
 * may pass.
 */
#ifndef VELOCITY_LIMITS_H
#define VELOCITY_LIMITS_H

#include "frame.h"

/* Initials and 0-RTT packets with an ID that we issued. Limit per prefix: KNOWN_SHARE times its rate of Initials.
 * Limit per ID, for all sources together: KNOWN_PER_ID at once and per second. A handshake has 3 or 4 such packets;
 * with losses or 0-RTT up to 40. */
#define KNOWN_SHARE 4
#define KNOWN_PER_ID 64
#define SECOND_NS 1000000000ULL

/* The /24 or /56 of the source. Bytes are in network order: the low bytes of the word are the first ones. */
QUIC_INLINE unsigned long long prefix_of(const struct frame *frame) {
    if (frame->is_ipv6) {
        return quic_load64(((struct ipv6 *)frame->ip)->source) & 0x00ffffffffffffffULL;
    }
    return ((struct ipv4 *)frame->ip)->source & 0x00ffffffU;
}

/* The bucket of a hash. */
QUIC_INLINE struct buckets *buckets_of(unsigned long long hash) {
    unsigned int index = hash & (LIMIT_ENTRIES - 1);

    return map_lookup(MAP(limits), &index);
}

/* GCRA: the theoretical arrival time after a packet at `now`; 0 when the packet is over the limit. */
QUIC_INLINE unsigned long long next_arrival(unsigned long long tat, unsigned long long now,
                                            unsigned long long interval_ns, unsigned long long window_ns) {
    if (tat < now) {
        tat = now;
    }
    tat += interval_ns;
    return tat - now > window_ns ? 0 : tat;
}

/* Whether a packet that opens a connection is within the rate of its prefix. */
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

/* Whether an Initial or 0-RTT packet with an ID of ours is within the rates of its prefix and of its ID; it may not
 * come from the client that was given the ID. A packet that one bucket refuses does not count in the other. Both use
 * the column of unknown versions, which is used least, at indexes of their own, so that the map keeps the layout
 * that earlier versions pinned. */
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
#endif
