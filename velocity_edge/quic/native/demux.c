/* The decision about one datagram. */
#include "demux.h"

#include "life.h"
#include "varint.h"

enum {
    MIN_INITIAL_LENGTH = 1200, /* RFC 9000 section 14.1 */
    MIN_FIRST_CID = 8,         /* section 7.2 */
    TYPE_INITIAL = 0,
    TYPE_RETRY = 3,
    SHORTEST_RESET = 41,
};

static bool is_live(const ve_engine *engine, int worker) {
    return (engine->live_workers[worker / 8] >> (worker % 8) & 1) != 0;
}

static void deliver(ve_connection *connection, const ve_train *train, const uint8_t *data, size_t length) {
    ve_address local;
    ngtcp2_path path;
    ve_make_path(&path, &local, train);
    ve_connection_read(connection, &path, train->tos, data, length);
}

/* Find the token of an Initial. False: the packet is longer than the datagram. */
static bool read_token(ve_first_packet *first, const uint8_t *data, size_t length, size_t offset) {
    uint64_t token_length;
    uint64_t rest;
    if (!ve_varint_at(data, length, &offset, &token_length) || token_length > length - offset) {
        return false;
    }
    first->token = data + offset;
    first->token_length = (size_t)token_length;
    offset += (size_t)token_length;
    /* Packet number and header protection sample need 20 bytes (RFC 9001 section 5.4.2). */
    return ve_varint_at(data, length, &offset, &rest) && rest >= 20 && rest <= length - offset;
}

static void demux_short(ve_engine *engine, const ve_train *train, const uint8_t *data, size_t length) {
    bool forwarded = train->received_ns != 0;
    const uint8_t *cid = data + 1;
    uint32_t node_id;
    if (length < 1 + VE_CID_LENGTH) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    ve_connection *connection = ve_id_find(&engine->ids, cid, VE_CID_LENGTH);
    if (connection != NULL) {
        ve_verdict(engine, VE_verdict_delivered);
        deliver(connection, train, data, length);
        return;
    }
    if (!(data[0] & 0x40)) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    int worker = ve_cid_worker(&engine->cids, cid, VE_CID_LENGTH);
    if (worker < 0) {
        ve_verdict(engine, VE_verdict_dropped_unknown_cid);
        return;
    }
    if (worker != engine->worker_id) {
        if (forwarded) {
            ve_verdict(engine, VE_verdict_dropped_forwarded);
            return;
        }
        if (is_live(engine, worker)) {
            ve_hand_over(engine, worker, train, data, length);
            return;
        }
    }
    /* The trailer alone can match by chance. A reset acts for the owner of the ID, so the encrypted block
       must match too. */
    if (length - 1 < SHORTEST_RESET || !ve_cid_open(&engine->cids, cid, VE_CID_LENGTH, &node_id) ||
        node_id != engine->node_id) {
        ve_verdict(engine, VE_verdict_dropped_unknown_cid);
        return;
    }
    ve_stateless_reset(engine, train, cid, length);
}

static void demux_long(ve_engine *engine, const ve_train *train, const uint8_t *data, size_t length) {
    bool forwarded = train->received_ns != 0;
    ve_first_packet first = {0};
    if (length < 7) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    first.version = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
    /* RFC 8999 section 5.1: two IDs with their lengths, in every version. */
    size_t dcid_end = 6 + (size_t)data[5];
    size_t scid_end = dcid_end < length ? dcid_end + 1 + data[dcid_end] : length + 1;
    if (scid_end > length || first.version == 0) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    first.dcid = data + 6;
    first.dcid_length = data[5];
    first.scid = data + dcid_end + 1;
    first.scid_length = data[dcid_end];
    if (first.version != NGTCP2_PROTO_VER_V1) {
        if (length < MIN_INITIAL_LENGTH) {
            ve_verdict(engine, VE_verdict_dropped_version);
        } else {
            ve_negotiate_version(engine, train, &first);
        }
        return;
    }
    if (first.dcid_length > VE_MAX_CID || first.scid_length > VE_MAX_CID || !(data[0] & 0x40)) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    ve_connection *connection = ve_id_find(&engine->ids, first.dcid, first.dcid_length);
    if (connection != NULL) {
        ve_verdict(engine, VE_verdict_delivered);
        deliver(connection, train, data, length);
        return;
    }
    int type = data[0] >> 4 & 3;
    if (type == TYPE_RETRY) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    int worker = ve_cid_worker(&engine->cids, first.dcid, first.dcid_length);
    if (worker >= 0 && worker != engine->worker_id && is_live(engine, worker)) {
        if (forwarded) {
            ve_verdict(engine, VE_verdict_dropped_forwarded);
        } else {
            ve_hand_over(engine, worker, train, data, length);
        }
        return;
    }
    if (type != TYPE_INITIAL) {
        ve_verdict(engine, VE_verdict_dropped_unknown_cid);
        return;
    }
    if (length < MIN_INITIAL_LENGTH) {
        ve_verdict(engine, VE_verdict_dropped_small_initial);
        return;
    }
    if (!read_token(&first, data, length, scid_end) || first.dcid_length < MIN_FIRST_CID) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    ve_admit(engine, train, &first, data, length);
}

void ve_demux(ve_engine *engine, const ve_train *train, const uint8_t *data, size_t length) {
    engine->counters[train->received_ns != 0 ? VE_datagrams_injected : VE_datagrams_received]++;
    if (length == 0) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
    } else if (data[0] & 0x80) {
        demux_long(engine, train, data, length);
    } else {
        demux_short(engine, train, data, length);
    }
}
