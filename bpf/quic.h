/* The QUIC header of a datagram (RFC 8999, RFC 9000 section 17), and our own connection IDs (velocity_edge/wire/cid.py
 * has the format and the reasons).
 *
 * Plain C: no BPF helper, no kernel type, no include. The same text is compiled into both packet programs, and by the
 * tests into a shared object that is compared with the Python twins, packet by packet (tests/bpf/test_quic_twin.py).
 * The native engine has a parser of its own, because it needs what is not parsed here (source IDs, tokens, long IDs of
 * other versions): velocity_edge/quic/native/demux.c, compared with the same Python twins
 * (tests/native/test_twins.py).
 *
 * There are two bounds. `length` is the length of the datagram, and decides what is malformed. `end` is where readable
 * memory ends: a packet program can read only the linear part, and the verifier accepts no other proof. In user space
 * end is packet + length, and QUIC_UNREADABLE does not occur.
 */
#ifndef VELOCITY_QUIC_H
#define VELOCITY_QUIC_H

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "velocity-edge runs on little-endian machines (x86_64, aarch64)"
#endif

#define QUIC_INLINE static inline __attribute__((always_inline))

#define QUIC_CID_LENGTH 20             /* of the IDs we issue */
#define QUIC_MAX_CID_LENGTH 20         /* RFC 9000 section 17.2 */
#define QUIC_MIN_INITIAL_DCID 8        /* RFC 9000 section 7.2 */
#define QUIC_MIN_INITIAL_DATAGRAM 1200 /* RFC 9000 section 14.1 */
#define QUIC_VERSION_1 0x00000001u
/* Most bytes that quic_parse reads: flags 1, version 4, two lengths 2, two IDs 40, first byte of the token length 1. */
#define QUIC_HEAD_LENGTH 48

enum quic_kind {
    QUIC_MALFORMED,  /* impossible lengths */
    QUIC_UNREADABLE, /* the header continues after `end` */
    QUIC_SHORT,      /* 1-RTT; the ID has our length, because we issued it */
    QUIC_INITIAL,
    QUIC_ZERO_RTT,
    QUIC_HANDSHAKE,
    QUIC_RETRY,         /* only servers send it */
    QUIC_NEGOTIATION,   /* version 0; only servers send it */
    QUIC_OTHER_VERSION, /* a long header of an unknown version: only `dcid` and `dcid_length` are set */
};

struct quic_packet {
    const unsigned char *dcid;
    unsigned int version; /* 0 for short headers */
    unsigned char kind;   /* enum quic_kind */
    unsigned char dcid_length;
    unsigned char scid_length; /* long headers of version 1 */
    unsigned char has_token;   /* Initials */
};

/* The SipHash key of one CID configuration: its 16 bytes as two little-endian words. */
struct quic_key {
    unsigned long long k0, k1;
};

/* All keys for decoding our IDs. Config id 7 means "unroutable" in QUIC-LB and is never active. */
struct quic_keys {
    struct quic_key key[8]; /* by config id */
    unsigned char active;   /* bit n: key[n] is valid */
    unsigned char unused[7];
};

#ifdef VELOCITY_BPF
/* Unaligned reads are allowed on x86_64 and aarch64; clang would compile memcpy to byte reads. */
/* Keeps clang from computing a value twice: the verifier would treat the checked and the used value as different. */
#define QUIC_OPAQUE(value) __asm__ volatile("" : "+r"(value))
#define quic_load32(p) (*(const unsigned int *)(p))
#define quic_load64(p) (*(const unsigned long long *)(p))
#else
#define QUIC_OPAQUE(value)
QUIC_INLINE unsigned int quic_load32(const unsigned char *p) {
    unsigned int word;
    __builtin_memcpy(&word, p, sizeof(word));
    return word;
}

QUIC_INLINE unsigned long long quic_load64(const unsigned char *p) {
    unsigned long long word;
    __builtin_memcpy(&word, p, sizeof(word));
    return word;
}
#endif

#define QUIC_ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))
#define QUIC_SIPROUND(v0, v1, v2, v3) \
    do { \
        v0 += v1; \
        v1 = QUIC_ROTATE(v1, 13); \
        v1 ^= v0; \
        v0 = QUIC_ROTATE(v0, 32); \
        v2 += v3; \
        v3 = QUIC_ROTATE(v3, 16); \
        v3 ^= v2; \
        v0 += v3; \
        v3 = QUIC_ROTATE(v3, 21); \
        v3 ^= v0; \
        v2 += v1; \
        v1 = QUIC_ROTATE(v1, 17); \
        v1 ^= v2; \
        v2 = QUIC_ROTATE(v2, 32); \
    } while (0)

/* SipHash-1-3 of one 16-byte block: the twin of velocity_edge/wire/siphash.py. */
QUIC_INLINE unsigned long long quic_siphash13(const struct quic_key *key, unsigned long long m0,
                                              unsigned long long m1) {
    unsigned long long v0 = key->k0 ^ 0x736f6d6570736575ULL, v1 = key->k1 ^ 0x646f72616e646f6dULL;
    unsigned long long v2 = key->k0 ^ 0x6c7967656e657261ULL, v3 = key->k1 ^ 0x7465646279746573ULL;
    const unsigned long long length = 16ULL << 56;

    v3 ^= m0;
    QUIC_SIPROUND(v0, v1, v2, v3);
    v0 ^= m0;
    v3 ^= m1;
    QUIC_SIPROUND(v0, v1, v2, v3);
    v0 ^= m1;
    v3 ^= length;
    QUIC_SIPROUND(v0, v1, v2, v3);
    v0 ^= length;
    v2 ^= 0xff;
    QUIC_SIPROUND(v0, v1, v2, v3);
    QUIC_SIPROUND(v0, v1, v2, v3);
    QUIC_SIPROUND(v0, v1, v2, v3);
    return v0 ^ v1 ^ v2 ^ v3;
}

/* The worker id in an ID of ours (0..65535), or -1 when it does not decode: the twin of CidCodec.worker_of. A random
 * ID of 20 bytes decodes with a probability of 2^-16 per active configuration; one of another length never does.
 * *digest is the keyed hash of an ID that decodes. Its low 24 bits mask the trailer; the others are free for other
 * uses. */
QUIC_INLINE int quic_read_id(const unsigned char *cid, unsigned int cid_length, const struct quic_keys *keys,
                             unsigned long long *digest) {
    unsigned int config, trailer;

    if (cid_length != QUIC_CID_LENGTH || (cid[0] & 31) != QUIC_CID_LENGTH - 1) {
        return -1;
    }
    config = cid[0] >> 5;
    if (!(keys->active >> config & 1)) {
        return -1;
    }
    *digest = quic_siphash13(&keys->key[config], quic_load64(cid + 1), quic_load64(cid + 9));
    trailer = __builtin_bswap32(quic_load32(cid + 16)) ^ (unsigned int)*digest;
    return trailer & 0xff ? -1 : (int)(trailer >> 8 & 0xffff);
}

/* The same without the digest. */
QUIC_INLINE int quic_worker_of(const unsigned char *cid, unsigned int cid_length, const struct quic_keys *keys) {
    unsigned long long digest;

    return quic_read_id(cid, cid_length, keys, &digest);
}

/* Parse the header of the first packet of a datagram. Returns its kind, and stores it. */
QUIC_INLINE int quic_parse(const unsigned char *p, const unsigned char *end, unsigned int length,
                           struct quic_packet *out) {
    const unsigned char *tail;
    unsigned int type;

    out->dcid = p;
    out->version = 0;
    out->dcid_length = 0;
    out->scid_length = 0;
    out->has_token = 0;
    if (length < 7) {
        return out->kind = QUIC_MALFORMED;
    }
    if (p + 7 > end) {
        return out->kind = QUIC_UNREADABLE;
    }
    if (!(p[0] & 0x80)) {
        if (length < 1 + QUIC_CID_LENGTH) {
            return out->kind = QUIC_MALFORMED;
        }
        if (p + 1 + QUIC_CID_LENGTH > end) {
            return out->kind = QUIC_UNREADABLE;
        }
        out->dcid = p + 1;
        out->dcid_length = QUIC_CID_LENGTH;
        return out->kind = QUIC_SHORT;
    }
    out->version = __builtin_bswap32(quic_load32(p + 1));
    out->dcid = p + 6;
    out->dcid_length = p[5];
    if (length < 7u + out->dcid_length) {
        return out->kind = QUIC_MALFORMED;
    }
    if (out->version == 0) {
        return out->kind = QUIC_NEGOTIATION;
    }
    /* Also version 2 (RFC 9369): no worker supports it, and its packet types have other numbers, so they must not be
       judged here. */
    if (out->version != QUIC_VERSION_1) {
        return out->kind = QUIC_OTHER_VERSION;
    }
    if (out->dcid_length > QUIC_MAX_CID_LENGTH) {
        return out->kind = QUIC_MALFORMED;
    }
    tail = p + 7 + out->dcid_length; /* after the length of the source ID */
    QUIC_OPAQUE(tail);
    /* The second check follows from the first, but the verifier learns nothing about `p` from `tail`. */
    if (tail > end || (out->dcid_length == QUIC_CID_LENGTH && p + 7 + QUIC_CID_LENGTH > end)) {
        return out->kind = QUIC_UNREADABLE;
    }
    out->scid_length = tail[-1];
    if (out->scid_length > QUIC_MAX_CID_LENGTH || length < 7u + out->dcid_length + out->scid_length) {
        return out->kind = QUIC_MALFORMED;
    }
    type = p[0] >> 4 & 3;
    if (type == 1) {
        return out->kind = QUIC_ZERO_RTT;
    }
    if (type == 2) {
        return out->kind = QUIC_HANDSHAKE;
    }
    if (type == 3) {
        return out->kind = QUIC_RETRY;
    }
    if (length < 8u + out->dcid_length + out->scid_length) {
        return out->kind = QUIC_MALFORMED;
    }
    tail += out->scid_length + 1; /* after the first byte of the token length */
    QUIC_OPAQUE(tail);
    if (tail > end) {
        return out->kind = QUIC_UNREADABLE;
    }
    out->has_token = tail[-1] != 0;
    return out->kind = QUIC_INITIAL;
}
#endif
