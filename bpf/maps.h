/* What the packet programs share with user space: maps, their keys and values, names of verdicts.
 *
 * This is the ABI; bpf/abi.py is its Python side, and tests/bpf/test_abi.py compares the two. A change of a map or
 * struct is a change of abi.SCHEMA, because pinned maps outlive the process that made them.
 *
 * A map is a placeholder (a pseudo descriptor with a magic number) that bpf/loader.py replaces. So the same text needs
 * no ELF relocation from clang and no table from bcc, and can be loaded with existing maps. The context structs are
 * defined here for the same reason: no kernel header is needed, and the verifier only checks offsets.
 */
#ifndef VELOCITY_MAPS_H
#define VELOCITY_MAPS_H

#include "quic.h"

#define MAX_LISTENERS 8
#define ACCEPT_ENTRIES 1024  /* of one half; there are two, and `settings.active` selects the one in use */
#define ACCEPT_VALID 0x10000 /* set in every entry that names a worker, because 0 is a worker id and an empty entry */
#define LIMIT_ENTRIES 65536
/* A pin lives for 15 x 2^30 ns = 16.1 s: longer than Limits.handshake_timeout_s, and not much longer than it is
 * used. */
#define PIN_LIFETIME 15

/* --- verdicts: each packet gets exactly one per stage ----------------------------------------------------------------
 * From `..._DROPPED` on they are drops. Names that both stages have mean the same. */

#define XDP_PASSED_VERDICTS(V) \
    V(passed_not_ours)      /* not UDP to one of our listeners: ARP, TCP, ICMP, other ports */ \
    V(passed_fragment)      /* a later fragment; a listener never gets its first fragment */ \
    V(passed_not_linear)    /* the header is not in the linear part: socket selection decides */ \
    V(passed_known_worker)  /* the ID decodes to a worker that exists */ \
    V(passed_initial)       /* a new connection; from here in the order of enum limit */ \
    V(passed_initial_token) /* a new connection, with a token */ \
    V(passed_zero_rtt)      /* 0-RTT of a new connection */ \
    V(passed_other_version) /* to be answered with Version Negotiation */ \
    V(passed_must_retry)    /* over the limit, marked to get a Retry */
#define XDP_DROPPED_VERDICTS(V) \
    V(dropped_malformed)       /* impossible lengths */ \
    V(dropped_source_port)     /* from a port that only reflection attacks use */ \
    V(dropped_denied)          /* on the deny list */ \
    V(dropped_impossible_type) /* Retry or Version Negotiation: only servers send these */ \
    V(dropped_small_initial)   /* RFC 9000 section 14.1: under 1200 bytes */ \
    V(dropped_short_dcid)      /* RFC 9000 section 7.2: Initial or 0-RTT with an id under 8 bytes */ \
    V(dropped_small_version)   /* unknown version under 1200 bytes: answering would amplify */ \
    V(dropped_undecodable)     /* short header or Handshake with an ID that this node cannot have issued */ \
    V(dropped_unknown_worker)  /* the ID decodes to a worker that does not exist */ \
    V(dropped_initial_limit)   /* over the rate of its /24 or /56; in the order of enum limit */ \
    V(dropped_token_limit) \
    V(dropped_zero_rtt_limit) \
    V(dropped_version_limit) \
    V(dropped_attack)       /* attack mode: the ID does not decode, and it is not an Initial */ \
    V(dropped_fragment)     /* the first fragment of a datagram: QUIC has none, RFC 9000 section 14 */ \
    V(dropped_header_chain) /* more VLAN tags or IPv6 extension headers than any client sends */ \
    V(dropped_known_limit)  /* Initial or 0-RTT with an ID of ours: over the rate of its prefix or of the ID */
#define SELECT_PASSED_VERDICTS(V) \
    V(selected_known_worker)  /* the ID decodes to a worker that exists */ \
    V(selected_pinned)        /* a later packet of a handshake that has a worker */ \
    V(selected_new)           /* a new connection, to an accepting worker */ \
    V(selected_other_version) /* to an accepting worker, for Version Negotiation */
#define SELECT_DROPPED_VERDICTS(V) \
    V(dropped_malformed) \
    V(dropped_impossible_type) \
    V(dropped_small_initial) \
    V(dropped_short_dcid) \
    V(dropped_small_version) \
    V(dropped_undecodable) \
    V(dropped_unknown_worker) \
    V(dropped_no_acceptor) /* a new connection, and no worker accepts any */ \
    V(dropped_no_socket)   /* the worker's slot has no socket */
/* moved + stayed = packets for us that XDP passed; moved - arrived = lost in a full CPUMAP queue, which no other
 * counter shows. */
#define CPUMAP_VERDICTS(V) V(moved) V(stayed) V(arrived)

#define XDP_ENUMERATOR(name) XDP_##name,
#define SELECT_ENUMERATOR(name) SELECT_##name,
#define CPUMAP_ENUMERATOR(name) CPUMAP_##name,
enum xdp_verdict {
    XDP_PASSED_VERDICTS(XDP_ENUMERATOR) XDP_DROPPED,
    XDP_DROPPED_IS = XDP_DROPPED - 1,
    XDP_DROPPED_VERDICTS(XDP_ENUMERATOR)
};
enum select_verdict {
    SELECT_PASSED_VERDICTS(SELECT_ENUMERATOR) SELECT_DROPPED,
    SELECT_DROPPED_IS = SELECT_DROPPED - 1,
    SELECT_DROPPED_VERDICTS(SELECT_ENUMERATOR)
};
enum cpumap_verdict { CPUMAP_VERDICTS(CPUMAP_ENUMERATOR) };
enum stage { STAGE_XDP, STAGE_SELECT, STAGE_CPUMAP, STAGES };

/* --- keys and values --- */

enum family { FAMILY_IPV4 = 1, FAMILY_IPV6 = 2 };

struct listener {
    unsigned short port;     /* network order; 0 ends the list */
    unsigned char families;  /* bits of enum family: a dual-stack wildcard has both */
    unsigned char wildcard;  /* any local address */
    unsigned int address[4]; /* network order; IPv4 in the first word */
};

enum limit { LIMIT_INITIAL, LIMIT_TOKEN, LIMIT_ZERO_RTT, LIMIT_VERSION, LIMITS };

/* GCRA: one packet per `interval_ns`, and a burst of as many as fit in `window_ns`. interval_ns 0: no limit. */
struct rate {
    unsigned long long interval_ns, window_ns;
};

struct settings {
    struct quic_keys cids;
    struct quic_key secret; /* key of this node's hashes, so that a client cannot choose its bucket */
    struct rate rate[LIMITS];
    struct listener listener[MAX_LISTENERS];
    unsigned int slip;    /* 1 of this many over-limit Initials passes with the mark; 0: none */
    unsigned char active; /* half of `accept` in use; switched by one store */
    unsigned char deny;   /* look at deny4 and deny6 */
    unsigned char attack; /* admit IDs that decode, and Initials within their rate */
    unsigned char move;   /* tier D: move packets to the worker's CPU */
};

struct worker {
    unsigned int slot_plus_1; /* 0: no such worker */
    unsigned int cpu;
};

struct pin_key {
    unsigned char address[16];
    unsigned long long dcid; /* its first 8 bytes: chosen by the client, the same in all packets of its first flight */
    unsigned short port;
    unsigned char unused[6];
};

struct pin {
    unsigned int worker_id;
    unsigned int born; /* CLOCK_MONOTONIC_COARSE, in 2^30 ns */
};

/* Theoretical arrival times (GCRA), ns. */
struct buckets {
    unsigned long long tat[LIMITS];
};

struct deny4_key {
    unsigned int bits;
    unsigned char address[4];
};

struct deny6_key {
    unsigned int bits;
    unsigned char address[16];
};

#define COUNTERS_PER_STAGE 32
struct counters {
    unsigned long long cell[COUNTERS_PER_STAGE];
};

/* --- inside the kernel only --- */
#ifdef VELOCITY_BPF

/* In the order of abi.MAPS. */
enum map {
    MAP_settings,
    MAP_workers,
    MAP_accept,
    MAP_pins,
    MAP_limits,
    MAP_deny4,
    MAP_deny6,
    MAP_counters,
    MAP_cpus,
    MAP_head,
    MAP_sockets
};
unsigned long long bpf_pseudo_fd(unsigned long long, unsigned long long) __asm__("llvm.bpf.pseudo");
#define MAP(name) ((void *)bpf_pseudo_fd(1, 0x5645000 + MAP_##name))

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, unsigned long long flags) = (void *)2;
static unsigned long long (*const ktime_ns)(void) = (void *)5;
static unsigned int (*const random_u32)(void) = (void *)7;
static long (*const skb_load_bytes)(const void *ctx, unsigned int offset, void *to, unsigned int length) = (void *)26;
static long (*const redirect_map)(void *map, unsigned long long key, unsigned long long flags) = (void *)51;
static long (*const load_bytes_relative)(const void *ctx, unsigned int offset, void *to, unsigned int length,
                                         unsigned int start) = (void *)68;
static long (*const select_reuseport)(void *ctx, void *map, void *key, unsigned long long flags) = (void *)82;
static unsigned long long (*const ktime_coarse_ns)(void) = (void *)160;
static unsigned long long (*const xdp_buffer_length)(void *ctx) = (void *)188;

/* Each program is in a section of its own, so that its bytes can be taken from an object file. */
#define PROGRAM(name) __attribute__((section("program/" #name), used)) int name
#define htons_constant(x) ((unsigned short)((x) << 8 | (x) >> 8))

QUIC_INLINE void count(unsigned int stage, unsigned int verdict) {
    struct counters *counters = map_lookup(MAP(counters), &stage);

    if (counters) {
        counters->cell[verdict & (COUNTERS_PER_STAGE - 1)]++;
    }
}

/* The worker of an ID that we issued. NULL: it does not decode (*decodes is 0), or the worker does not exist. */
QUIC_INLINE struct worker *known_worker(const struct settings *settings, const struct quic_packet *packet, int *decodes,
                                        unsigned long long *digest) {
    unsigned int worker_id;
    struct worker *worker;
    int id = quic_read_id(packet->dcid, packet->dcid_length, &settings->cids, digest);

    *decodes = id >= 0;
    if (id < 0) {
        return 0;
    }
    worker_id = id;
    worker = map_lookup(MAP(workers), &worker_id);
    return worker && worker->slot_plus_1 ? worker : 0;
}

/* The accepting worker for a new connection with this DCID (its first 8 bytes), or -1 when no worker accepts. */
QUIC_INLINE int accepting_worker(const struct settings *settings, unsigned long long dcid) {
    unsigned int index = quic_siphash13(&settings->secret, dcid, 0) & (ACCEPT_ENTRIES - 1);
    unsigned long long *entry;

    index += (settings->active & 1) * ACCEPT_ENTRIES;
    entry = map_lookup(MAP(accept), &index);
    return entry && *entry & ACCEPT_VALID ? (int)(*entry & 0xffff) : -1;
}
#endif
#endif
