/* SipHash-1-3 (Aumasson and Bernstein, 2012), the same as velocity_edge/wire/siphash.py: for the mask of our
 * connection IDs, and the keyed hash of tables whose keys a peer chooses. */
#ifndef VE_SIPHASH_H
#define VE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t ve_rotl(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void ve_sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = ve_rotl(v[1], 13) ^ v[0];
    v[0] = ve_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = ve_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = ve_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = ve_rotl(v[1], 17) ^ v[2];
    v[2] = ve_rotl(v[2], 32);
}

/* Words are read in native byte order: the build refuses big-endian machines (build.py), as the BPF programs do. */
static inline uint64_t ve_siphash13(const uint8_t key[16], const uint8_t *data, size_t length) {
    uint64_t k[2];
    uint64_t word;
    uint64_t last = (uint64_t)length << 56;
    size_t i = 0;
    memcpy(k, key, sizeof k);
    uint64_t v[4] = {k[0] ^ 0x736f6d6570736575ull, k[1] ^ 0x646f72616e646f6dull, k[0] ^ 0x6c7967656e657261ull,
                     k[1] ^ 0x7465646279746573ull};
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, data + i, sizeof word);
        v[3] ^= word;
        ve_sip_round(v);
        v[0] ^= word;
    }
    for (unsigned shift = 0; i < length; i++, shift += 8) {
        last |= (uint64_t)data[i] << shift;
    }
    v[3] ^= last;
    ve_sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    ve_sip_round(v);
    ve_sip_round(v);
    ve_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
