/* Priorities (RFC 9218): the field of a request, and PRIORITY_UPDATE, which may arrive before its request. */
#include "http.h"

#include <stdlib.h>

#include "connection.h"
#include "section.h"
#include "stream.h"

struct ve_early_priority {
    ve_early_priority *next;
    int64_t id;
    nghttp3_pri priority;
};

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

/* As many as the peer may have open streams; the oldest is dropped (RFC 9218 section 7.1 allows that). */
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

int ve_priority_update(ve_connection *connection, const uint8_t *at, const uint8_t *end) {
    ve_varint element = {0};
    if (!ve_varint_read(&element, &at, end)) {
        return ve_http_fail(connection, VE_H3_FRAME_ERROR, "PRIORITY_UPDATE without a stream ID");
    }
    /* Bits of a stream ID: 0 server-initiated, 1 unidirectional. */
    if ((element.value & 3) != 0 || element.value / 4 >= connection->max_streams_bidi) {
        return ve_http_fail(connection, VE_H3_ID_ERROR, "PRIORITY_UPDATE for a stream that is not a possible request");
    }
    nghttp3_pri priority = {.urgency = NGHTTP3_DEFAULT_URGENCY};
    int64_t id = (int64_t)element.value;
    if (nghttp3_pri_parse_priority(&priority, at, (size_t)(end - at)) != 0) {
        return 0; /* a priority that cannot be parsed is ignored */
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

/* RFC 9218 section 5. A PRIORITY_UPDATE that arrived before the request overrides its field (section 7.1). */
void ve_priority_of_request(ve_stream *stream, const ve_sections *section, size_t pseudo) {
    ve_connection *connection = stream->connection;
    nghttp3_pri priority = {.urgency = NGHTTP3_DEFAULT_URGENCY};
    bool said = false;
    if (stream->prioritised) {
        return;
    }
    for (size_t i = pseudo; i < section->count; i++) {
        if (section->fields[i].token == NGHTTP3_QPACK_TOKEN_PRIORITY) {
            nghttp3_vec v = nghttp3_rcbuf_get_buf(section->fields[i].value);
            nghttp3_pri parsed = priority;
            if (nghttp3_pri_parse_priority(&parsed, v.base, v.len) != 0) {
                return;
            }
            priority = parsed;
            said = true;
        }
    }
    if (said) {
        nghttp3_conn_set_server_stream_priority(connection->http, stream->id, &priority);
    }
}

void ve_priorities_free(ve_peer_http *peer) {
    while (peer->priorities != NULL) {
        unlink_first_priority(peer);
    }
}
