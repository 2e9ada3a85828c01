/* The peer's unidirectional streams: control, QPACK encoder and decoder, and what we do not know (RFC 9114 section 6.2). */
#include <stdlib.h>

#include "connection.h"
#include "engine.h"
#include "http.h"
#include "stream.h"

typedef enum ve_uni_kind { VE_UNI_CONTROL, VE_UNI_PUSH, VE_UNI_ENCODER, VE_UNI_DECODER, VE_UNI_OTHER } ve_uni_kind;

struct ve_uni {
    ve_uni *next;
    int64_t id;
    bool typed; /* its type is known */
    ve_uni_kind kind;
    ve_varint varint;
    /* Of the control stream. */
    bool in_frame_head; /* the type is known, the length not yet */
    bool in_frame;
    uint64_t frame_type;
    uint64_t frame_left;
    uint8_t *payload; /* NULL: the frame is thrown away */
    size_t payload_length;
    /* Of the decoder stream: a Stream Cancellation, behind its first byte; how many more are taken. */
    unsigned integer_left;
};

struct ve_early_priority {
    ve_early_priority *next;
    int64_t id;
    nghttp3_pri priority;
};

enum {
    /* A 62-bit integer behind a prefix of 6 bits (RFC 9204 section 4.1.1). */
    MAX_INTEGER_BYTES = 9,
};

static bool is_critical(const ve_uni *uni) {
    return uni->typed && uni->kind != VE_UNI_OTHER;
}

/* --- priorities that come before their request --- */

static ve_stream *find_stream(const ve_connection *connection, int64_t id) {
    ve_stream *stream = connection->streams;
    while (stream != NULL && stream->id != id) {
        stream = stream->next;
    }
    return stream;
}

static void unlink_first_priority(ve_peer_http *peer) {
    ve_early_priority *first = peer->priorities;
    peer->priorities = first->next;
    if (peer->priorities == NULL) {
        peer->last_priority = NULL;
    }
    peer->priority_count--;
    free(first);
}

/* As many as the peer may have streams at once; the oldest gives way (RFC 9218 section 7.1 allows to forget). */
static int remember_priority(ve_connection *connection, int64_t id, const nghttp3_pri *priority) {
    ve_peer_http *peer = &connection->peer;
    for (ve_early_priority *p = peer->priorities; p != NULL; p = p->next) {
        if (p->id == id) {
            p->priority = *priority;
            return 0;
        }
    }
    ve_early_priority *entry = malloc(sizeof *entry);
    if (entry == NULL) {
        return NGTCP2_ERR_NOMEM;
    }
    *entry = (ve_early_priority){.id = id, .priority = *priority};
    if (peer->last_priority != NULL) {
        peer->last_priority->next = entry;
    } else {
        peer->priorities = entry;
    }
    peer->last_priority = entry;
    peer->priority_count++;
    if (peer->priority_count > connection->streams_at_once) {
        unlink_first_priority(peer);
    }
    return 0;
}

bool ve_priority_take(ve_connection *connection, int64_t id, nghttp3_pri *priority) {
    ve_peer_http *peer = &connection->peer;
    ve_early_priority *before = NULL;
    for (ve_early_priority *p = peer->priorities; p != NULL; before = p, p = p->next) {
        if (p->id != id) {
            continue;
        }
        *priority = p->priority;
        if (before == NULL) {
            unlink_first_priority(peer);
            return true;
        }
        before->next = p->next;
        if (peer->last_priority == p) {
            peer->last_priority = before;
        }
        peer->priority_count--;
        free(p);
        return true;
    }
    return false;
}

static int on_priority_update(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    ve_varint element = {0};
    if (!ve_varint_read(&element, &at, end)) {
        return ve_http_fail(connection, VE_H3_FRAME_ERROR, "PRIORITY_UPDATE without an element");
    }
    /* Bits of a stream id: 0 the server began it, 1 unidirectional. */
    if ((element.value & 3) != 0 || element.value / 4 >= connection->max_streams_bidi) {
        return ve_http_fail(connection, VE_H3_ID_ERROR, "PRIORITY_UPDATE of no request that may be");
    }
    nghttp3_pri priority = {.urgency = NGHTTP3_DEFAULT_URGENCY};
    int64_t id = (int64_t)element.value;
    if (nghttp3_pri_parse_priority(&priority, at, (size_t)(end - at)) != 0) {
        return 0; /* a signal that can't be read is none */
    }
    ve_stream *stream = find_stream(connection, id);
    if (stream == NULL || !stream->begun) {
        return remember_priority(connection, id, &priority);
    }
    stream->prioritised = true;
    if (nghttp3_conn_set_server_stream_priority(connection->http, id, &priority) == NGHTTP3_ERR_NOMEM) {
        return NGTCP2_ERR_NOMEM;
    }
    ve_connection_mark(connection);
    return 0;
}

/* --- frames of the control stream --- */

static int on_settings(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    uint64_t seen = 0; /* of the ids below 64, which are all that we know */
    while (at < end) {
        ve_varint id = {0};
        ve_varint value = {0};
        if (!ve_varint_read(&id, &at, end) || !ve_varint_read(&value, &at, end)) {
            return ve_http_fail(connection, VE_H3_FRAME_ERROR, "SETTINGS that end within a setting");
        }
        if (id.value >= 64) {
            continue;
        }
        bool twice = (seen >> id.value & 1) != 0;
        seen |= 1ull << id.value;
        /* HTTP/2's, and no boolean where one is wanted (RFC 9114 section 7.2.4.1, RFC 9220, RFC 9297). */
        bool reserved = id.value == 0 || (id.value >= 2 && id.value <= 5);
        bool boolean = id.value == 0x08 || id.value == 0x33;
        if (twice || reserved || (boolean && value.value > 1)) {
            return ve_http_fail(connection, VE_H3_SETTINGS_ERROR, "SETTINGS that can't be");
        }
    }
    return 0;
}

/* Nothing is ever pushed: these ids are checked and not used. */
static int on_push_or_goaway(ve_connection *connection, uint64_t type, const uint8_t *at, const uint8_t *end) {
    ve_peer_http *peer = &connection->peer;
    ve_varint id = {0};
    if (!ve_varint_read(&id, &at, end) || at != end) {
        return ve_http_fail(connection, VE_H3_FRAME_ERROR, "a frame of one id holds something else");
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
    return wrong ? ve_http_fail(connection, VE_H3_ID_ERROR, "an id that can't be") : 0;
}

static int end_frame(ve_connection *connection, ve_uni *uni) {
    const uint8_t *end = uni->payload + uni->payload_length;
    int rv;
    switch (uni->frame_type) {
    case VE_FRAME_SETTINGS:
        rv = on_settings(connection, uni->payload, end);
        break;
    case VE_FRAME_PRIORITY_UPDATE:
        rv = on_priority_update(connection, uni->payload, end);
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
        return ve_http_fail(connection, VE_H3_MISSING_SETTINGS, "the first frame is not SETTINGS");
    }
    if (ve_http_is_foreign(uni->frame_type, true) || (connection->peer.settings && settings)) {
        return ve_http_fail(connection, VE_H3_FRAME_UNEXPECTED, "frame that is not for the control stream");
    }
    connection->peer.settings = true;
    uni->in_frame = uni->frame_left > 0;
    uni->payload_length = 0;
    switch (uni->frame_type) {
    case VE_FRAME_PRIORITY_UPDATE_PUSH:
        return ve_http_fail(connection, VE_H3_ID_ERROR, "PRIORITY_UPDATE of a push"); /* RFC 9218 section 7.2 */
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

static int read_control(ve_connection *connection, ve_uni *uni, const uint8_t *at, const uint8_t *end) {
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

/* --- QPACK (RFC 9204 sections 4.3 and 4.4), where neither side has a table --- */

static int read_encoder(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++) {
        if (*at != 0x20) { /* Set Dynamic Table Capacity to 0 */
            return ve_http_fail(connection, VE_QPACK_ENCODER_STREAM_ERROR, "a dynamic table was not offered");
        }
    }
    return 0;
}

static int read_decoder(ve_connection *connection, ve_uni *uni, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at++) {
        if (uni->integer_left > 0) {
            uni->integer_left = *at & 0x80 ? uni->integer_left - 1 : 0;
            if (uni->integer_left == 0 && *at & 0x80) {
                return ve_http_fail(connection, VE_QPACK_DECODER_STREAM_ERROR, "integer of more than 62 bits");
            }
        } else if ((*at & 0xc0) != 0x40) { /* all but Stream Cancellation speak of a table */
            return ve_http_fail(connection, VE_QPACK_DECODER_STREAM_ERROR, "no dynamic table is in use");
        } else if ((*at & 0x3f) == 0x3f) {
            uni->integer_left = MAX_INTEGER_BYTES;
        }
    }
    return 0;
}

/* --- streams --- */

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
    while (connection->peer.priorities != NULL) {
        unlink_first_priority(&connection->peer);
    }
}

static int closed_critical(ve_connection *connection) {
    return ve_http_fail(connection, VE_H3_CLOSED_CRITICAL_STREAM, "a critical stream was closed");
}

static int begin_kind(ve_connection *connection, ve_uni *uni, bool fin) {
    uint64_t type = uni->varint.value;
    uni->typed = true;
    uni->kind = type <= VE_UNI_DECODER ? (ve_uni_kind)type : VE_UNI_OTHER;
    if (uni->kind == VE_UNI_OTHER) {
        /* RFC 9114 section 6.2.3: unknown types are no error. */
        return fin ? 0 : ngtcp2_conn_shutdown_stream_read(connection->quic, 0, uni->id, VE_H3_STREAM_CREATION_ERROR);
    }
    unsigned bit = 1u << uni->kind;
    if (uni->kind == VE_UNI_PUSH || connection->peer.kinds & bit) {
        return ve_http_fail(connection, VE_H3_STREAM_CREATION_ERROR, "a stream of this type may not be opened");
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
            rv = read_control(connection, uni, at, end);
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
