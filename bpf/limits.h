/* Rates of packets that open a connection: per prefix, and per connection ID.
 *
 * What surprises: the buckets are an array indexed by a keyed hash of the prefix, not a hash table. The cost does not grow
 * with the number of sources, and a client can neither fill the array nor choose the bucket of another prefix. The price
 * is that two prefixes may share a bucket. Buckets are updated without a lock: CPUs that race may admit a few more packets.
 */
#ifndef VELOCITY_LIMITS_H
#define VELOCITY_LIMITS_H

#include "frame.h"

/* Initials and 0-RTT with an id of ours: so many times the rate of Initials for a prefix, and for one id, whoever sends
 * it, so many at once and in a second. A handshake has 3 or 4, one that was lost in parts or has 0-RTT up to 40. */
#define KNOWN_SHARE 4
#define KNOWN_PER_ID 64
#define SECOND_NS 1000000000ULL

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
#endif
