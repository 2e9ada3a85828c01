/* What fields may look like, and which belong to one connection. */
#include "upstream_fields.h"

#include <strings.h>

bool ve_text_of(PyObject *bytes, ve_text *out) {
    if (bytes == NULL || !PyBytes_Check(bytes)) {
        return false;
    }
    *out = (ve_text){PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
    return true;
}

bool ve_field_of(PyObject *pair, ve_field *out) {
    return PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 && ve_text_of(PyTuple_GET_ITEM(pair, 0), &out->name) &&
           ve_text_of(PyTuple_GET_ITEM(pair, 1), &out->value);
}

bool ve_text_is(ve_text text, const char *word) {
    return text.length == strlen(word) && memcmp(text.at, word, text.length) == 0;
}

bool ve_text_equals(ve_text text, const char *word) {
    return text.length == strlen(word) && strncasecmp(text.at, word, text.length) == 0;
}

bool ve_text_is_token(ve_text text, bool lower) {
    for (size_t i = 0; i < text.length; i++) {
        uint8_t c = (uint8_t)text.at[i];
        bool letter = (c >= 'a' && c <= 'z') || (!lower && c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && (c == 0 || strchr("!#$%&'*+-.^_`|~", c) == NULL)) {
            return false;
        }
    }
    return text.length > 0;
}

bool ve_text_is_value(ve_text text) {
    unsigned bad = 0;
    for (size_t i = 0; i < text.length; i++) {
        uint8_t c = (uint8_t)text.at[i];
        bad |= (c < 0x20 && c != '\t') || c == 0x7f;
    }
    return bad == 0;
}

bool ve_text_is_hop_by_hop(ve_text name) {
    switch (name.length) {
    case 4:
        return ve_text_is(name, "host");
    case 7:
        return ve_text_is(name, "upgrade");
    case 10:
        return ve_text_is(name, "connection") || ve_text_is(name, "keep-alive");
    case 14:
        return ve_text_is(name, "http2-settings");
    case 16:
        return ve_text_is(name, "proxy-connection");
    case 17:
        return ve_text_is(name, "transfer-encoding");
    default:
        return false;
    }
}

bool ve_text_read_length(ve_text value, int64_t *out) {
    int64_t number = 0;
    if (value.length == 0 || value.length > 18) {
        return false;
    }
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] < '0' || value.at[i] > '9') {
            return false;
        }
        number = number * 10 + (value.at[i] - '0');
    }
    *out = number;
    return true;
}
