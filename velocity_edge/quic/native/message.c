/* Long because it is the twin of velocity_edge/http/message.py, and can be compared with it rule by rule. */
#include "message.h"

#include <strings.h>

static nghttp3_vec bytes_of(nghttp3_rcbuf *buffer) {
    return nghttp3_rcbuf_get_buf(buffer);
}

static bool is_alpha(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(uint8_t c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_one_of(uint8_t c, const char *set) {
    return c != 0 && strchr(set, c) != NULL;
}

/* RFC 9110 section 5.6.2. */
static bool is_token(uint8_t c) {
    return is_alpha(c) || is_digit(c) || is_one_of(c, "!#$%&'*+-.^_`|~");
}

static bool equals(nghttp3_vec v, const char *text) {
    return v.len == strlen(text) && memcmp(v.base, text, v.len) == 0;
}

/* A token in lower case (RFC 9114 section 4.2). */
static bool is_name(nghttp3_vec v) {
    for (size_t i = 0; i < v.len; i++) {
        if (!is_token(v.base[i]) || (v.base[i] >= 'A' && v.base[i] <= 'Z')) {
            return false;
        }
    }
    return v.len > 0;
}

/* A token in any case: a method, or the protocol of an extended CONNECT. */
static bool is_word(nghttp3_vec v) {
    for (size_t i = 0; i < v.len; i++) {
        if (!is_token(v.base[i])) {
            return false;
        }
    }
    return v.len > 0;
}

/* RFC 9110 section 5.5: no control characters but HTAB, no white space at the ends. */
static bool is_value(nghttp3_vec v) {
    if (v.len == 0) {
        return true;
    }
    uint8_t first = v.base[0];
    uint8_t last = v.base[v.len - 1];
    if (first == ' ' || first == '\t' || last == ' ' || last == '\t') {
        return false;
    }
    unsigned bad = 0;
    for (size_t i = 0; i < v.len; i++) {
        uint8_t c = v.base[i];
        bad |= (c < 0x20 && c != '\t') || c == 0x7f;
    }
    return bad == 0;
}

bool ve_message_is_value(const uint8_t *value, size_t length) {
    nghttp3_vec v = {(uint8_t *)(uintptr_t)value, length};
    return is_value(v);
}

/* RFC 3986 section 3.1. */
static bool is_scheme(nghttp3_vec v) {
    if (v.len == 0 || !is_alpha(v.base[0])) {
        return false;
    }
    for (size_t i = 1; i < v.len; i++) {
        if (!is_alpha(v.base[i]) && !is_digit(v.base[i]) && !is_one_of(v.base[i], "+-.")) {
            return false;
        }
    }
    return true;
}

/* host [ ":" port ] of RFC 3986 section 3.2: user information is deprecated and refused (RFC 9114 section 4.3.1). */
static bool is_authority(nghttp3_vec v, bool *has_port) {
    size_t i = 0;
    if (v.len > 0 && v.base[0] == '[') {
        for (i = 1; i < v.len && (is_hex(v.base[i]) || v.base[i] == ':' || v.base[i] == '.'); i++) {
        }
        if (i < 3 || i == v.len || v.base[i] != ']') {
            return false;
        }
        i++;
    } else {
        for (; i < v.len && v.base[i] != ':'; i++) {
            uint8_t c = v.base[i];
            if (c == '%') {
                if (v.len - i < 3 || !is_hex(v.base[i + 1]) || !is_hex(v.base[i + 2])) {
                    return false;
                }
                i += 2;
            } else if (!is_alpha(c) && !is_digit(c) && !is_one_of(c, "-._~!$&'()*+,;=")) {
                return false;
            }
        }
        if (i == 0) {
            return false;
        }
    }
    *has_port = false;
    if (i == v.len) {
        return true;
    }
    if (v.base[i] != ':' || v.len - i - 1 > 5) {
        return false;
    }
    for (i++; i < v.len; i++) {
        if (!is_digit(v.base[i])) {
            return false;
        }
        *has_port = true;
    }
    return true;
}

/* The path of a target. More than RFC 3986 allows, because browsers send `|` and others unencoded; a fragment is
 * never part of it. Its meaning is up to the handlers. */
static bool is_path(nghttp3_vec v) {
    for (size_t i = 0; i < v.len; i++) {
        uint8_t c = v.base[i];
        if (c <= 0x20 || c == 0x7f || c == '#') {
            return false;
        }
    }
    return v.len > 0 && v.base[0] == '/';
}

static bool read_content_length(nghttp3_vec v, int64_t *out) {
    int64_t value = 0;
    if (v.len == 0 || v.len > 18) {
        return false;
    }
    for (size_t i = 0; i < v.len; i++) {
        if (!is_digit(v.base[i])) {
            return false;
        }
        value = value * 10 + (v.base[i] - '0');
    }
    *out = value;
    return true;
}

/* Rejects connection-specific fields (RFC 9114 section 4.2) and invalid names and values. nghttp3 gives known names
 * a token; other names are checked byte by byte. */
static bool is_field(const nghttp3_qpack_nv *field) {
    nghttp3_vec value = bytes_of(field->value);
    switch (field->token) {
    case NGHTTP3_QPACK_TOKEN_CONNECTION:
    case NGHTTP3_QPACK_TOKEN_KEEP_ALIVE:
    case NGHTTP3_QPACK_TOKEN_PROXY_CONNECTION:
    case NGHTTP3_QPACK_TOKEN_TRANSFER_ENCODING:
    case NGHTTP3_QPACK_TOKEN_UPGRADE:
        return false;
    case NGHTTP3_QPACK_TOKEN_TE:
        return value.len == 8 && strncasecmp((const char *)value.base, "trailers", 8) == 0;
    case -1:
        return is_name(bytes_of(field->name)) && is_value(value);
    default:
        return is_value(value);
    }
}

static bool is_pseudo(const nghttp3_qpack_nv *field) {
    nghttp3_vec name = bytes_of(field->name);
    return name.len > 0 && name.base[0] == ':';
}

static bool take_pseudo(const nghttp3_qpack_nv *field, ve_head *head) {
    const nghttp3_qpack_nv **where;
    switch (field->token) {
    case NGHTTP3_QPACK_TOKEN__METHOD:
        where = &head->method;
        break;
    case NGHTTP3_QPACK_TOKEN__SCHEME:
        where = &head->scheme;
        break;
    case NGHTTP3_QPACK_TOKEN__AUTHORITY:
        where = &head->authority;
        break;
    case NGHTTP3_QPACK_TOKEN__PATH:
        where = &head->path;
        break;
    case NGHTTP3_QPACK_TOKEN__PROTOCOL:
        where = &head->protocol;
        break;
    default:
        return false;
    }
    if (*where != NULL) {
        return false;
    }
    *where = field;
    head->pseudo++;
    return true;
}

static bool same(const nghttp3_qpack_nv *a, const nghttp3_qpack_nv *b) {
    nghttp3_vec x = bytes_of(a->value);
    nghttp3_vec y = bytes_of(b->value);
    return x.len == y.len && memcmp(x.base, y.base, x.len) == 0;
}

/* RFC 9114 section 4.3.1; section 4.4 for CONNECT, RFC 8441 section 4 for extended CONNECT. */
static bool is_target(const ve_head *head) {
    const nghttp3_qpack_nv *authority = head->authority != NULL ? head->authority : head->host;
    bool has_port = false;
    if (head->method == NULL || !is_word(bytes_of(head->method->value)) || authority == NULL ||
        !is_authority(bytes_of(authority->value), &has_port) || (head->host != NULL && !same(authority, head->host))) {
        return false;
    }
    nghttp3_vec method = bytes_of(head->method->value);
    if (head->protocol != NULL) {
        /* A tunnel has no content, and no length that an upstream could count with. */
        if (!equals(method, "CONNECT") || !is_word(bytes_of(head->protocol->value)) || head->content_length >= 0) {
            return false;
        }
    } else if (equals(method, "CONNECT")) {
        return head->scheme == NULL && head->path == NULL && head->authority != NULL && has_port;
    }
    if (head->scheme == NULL || !is_scheme(bytes_of(head->scheme->value)) || head->path == NULL) {
        return false;
    }
    nghttp3_vec path = bytes_of(head->path->value);
    return is_path(path) || (equals(path, "*") && equals(method, "OPTIONS"));
}

bool ve_message_request(const nghttp3_qpack_nv *fields, size_t count, ve_head *head) {
    *head = (ve_head){.content_length = -1};
    for (size_t i = 0; i < count; i++) {
        const nghttp3_qpack_nv *field = &fields[i];
        if (is_pseudo(field)) {
            if (i > head->pseudo || !take_pseudo(field, head)) {
                return false;
            }
            continue;
        }
        if (!is_field(field)) {
            return false;
        }
        if (field->token == NGHTTP3_QPACK_TOKEN_HOST) {
            if (head->host != NULL) {
                return false;
            }
            head->host = field;
        } else if (field->token == NGHTTP3_QPACK_TOKEN_CONTENT_LENGTH) {
            if (head->content_length >= 0 || !read_content_length(bytes_of(field->value), &head->content_length)) {
                return false;
            }
        }
    }
    return is_target(head);
}

bool ve_message_may_trail(const uint8_t *name, size_t length) {
    /* Framing, routing, authentication, modifiers and the form of the content come before it; connection-specific
       fields have no place in HTTP/3. */
    static const char *const not_after_the_content[] = {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "trailer",
        "transfer-encoding",
        "upgrade",
    };
    nghttp3_vec v = {(uint8_t *)(uintptr_t)name, length};
    for (size_t k = 0; k < sizeof not_after_the_content / sizeof not_after_the_content[0]; k++) {
        if (equals(v, not_after_the_content[k])) {
            return false;
        }
    }
    return true;
}

bool ve_message_trailers(const nghttp3_qpack_nv *fields, size_t count) {
    for (size_t i = 0; i < count; i++) {
        nghttp3_vec name = bytes_of(fields[i].name);
        if (is_pseudo(&fields[i]) || !is_field(&fields[i]) || !ve_message_may_trail(name.base, name.len)) {
            return false;
        }
    }
    return true;
}
