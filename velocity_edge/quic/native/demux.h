/* What happens to one datagram: the same rules as velocity_edge/quic/demux.py, which documents them, and handover.py
 * and reset.py in the same folder. Every datagram is counted under exactly one verdict.
 */
#ifndef VE_DEMUX_H
#define VE_DEMUX_H

#include "engine.h"

enum { VE_MAX_CID = 20 };

/* The unprotected part of a long header. It points into the datagram. */
typedef struct ve_first_packet {
    uint32_t version;
    const uint8_t *dcid;
    size_t dcid_length;
    const uint8_t *scid;
    size_t scid_length;
    const uint8_t *token;
    size_t token_length;
} ve_first_packet;

static inline void ve_verdict(ve_engine *engine, enum ve_counter counter) {
    engine->counters[counter]++;
}

/* Make the path of a train; `local` is memory for it. ngtcp2 requires a local address: where none was reported, any
 * constant one of the same family serves. */
static inline void ve_make_path(ngtcp2_path *path, ve_address *local, const ve_train *train) {
    *local = train->local;
    if (local->length == 0) {
        local->any.sa_family = train->peer.any.sa_family;
        local->length = train->peer.length;
    }
    path->local = (ngtcp2_addr){&local->any, local->length};
    path->remote = (ngtcp2_addr){(ngtcp2_sockaddr *)(uintptr_t)&train->peer.any, train->peer.length};
    path->user_data = (void *)(intptr_t)train->listener;
}

/* --- demux.c --- */

void ve_demux(ve_engine *engine, const ve_train *train, const uint8_t *data, size_t length);

/* --- admission.c --- */

/* A valid first Initial: ask admit(), and carry out its decision. */
void ve_admit(ve_engine *engine, const ve_train *train, const ve_first_packet *first, const uint8_t *data,
              size_t length);

/* --- answers.c --- */

/* Hand the datagram over to the live worker `owner`. */
void ve_hand_over(ve_engine *engine, int owner, const ve_train *train, const uint8_t *data, size_t length);
/* An ID that we issued, without a connection: send a stateless reset, which is smaller than the `length` bytes that
 * caused it. */
void ve_stateless_reset(ve_engine *engine, const ve_train *train, const uint8_t *cid, size_t length);
void ve_negotiate_version(ve_engine *engine, const ve_train *train, const ve_first_packet *first);

#endif
