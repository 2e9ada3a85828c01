/* Requests on an HTTP/2 connection: their fields, bodies and trailers, and when an attempt is complete. */
#include "upstream_h2.h"

#include "stream.h"

enum {
    MOST_FIELDS = 600, /* more than fit into a client's field section */
    PSEUDO = 5,
    MOST_TRAILERS = 600,
};

static nghttp2_nv pair(const char *name, size_t name_length, const char *value, size_t value_length) {
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = name_length,
                        .valuelen = value_length,
                        .flags = NGHTTP2_NV_FLAG_NONE}; /* nghttp2 copies */
}

static nghttp2_nv pseudo(const char *name, ve_text value) {
    return pair(name, strlen(name), value.at, value.length);
}

static bool is(ve_text text, const char *word) {
    return text.length == strlen(word) && memcmp(text.at, word, text.length) == 0;
}

/* Values of clients that share the connection: another one's could be guessed from how they compress (RFC 7541 section
 * 7.1.3). */
static bool is_secret(ve_text name) {
    return is(name, "authorization") || is(name, "cookie") || is(name, "proxy-authorization");
}

static void end_request(ve_h2_stream *stream) {
    if (!stream->request_ended) {
        stream->request_ended = true;
        ve_attempt_request_done(stream->attempt);
    }
}

/* Trailers, when there are any: 1 submitted, 0 none, -1 no memory. */
static int submit_trailers(ve_h2 *h2, ve_h2_stream *stream) {
    nghttp2_nv fields[MOST_TRAILERS];
    size_t n = 0;
    PyObject *trailers = stream->attempt->stream->trailers; /* a list of valid pairs */
    for (Py_ssize_t i = 0; trailers != NULL && i < PyList_GET_SIZE(trailers) && n < MOST_TRAILERS; i++) {
        PyObject *name = PyTuple_GET_ITEM(PyList_GET_ITEM(trailers, i), 0);
        PyObject *value = PyTuple_GET_ITEM(PyList_GET_ITEM(trailers, i), 1);
        fields[n++] = pair(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name), PyBytes_AS_STRING(value),
                           (size_t)PyBytes_GET_SIZE(value));
    }
    if (n == 0) {
        return 0;
    }
    return nghttp2_submit_trailer(h2->session, stream->id, fields, n) == 0 ? 1 : -1;
}

/* nghttp2 makes a DATA frame of up to `length` bytes, for which there is window. */
static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                         nghttp2_data_source *source, void *user) {
    ve_h2_stream *stream = source->ptr;
    size_t waiting;
    bool end;
    (void)session;
    (void)id;
    if (stream->attempt == NULL) {
        return NGHTTP2_ERR_DEFERRED; /* RST_STREAM is on its way */
    }
    const uint8_t *body = ve_attempt_body(stream->attempt, &waiting, &end);
    size_t n = waiting < length ? waiting : length;
    if (n == 0 && !end) {
        return NGHTTP2_ERR_DEFERRED;
    }
    memcpy(buffer, body, n);
    ve_attempt_sent(stream->attempt, n);
    if (n == waiting && end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        int trailers = stream->tunnel ? 0 : submit_trailers(user, stream);
        if (trailers < 0) {
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
        if (trailers > 0) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        }
        end_request(stream);
        ve_h2_later(user); /* a tunnel may be complete */
    }
    return (ssize_t)n;
}

bool ve_h2_submit(ve_h2 *h2, ve_h2_stream *stream) {
    ve_attempt *attempt = stream->attempt;
    nghttp2_nv fields[PSEUDO + MOST_FIELDS];
    size_t n = 0;
    size_t waiting;
    bool end;
    bool tls = h2->upstream->tls != NULL;
    nghttp2_data_provider provider = {.source = {.ptr = stream}, .read_callback = read_body};
    if (attempt->field_count > MOST_FIELDS) {
        ve_h2_refuse(h2, stream, NGHTTP2_CANCEL, VE_CONNECT_FAILED, "too many fields in the request");
        return false;
    }
    if (attempt->websocket) {
        fields[n++] = pseudo(":method", (ve_text){"CONNECT", 7});
        fields[n++] = pseudo(":protocol", (ve_text){"websocket", 9});
    } else {
        fields[n++] = pseudo(":method", attempt->method);
    }
    fields[n++] = pseudo(":scheme", tls ? (ve_text){"https", 5} : (ve_text){"http", 4});
    if (attempt->authority.length > 0) {
        fields[n++] = pseudo(":authority", attempt->authority);
    }
    fields[n++] = pseudo(":path", attempt->target);
    for (size_t i = 0; i < attempt->field_count; i++) {
        const ve_field *field = &attempt->fields[i];
        fields[n] = pair(field->name.at, field->name.length, field->value.at, field->value.length);
        fields[n++].flags = is_secret(field->name) ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE;
    }
    ve_attempt_body(attempt, &waiting, &end);
    bool nothing = waiting == 0 && end && attempt->stream->trailers == NULL && !attempt->websocket;
    stream->id = nghttp2_submit_request(h2->session, NULL, fields, n, nothing ? NULL : &provider, stream);
    if (stream->id < 0) {
        /* Its stream ids are used up, after 2^30 requests: another connection has them. */
        stream->id = 0;
        h2->upstream->retiring = true;
        attempt->reused = true;
        ve_h2_refuse(h2, stream, NGHTTP2_CANCEL, VE_CLOSED_EARLY, "no room for a request on the connection");
        return false;
    }
    if (nothing) {
        end_request(stream);
    }
    return true;
}

void ve_h2_complete(ve_h2 *h2, ve_h2_stream *stream, const nghttp3_nv *trailers, size_t count) {
    ve_attempt *attempt = stream->attempt;
    if (!stream->request_ended) {
        /* The rest of the request is not needed (RFC 9113 section 8.1). */
        nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
    }
    ve_h2_detach(stream);
    ve_attempt_complete(attempt, trailers, count);
    ve_h2_later(h2);
}
