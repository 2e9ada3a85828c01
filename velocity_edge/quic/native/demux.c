#include "demux.h"

enum {
    MIN_INITIAL_LENGTH = 1200, /* RFC 9000 section 14.1 */
    MIN_FIRST_CID = 8,         /* section 7.2 */
    TYPE_INITIAL = 0,
    TYPE_RETRY = 3,
    SHORTEST_RESET = 41,
    LONGEST_RESET = 43,
    HANDOVER_VERSION = 1,
    HANDOVER_HEADER = 52,
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

/* --- to another worker --- */

static void put_address(uint8_t ip[16], uint8_t port[2], const ve_address *address) {
    if (address->length == 0) {
        return;
    }
    in_port_t p = address->any.sa_family == AF_INET ? address->v4.sin_port : address->v6.sin6_port;
    memcpy(port, &p, 2);
    if (address->any.sa_family == AF_INET) {
        memcpy(ip, &address->v4.sin_addr, 4);
    } else {
        ve_address_pack(ip, address);
    }
}

static void hand_over(ve_engine *engine, int owner, const ve_train *train, const uint8_t *data, size_t length) {
    if (PyList_GET_SIZE(engine->strays) >= VE_MAX_STRAYS) {
        engine->counters[VE_handover_full]++;
        ve_verdict(engine, VE_verdict_handed_over);
        return;
    }
    PyObject *packet = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(HANDOVER_HEADER + length));
    PyObject *pair = packet == NULL ? NULL : Py_BuildValue("(iO)", owner, packet);
    if (pair != NULL) {
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(packet);
        memset(out, 0, HANDOVER_HEADER);
        out[0] = HANDOVER_VERSION;
        out[1] = train->tos;
        out[2] = (uint8_t)(train->listener >> 8);
        out[3] = (uint8_t)train->listener;
        out[4] = train->peer.any.sa_family == AF_INET ? 4 : 16;
        for (int i = 0; i < 8; i++) {
            out[8 + i] = (uint8_t)(engine->now_ns >> (56 - 8 * i));
        }
        put_address(out + 16, out + 48, &train->peer);
        put_address(out + 32, out + 50, &train->local);
        memcpy(out + HANDOVER_HEADER, data, length);
    }
    if (pair == NULL || PyList_Append(engine->strays, pair) != 0) {
        PyErr_Clear();
        engine->counters[VE_handover_full]++;
    }
    Py_XDECREF(pair);
    Py_XDECREF(packet);
    ve_verdict(engine, VE_verdict_handed_over);
}

/* --- answers --- */

static void reset(ve_engine *engine, const ve_train *train, const uint8_t *cid, size_t length) {
    uint8_t packet[LONGEST_RESET];
    uint8_t token[VE_RESET_TOKEN_LENGTH];
    size_t size = length - 1 < LONGEST_RESET ? length - 1 : LONGEST_RESET;
    if (!ve_cid_reset_token(&engine->cids, cid, VE_CID_LENGTH, token)) {
        ve_verdict(engine, VE_verdict_dropped_unknown_cid);
        return;
    }
    if (!ve_rate_allow(&engine->resets, engine->limits.max_resets_per_s, engine->now_ns)) {
        ve_verdict(engine, VE_verdict_dropped_reset_limit);
        return;
    }
    if (ve_random(packet, size - sizeof token) != 0) {
        ve_verdict(engine, VE_verdict_dropped_internal);
        return;
    }
    packet[0] = (packet[0] & 0x3f) | 0x40;
    memcpy(packet + size - sizeof token, token, sizeof token);
    ve_engine_answer(engine, packet, size, train);
    ve_verdict(engine, VE_verdict_reset);
}

/* RFC 9000 section 17.2.1: the ids trade places. Written here because they may be longer than version 1 allows. */
static void negotiate_version(ve_engine *engine, const ve_train *train, const ve_first_packet *first) {
    uint8_t packet[7 + 2 * 255 + 8];
    uint8_t reserved[4];
    size_t used = 0;
    if (!ve_rate_allow(&engine->negotiations, engine->limits.max_version_negotiations_per_s, engine->now_ns) ||
        ve_random(packet, 1) != 0 || ve_random(reserved, sizeof reserved) != 0) {
        ve_verdict(engine, VE_verdict_dropped_version);
        return;
    }
    packet[used++] |= 0xc0; /* the fixed bit too: then it looks like QUIC to whoever multiplexes (section 17.2.1) */
    memset(packet + used, 0, 4);
    used += 4;
    packet[used++] = (uint8_t)first->scid_length;
    memcpy(packet + used, first->scid, first->scid_length);
    used += first->scid_length;
    packet[used++] = (uint8_t)first->dcid_length;
    memcpy(packet + used, first->dcid, first->dcid_length);
    used += first->dcid_length;
    memcpy(packet + used, (const uint8_t[]){0, 0, 0, 1}, 4);
    used += 4;
    /* A version of the form 0x?a?a?a?a that nobody has (section 15), so that clients learn to skip what they don't know;
       never the one that was asked for, or the packet would have to be discarded (section 6.2). */
    for (size_t i = 0; i < sizeof reserved; i++) {
        reserved[i] = (reserved[i] & 0xf0) | 0x0a;
    }
    reserved[0] ^= memcmp(reserved,
                          (const uint8_t[]){(uint8_t)(first->version >> 24), (uint8_t)(first->version >> 16),
                                            (uint8_t)(first->version >> 8), (uint8_t)first->version},
                          4) == 0
                       ? 0x10
                       : 0;
    memcpy(packet + used, reserved, sizeof reserved);
    ve_engine_answer(engine, packet, used + 4, train);
    ve_verdict(engine, VE_verdict_version_negotiated);
}

/* --- the decision --- */

bool ve_read_varint(const uint8_t *data, size_t length, size_t *offset, uint64_t *value) {
    if (*offset >= length) {
        return false;
    }
    size_t size = (size_t)1 << (data[*offset] >> 6);
    if (size > length - *offset) {
        return false;
    }
    *value = data[*offset] & 0x3f;
    for (size_t i = 1; i < size; i++) {
        *value = *value << 8 | data[*offset + i];
    }
    *offset += size;
    return true;
}

/* Where the token of an Initial is. False: the packet doesn't fit in the datagram. */
static bool read_token(ve_first_packet *first, const uint8_t *data, size_t length, size_t offset) {
    uint64_t token_length;
    uint64_t rest;
    if (!ve_read_varint(data, length, &offset, &token_length) || token_length > length - offset) {
        return false;
    }
    first->token = data + offset;
    first->token_length = (size_t)token_length;
    offset += (size_t)token_length;
    /* A packet number and the sample of header protection (RFC 9001 section 5.4.2) need 20 bytes. */
    return ve_read_varint(data, length, &offset, &rest) && rest >= 20 && rest <= length - offset;
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
            hand_over(engine, worker, train, data, length);
            return;
        }
    }
    /* The trailer alone can be forged by chance; a reset speaks for the owner, so the whole id must be ours. */
    if (length - 1 < SHORTEST_RESET || !ve_cid_open(&engine->cids, cid, VE_CID_LENGTH, &node_id) ||
        node_id != engine->node_id) {
        ve_verdict(engine, VE_verdict_dropped_unknown_cid);
        return;
    }
    reset(engine, train, cid, length);
}

static void demux_long(ve_engine *engine, const ve_train *train, const uint8_t *data, size_t length) {
    bool forwarded = train->received_ns != 0;
    ve_first_packet first = {0};
    if (length < 7) {
        ve_verdict(engine, VE_verdict_dropped_malformed);
        return;
    }
    first.version = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
    /* RFC 8999 section 5.1: two ids with their lengths, true of every version. */
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
            negotiate_version(engine, train, &first);
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
            hand_over(engine, worker, train, data, length);
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
