/* The peer's control stream: SETTINGS, GOAWAY, push IDs, PRIORITY_UPDATE (RFC 9114 section 7.2). */
#include "uni.h"

#include <stdlib.h>

#include "connection.h"
#include "engine.h"

static int on_settings(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    uint64_t seen = 0; /* identifiers below 64 that were seen; all known ones are */
    while (at < end) {
        ve_varint id = {0};
        ve_varint value = {0};
        if (!ve_varint_read(&id, &at, end) || !ve_varint_read(&value, &at, end)) {
            return ve_http_fail(connection, VE_H3_FRAME_ERROR, "SETTINGS frame ends within a setting");
        }
        if (id.value >= 64) {
            continue;
        }
        bool twice = (seen >> id.value & 1) != 0;
        seen |= 1ull << id.value;
        /* Reserved for HTTP/2, or not a boolean where one is required (RFC 9114 section 7.2.4.1, RFC 9220, RFC
           9297). */
        bool reserved = id.value == 0 || (id.value >= 2 && id.value <= 5);
        bool boolean = id.value == 0x08 || id.value == 0x33;
        if (twice || reserved || (boolean && value.value > 1)) {
            return ve_http_fail(connection, VE_H3_SETTINGS_ERROR, "invalid, reserved or repeated setting");
        }
    }
    return 0;
}

/* This server never pushes: the IDs are checked and not used. */
static int on_push_or_goaway(ve_connection *connection, uint64_t type, const uint8_t *at, const uint8_t *end) {
    ve_peer_http *peer = &connection->peer;
    ve_varint id = {0};
    if (!ve_varint_read(&id, &at, end) || at != end) {
        return ve_http_fail(connection, VE_H3_FRAME_ERROR, "frame does not contain exactly one ID");
    }
    bool wrong = true; /* CANCEL_PUSH: no push was promised (RFC 9114 section 7.2.3) */
    if (type == VE_FRAME_GOAWAY) {
        wrong = peer->goaway_received && id.value > peer->goaway;
        peer->goaway_received = true;
        peer->goaway = id.value;
    } else if (type == VE_FRAME_MAX_PUSH_ID) {
        wrong = peer->max_push_id_received && id.value < peer->max_push_id;
        peer->max_push_id_received = true;
        peer->max_push_id = id.value;
    }
    return wrong ? ve_http_fail(connection, VE_H3_ID_ERROR, "invalid push ID or GOAWAY ID") : 0;
}

static int end_frame(ve_connection *connection, ve_uni *uni) {
    const uint8_t *end = uni->payload + uni->payload_length;
    int rv;
    switch (uni->frame_type) {
    case VE_FRAME_SETTINGS:
        rv = on_settings(connection, uni->payload, end);
        break;
    case VE_FRAME_PRIORITY_UPDATE:
        rv = ve_priority_update(connection, uni->payload, end);
        break;
    default:
        rv = on_push_or_goaway(connection, uni->frame_type, uni->payload, end);
    }
    free(uni->payload);
    uni->payload = NULL;
    return rv;
}

static int begin_frame(ve_connection *connection, ve_uni *uni) {
    bool settings = uni->frame_type == VE_FRAME_SETTINGS;
    if (!connection->peer.settings && !settings) {
        return ve_http_fail(connection, VE_H3_MISSING_SETTINGS, "first frame on the control stream is not SETTINGS");
    }
    if (ve_http_is_foreign(uni->frame_type, true) || (connection->peer.settings && settings)) {
        return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "frame not allowed on the control stream");
    }
    connection->peer.settings = true;
    uni->in_frame = uni->frame_left > 0;
    uni->payload_length = 0;
    switch (uni->frame_type) {
    case VE_FRAME_PRIORITY_UPDATE_PUSH:
        return ve_http_fail(connection, VE_H3_ID_ERROR, "PRIORITY_UPDATE for a push"); /* RFC 9218 section 7.2 */
    case VE_FRAME_SETTINGS:
    case VE_FRAME_GOAWAY:
    case VE_FRAME_MAX_PUSH_ID:
    case VE_FRAME_CANCEL_PUSH:
    case VE_FRAME_PRIORITY_UPDATE:
        if (uni->frame_left > connection->engine->limits.max_control_frame_bytes) {
            return ve_http_fail(connection, VE_H3_EXCESSIVE_LOAD, "control frame too large");
        }
        uni->payload = malloc(uni->frame_left > 0 ? (size_t)uni->frame_left : 1);
        if (uni->payload == NULL) {
            return NGTCP2_ERR_NOMEM;
        }
        return uni->in_frame ? 0 : end_frame(connection, uni);
    default:
        return 0;
    }
}

int ve_control_read(ve_connection *connection, ve_uni *uni, const uint8_t *at, const uint8_t *end) {
    int rv = 0;
    while (at < end && rv == 0) {
        if (!uni->in_frame && !uni->in_frame_head) {
            if (ve_varint_read(&uni->varint, &at, end)) {
                uni->frame_type = uni->varint.value;
                uni->in_frame_head = true;
            }
            continue;
        }
        if (uni->in_frame_head) {
            if (ve_varint_read(&uni->varint, &at, end)) {
                uni->frame_left = uni->varint.value;
                uni->in_frame_head = false;
                rv = begin_frame(connection, uni);
            }
            continue;
        }
        size_t length = (size_t)(end - at) < uni->frame_left ? (size_t)(end - at) : (size_t)uni->frame_left;
        if (uni->payload != NULL) {
            memcpy(uni->payload + uni->payload_length, at, length);
            uni->payload_length += length;
        }
        at += length;
        uni->frame_left -= length;
        uni->in_frame = uni->frame_left > 0;
        if (!uni->in_frame && uni->payload != NULL) {
            rv = end_frame(connection, uni);
        }
    }
    return rv;
}
