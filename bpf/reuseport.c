/* Socket selection: which socket of a listener's reuseport group gets a datagram. Correct without XDP.
 *
 *   ID decodes, worker exists                  -> its slot
 *   Initial or 0-RTT otherwise: a pin          -> the worker that got the first datagram of this handshake
 *                               no pin         -> an accepting worker, and a new pin
 *   unknown version                            -> an accepting worker, which sends Version Negotiation
 *   anything else                              -> dropped, counted under a verdict
 *
 * The context begins at the UDP header. A GRO train is judged by its first datagram and counted once; the worker
 * checks every datagram. A drop here makes the kernel send "port unreachable" (rate limited); the shield drops
 * malformed packets silently.
 */
#include "maps.h"

enum action { SK_DROP_ = 0, SK_PASS_ = 1 };
#define HEADER_START_NET 1 /* BPF_HDR_START_NET */
#define UDP_LENGTH 8
#define NO_EXIST 1 /* BPF_NOEXIST */

/* struct sk_reuseport_md, as far as it is used. */
struct select_context {
    unsigned long long data, data_end;
    unsigned int length;            /* from the UDP header on */
    unsigned int ethernet_protocol; /* network order */
    unsigned int ip_protocol, bind_inany, hash;
};

/* The worker of a handshake that began less than PIN_LIFETIME ago, or -1. A pin to a worker that is gone does not
 * count. */
QUIC_INLINE int pinned_worker(const struct pin_key *key, unsigned int now) {
    struct pin *pin = map_lookup(MAP(pins), key);
    struct worker *worker;
    unsigned int worker_id;

    if (!pin || now - pin->born > PIN_LIFETIME) {
        return -1;
    }
    worker_id = pin->worker_id;
    worker = map_lookup(MAP(workers), &worker_id);
    return worker && worker->slot_plus_1 ? (int)worker_id : -1;
}

/* The worker of a new connection. All packets of a first flight have the same address and DCID. */
QUIC_INLINE int newcomer(struct select_context *ctx, const struct settings *settings, unsigned long long dcid,
                         int *worker_id) {
    struct pin_key key = {};
    struct pin pin;
    int is_ipv6 = ctx->ethernet_protocol == htons_constant(0x86dd);

    key.dcid = dcid;
    if (load_bytes_relative(ctx, is_ipv6 ? 8 : 12, key.address, is_ipv6 ? 16 : 4, HEADER_START_NET) ||
        skb_load_bytes(ctx, 0, &key.port, sizeof(key.port))) {
        return SELECT_dropped_malformed;
    }
    pin.born = ktime_coarse_ns() >> 30;
    *worker_id = pinned_worker(&key, pin.born);
    if (*worker_id >= 0) {
        return SELECT_selected_pinned;
    }
    *worker_id = accepting_worker(settings, dcid);
    if (*worker_id < 0) {
        return SELECT_dropped_no_acceptor;
    }
    pin.worker_id = *worker_id;
    map_update(MAP(pins), &key, &pin, 0);
    return SELECT_selected_new;
}

QUIC_INLINE int judge(struct select_context *ctx, struct quic_packet *packet, const unsigned char *end,
                      unsigned int length, const struct settings *settings, unsigned int *slot) {
    int decodes, verdict = SELECT_selected_known_worker, worker_id;
    unsigned int id;
    unsigned long long dcid, digest;
    struct worker *worker;

    switch (packet->kind) {
    case QUIC_MALFORMED:
    case QUIC_UNREADABLE:
        return SELECT_dropped_malformed;
    case QUIC_RETRY:
    case QUIC_NEGOTIATION:
        return SELECT_dropped_impossible_type;
    case QUIC_INITIAL:
    case QUIC_ZERO_RTT:
        if (packet->kind == QUIC_INITIAL && length < QUIC_MIN_INITIAL_DATAGRAM) {
            return SELECT_dropped_small_initial;
        }
        if (packet->dcid_length < QUIC_MIN_INITIAL_DCID) {
            return SELECT_dropped_short_dcid;
        }
        break;
    case QUIC_OTHER_VERSION:
        if (length < QUIC_MIN_INITIAL_DATAGRAM) {
            return SELECT_dropped_small_version;
        }
        break;
    }
    worker = packet->kind == QUIC_OTHER_VERSION ? 0 : known_worker(settings, packet, &decodes, &digest);
    if (!worker) {
        if (packet->kind == QUIC_SHORT || packet->kind == QUIC_HANDSHAKE) {
            return decodes ? SELECT_dropped_unknown_worker : SELECT_dropped_undecodable;
        }
        if (packet->dcid + 8 > end) {
            return SELECT_dropped_malformed;
        }
        dcid = quic_load64(packet->dcid);
        if (packet->kind == QUIC_OTHER_VERSION) {
            verdict = SELECT_selected_other_version;
            worker_id = accepting_worker(settings, dcid);
            if (worker_id < 0) {
                return SELECT_dropped_no_acceptor;
            }
        } else {
            verdict = newcomer(ctx, settings, dcid, &worker_id);
            if (verdict >= SELECT_DROPPED) {
                return verdict;
            }
        }
        id = worker_id;
        worker = map_lookup(MAP(workers), &id);
        if (!worker || !worker->slot_plus_1) {
            return SELECT_dropped_no_socket;
        }
    }
    *slot = worker->slot_plus_1 - 1;
    return verdict;
}

PROGRAM(choose_socket)(struct select_context *ctx) {
    const unsigned char *p = (const unsigned char *)ctx->data + UDP_LENGTH, *end = (const unsigned char *)ctx->data_end;
    unsigned int zero = 0, slot = 0, length = ctx->length;
    unsigned long readable;
    struct settings *settings = map_lookup(MAP(settings), &zero);
    struct quic_packet packet;
    unsigned char *head;
    int verdict;

    if (!settings || length < UDP_LENGTH) {
        return SK_DROP_;
    }
    length -= UDP_LENGTH;
    if (quic_parse(p, end, length, &packet) == QUIC_UNREADABLE) {
        /* Paged or reassembled: use a copy of the header. Bytes after a short header are old data, and are not read
           because of `length`. */
        head = map_lookup(MAP(head), &zero);
        if (!head) {
            return SK_DROP_;
        }
        readable = length;
        QUIC_OPAQUE(readable);
        if (readable > QUIC_HEAD_LENGTH) {
            readable = QUIC_HEAD_LENGTH;
        }
        end = head + QUIC_HEAD_LENGTH;
        if (readable > 0 && !skb_load_bytes(ctx, UDP_LENGTH, head, readable)) {
            quic_parse(head, end, length, &packet);
        }
    }
    verdict = judge(ctx, &packet, end, length, settings, &slot);
    if (verdict < SELECT_DROPPED && select_reuseport(ctx, MAP(sockets), &slot, 0)) {
        verdict = SELECT_dropped_no_socket;
    }
    count(STAGE_SELECT, verdict);
    return verdict < SELECT_DROPPED ? SK_PASS_ : SK_DROP_;
}
