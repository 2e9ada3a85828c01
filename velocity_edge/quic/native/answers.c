/* Datagrams without a connection: handover to another worker, stateless reset, Version Negotiation. */
#include "demux.h"

enum {
    LONGEST_RESET = 43,
    HANDOVER_VERSION = 1,
    HANDOVER_HEADER = 52,
};

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

void ve_hand_over(ve_engine *engine, int owner, const ve_train *train, const uint8_t *data, size_t length) {
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

void ve_stateless_reset(ve_engine *engine, const ve_train *train, const uint8_t *cid, size_t length) {
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

/* RFC 9000 section 17.2.1: the connection IDs are swapped. ngtcp2 cannot write it, because they may be longer than
 * version 1 allows. */
void ve_negotiate_version(ve_engine *engine, const ve_train *train, const ve_first_packet *first) {
    uint8_t packet[7 + 2 * 255 + 8];
    uint8_t reserved[4];
    size_t used = 0;
    if (!ve_rate_allow(&engine->negotiations, engine->limits.max_version_negotiations_per_s, engine->now_ns) ||
        ve_random(packet, 1) != 0 || ve_random(reserved, sizeof reserved) != 0) {
        ve_verdict(engine, VE_verdict_dropped_version);
        return;
    }
    packet[used++] |= 0xc0; /* also the fixed bit, for those who demultiplex QUIC by it (section 17.2.1) */
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
    /* A reserved version of the form 0x?a?a?a?a (section 15), so that clients learn to ignore unknown versions. It
       must not be the version that the client sent, or the client would discard the packet (section 6.2). */
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
