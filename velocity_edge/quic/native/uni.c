/* The peer's unidirectional streams: control, QPACK encoder and decoder, unknown types (RFC 9114 section 6.2). */
#include "uni.h"

#include <stdlib.h>

#include "connection.h"

enum {
    /* A 62-bit integer after a 6-bit prefix (RFC 9204 section 4.1.1). */
    MAX_INTEGER_BYTES = 9,
};

static bool is_critical(const ve_uni *uni) {
    return uni->typed && uni->kind != VE_UNI_OTHER;
}

static int read_encoder(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++) {
        if (*at != 0x20) { /* Set Dynamic Table Capacity to 0 */
            return ve_http_fail(connection, VE_QPACK_ENCODER_STREAM_ERROR,
                                "instruction for a dynamic table, which was not offered");
        }
    }
    return 0;
}

static int read_decoder(ve_connection *connection, ve_uni *uni, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++) {
        if (uni->integer_left > 0) {
            uni->integer_left = *at & 0x80 ? uni->integer_left - 1 : 0;
            if (uni->integer_left == 0 && *at & 0x80) {
                return ve_http_fail(connection, VE_QPACK_DECODER_STREAM_ERROR, "integer larger than 62 bits");
            }
        } else if ((*at & 0xc0) != 0x40) { /* all but Stream Cancellation refer to a dynamic table */
            return ve_http_fail(connection, VE_QPACK_DECODER_STREAM_ERROR,
                                "acknowledgement for a dynamic table, which is not in use");
        } else if ((*at & 0x3f) == 0x3f) {
            uni->integer_left = MAX_INTEGER_BYTES;
        }
    }
    return 0;
}

int ve_uni_open(ve_connection *connection, int64_t id) {
    ve_uni *uni = calloc(1, sizeof *uni);
    if (uni == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    uni->id = id;
    uni->next = connection->peer.unis;
    connection->peer.unis = uni;
    return ngtcp2_conn_set_stream_user_data(connection->quic, id, uni);
}

void ve_uni_free(ve_connection *connection, ve_uni *uni) {
    ve_uni **at = &connection->peer.unis;
    while (*at != uni) {
        at = &(*at)->next;
    }
    *at = uni->next;
    free(uni->payload);
    free(uni);
}

void ve_peer_http_free(ve_connection *connection) {
    while (connection->peer.unis != NULL) {
        ve_uni_free(connection, connection->peer.unis);
    }
    ve_priorities_free(&connection->peer);
}

static int closed_critical(ve_connection *connection) {
    return ve_http_fail(connection, VE_H3_CLOSED_CRITICAL_STREAM, "a critical stream was closed");
}

static int begin_kind(ve_connection *connection, ve_uni *uni, bool fin) {
    uint64_t type = uni->varint.value;
    uni->typed = true;
    uni->kind = type <= VE_UNI_DECODER ? (ve_uni_kind)type : VE_UNI_OTHER;
    if (uni->kind == VE_UNI_OTHER) {
        /* RFC 9114 section 6.2.3: an unknown type is not an error. */
        return fin ? 0 : ngtcp2_conn_shutdown_stream_read(connection->quic, 0, uni->id, VE_H3_STREAM_CREATION_ERROR);
    }
    unsigned bit = 1u << uni->kind;
    if (uni->kind == VE_UNI_PUSH || connection->peer.kinds & bit) {
        return ve_http_fail(connection, VE_H3_STREAM_CREATION_ERROR,
                            "push stream, or a second critical stream of this type");
    }
    connection->peer.kinds |= bit;
    return 0;
}

int ve_uni_receive(ve_connection *connection, ve_uni *uni, const uint8_t *data, size_t length, bool fin) {
    const uint8_t *at = data;
    const uint8_t *end = data + length;
    int rv = 0;
    if (!uni->typed && ve_varint_read(&uni->varint, &at, end)) {
        rv = begin_kind(connection, uni, fin);
    }
    if (rv == 0 && uni->typed) {
        switch (uni->kind) {
        case VE_UNI_CONTROL:
            rv = ve_control_read(connection, uni, at, end);
            break;
        case VE_UNI_ENCODER:
            rv = read_encoder(connection, at, end);
            break;
        case VE_UNI_DECODER:
            rv = read_decoder(connection, uni, at, end);
            break;
        default:
            break;
        }
    }
    if (rv == 0 && fin && is_critical(uni)) {
        rv = closed_critical(connection);
    }
    if (rv != 0) {
        return rv;
    }
    rv = ngtcp2_conn_extend_max_stream_offset(connection->quic, uni->id, length);
    ngtcp2_conn_extend_max_offset(connection->quic, length);
    return rv;
}

int ve_uni_reset(ve_connection *connection, const ve_uni *uni) {
    return is_critical(uni) ? closed_critical(connection) : 0;
}
