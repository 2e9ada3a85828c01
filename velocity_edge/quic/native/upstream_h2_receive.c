/* What nghttp2 calls for received frames: heads, bodies, trailers, and the ends of streams.
 *
 * Long because the session at the end needs all callbacks: each one is short and independent. */
#include "upstream_h2.h"

#include "connection.h"
#include "http.h"
#include "stream.h"

enum { MOST_FIELDS = 256 };

static ve_h2_stream *stream_of(nghttp2_session *session, int32_t id) {
    ve_h2_stream *stream = nghttp2_session_get_stream_user_data(session, id);
    return stream != NULL && stream->attempt != NULL ? stream : NULL;
}

/* Every frame of a known type: those that carry something end a run of empty ones. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *head, void *user) {
    ve_h2 *h2 = user;
    (void)session;
    if ((head->type == NGHTTP2_DATA || head->type == NGHTTP2_HEADERS) && head->length > 0) {
        h2->empty_frames = 0;
        h2->empty_bytes = 0;
    } else if (++h2->empty_frames > VE_H2_EMPTY_FRAMES) {
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    ve_h2_stream *stream = stream_of(session, frame->hd.stream_id);
    (void)user;
    if (stream != NULL) {
        ve_h2_section_clear(stream);
    }
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
    ve_h2 *h2 = user;
    ve_h2_stream *stream = stream_of(session, frame->hd.stream_id);
    (void)flags;
    if (stream == NULL) {
        return 0;
    }
    if (name_length == 7 && memcmp(name, ":status", 7) == 0) {
        stream->status = 0;
        for (size_t i = 0; i < value_length; i++) {
            stream->status = stream->status * 10 + (value[i] - '0'); /* nghttp2 accepts three digits only */
        }
        return 0;
    }
    if (!ve_h2_section_add(stream, (ve_text){(const char *)name, name_length},
                           (ve_text){(const char *)value, value_length})) {
        ve_h2_refuse(h2, stream, NGHTTP2_ENHANCE_YOUR_CALM, VE_INVALID, "the fields of the response are too large");
    }
    return 0;
}

static void head(ve_h2 *h2, ve_h2_stream *stream, bool end) {
    ve_attempt *attempt = stream->attempt;
    ve_field fields[MOST_FIELDS];
    int status = stream->status;
    if (stream->count > MOST_FIELDS || status < 100 || status > 599) {
        ve_h2_refuse(h2, stream, NGHTTP2_PROTOCOL_ERROR, VE_INVALID,
                     stream->count > MOST_FIELDS ? "too many fields in the response" : "a status that does not exist");
        return;
    }
    for (size_t i = 0; i < stream->count; i++) {
        const ve_h2_field *field = &stream->fields[i];
        fields[i] = (ve_field){.name = {stream->text + field->name, field->name_length},
                               .value = {stream->text + field->value, field->value_length}};
    }
    stream->tunnel = attempt->websocket && status >= 200 && status < 300;
    const char *why = ve_attempt_head(attempt, stream->tunnel ? 200 : status, fields, stream->count, end);
    if (why != NULL) {
        ve_h2_refuse(h2, stream, NGHTTP2_PROTOCOL_ERROR, VE_INVALID, why);
    }
}

/* They end the stream, which nghttp2 has checked. Those that HTTP/3 does not permit after a body are left out (RFC 9110
 * section 6.5.1). */
static void trailers(ve_h2 *h2, ve_h2_stream *stream) {
    nghttp3_nv fields[MOST_FIELDS];
    size_t n = 0;
    for (size_t i = 0; i < stream->count && n < MOST_FIELDS; i++) {
        const ve_h2_field *field = &stream->fields[i];
        const uint8_t *name = (const uint8_t *)stream->text + field->name;
        if (ve_message_may_trail(name, field->name_length)) {
            fields[n++] = (nghttp3_nv){.name = (uint8_t *)(uintptr_t)name,
                                       .value = (uint8_t *)stream->text + field->value,
                                       .namelen = field->name_length,
                                       .valuelen = field->value_length};
        }
    }
    ve_h2_complete(h2, stream, fields, n);
}

/* END_STREAM. */
static void at_end(ve_h2 *h2, ve_h2_stream *stream) {
    ve_attempt *attempt = stream->attempt;
    if (!attempt->head_sent) {
        ve_h2_refuse(h2, stream, NGHTTP2_PROTOCOL_ERROR, VE_INVALID, "the stream ended before the response");
    } else if (stream->tunnel && !stream->request_ended) {
        stream->tunnel_end = true; /* the other direction goes on */
        attempt->stream->ended = true;
        ve_http_resume(attempt->stream);
    } else {
        ve_h2_complete(h2, stream, NULL, 0);
    }
}

static void goaway(ve_h2 *h2, int32_t last_id) {
    h2->upstream->retiring = true;
    for (ve_h2_stream *stream = h2->streams; stream != NULL; stream = stream->next) {
        if (stream->attempt != NULL && stream->id > last_id) {
            stream->attempt->reused = true; /* not processed, the same as a connection that was closed before */
        }
    }
    ve_h2_later(h2);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    ve_h2 *h2 = user;
    if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
        h2->settings = true;
        ve_h2_later(h2);
        return 0;
    }
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        goaway(h2, frame->goaway.last_stream_id);
        return 0;
    }
    ve_h2_stream *stream = stream_of(session, frame->hd.stream_id);
    if (stream == NULL || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) {
        return 0;
    }
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_HEADERS) {
        if (stream->attempt->head_sent) {
            trailers(h2, stream);
        } else {
            head(h2, stream, end);
        }
        if (stream->attempt != NULL) {
            ve_h2_section_clear(stream);
        }
    }
    if (end && stream->attempt != NULL) {
        at_end(h2, stream);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length,
                   void *user) {
    ve_h2 *h2 = user;
    ve_h2_stream *stream = stream_of(session, id);
    bool failed = false;
    (void)flags;
    nghttp2_session_consume_connection(session, length);
    if (stream == NULL) {
        nghttp2_session_consume_stream(session, id, length);
        return 0;
    }
    ve_attempt_data(stream->attempt, data, length, NULL, &failed);
    if (failed) {
        ve_h2_refuse(h2, stream, NGHTTP2_INTERNAL_ERROR, VE_TRUNCATED, "no memory");
        return 0;
    }
    stream->unconsumed += length;
    if (!ve_attempt_is_behind(stream->attempt)) {
        nghttp2_session_consume_stream(session, id, stream->unconsumed);
        stream->unconsumed = 0;
    }
    return 0;
}

/* nghttp2 would leave it out and pass on the rest. */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                             size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags, void *user) {
    ve_h2_stream *stream = stream_of(session, frame->hd.stream_id);
    (void)name;
    (void)name_length;
    (void)value;
    (void)value_length;
    (void)flags;
    if (stream != NULL) {
        ve_h2_refuse(user, stream, NGHTTP2_PROTOCOL_ERROR, VE_INVALID, "a field of the response is invalid");
    }
    return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    ve_h2 *h2 = user;
    ve_h2_stream *stream;
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
        h2->broken = true;
    } else if (frame->hd.type == NGHTTP2_RST_STREAM && (stream = stream_of(session, frame->hd.stream_id)) != NULL) {
        stream->invalid = true; /* we detach before: so it was nghttp2 that found an error */
    } else if (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) {
        h2->empty_frames = 0; /* WINDOW_UPDATEs are due */
        h2->empty_bytes = 0;
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user) {
    ve_h2 *h2 = user;
    ve_h2_stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream == NULL) {
        return 0;
    }
    ve_attempt *attempt = stream->attempt;
    if (attempt != NULL && stream->tunnel_end && stream->request_ended) {
        ve_h2_detach(stream);
        ve_attempt_complete(attempt, NULL, 0);
    } else if (attempt != NULL) {
        ve_h2_detach(stream);
        if (code == NGHTTP2_REFUSED_STREAM) {
            attempt->reused = true; /* it was not processed (RFC 9113 section 8.7) */
        }
        bool invalid = stream->invalid || (!attempt->head_sent && code == NGHTTP2_NO_ERROR);
        ve_attempt_end(attempt, invalid ? VE_INVALID : VE_CLOSED_EARLY,
                       invalid                          ? "the response is invalid"
                       : code == NGHTTP2_REFUSED_STREAM ? "the upstream refused the stream"
                                                        : "the upstream reset the stream");
    }
    ve_h2_stream_free(h2, stream);
    ve_h2_later(h2);
    return 0;
}

nghttp2_session *ve_h2_session(ve_h2 *h2) {
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    nghttp2_session *session = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) {
        return NULL;
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    if (nghttp2_option_new(&option) == 0) {
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_no_closed_streams(option, 1);
        nghttp2_option_set_peer_max_concurrent_streams(option, VE_H2_STREAMS);
        nghttp2_option_set_max_send_header_block_length(option, 1024 * 1024); /* bounded by the client's limits */
        if (nghttp2_session_client_new2(&session, callbacks, h2, option) != 0) {
            session = NULL;
        }
        nghttp2_option_del(option);
    }
    nghttp2_session_callbacks_del(callbacks);
    return session;
}
