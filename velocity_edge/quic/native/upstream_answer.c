/* Heads of responses: which fields of an upstream's reach the client, and what the proxy changes in them (RFC 9110
 * section 7.6.1, RFC 9114 section 4.2). */
#include "upstream.h"

#include <strings.h>

#include "engine.h"
#include "http.h"

enum { MOST_FIELDS = 256, EDIT_REMOVE = 0, EDIT_SET, EDIT_ADD, EDIT_DEFAULT };

/* Whether the comma-separated list has the word, in any case. */
static bool lists(ve_text list, ve_text word) {
    size_t i = 0;
    while (i < list.length) {
        size_t begin = i;
        while (i < list.length && list.at[i] != ',') {
            i++;
        }
        size_t end = i++;
        while (begin < end && (list.at[begin] == ' ' || list.at[begin] == '\t')) {
            begin++;
        }
        while (end > begin && (list.at[end - 1] == ' ' || list.at[end - 1] == '\t')) {
            end--;
        }
        if (end - begin == word.length && strncasecmp(list.at + begin, word.at, word.length) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_nominated(const ve_field *fields, size_t count, const size_t *connections, size_t n, ve_text name) {
    (void)count;
    for (size_t i = 0; i < n; i++) {
        if (lists(fields[connections[i]].value, name)) {
            return true;
        }
    }
    return false;
}

typedef struct answer_fields {
    nghttp3_nv fields[MOST_FIELDS + 1]; /* the first is for the status */
    size_t count;
} answer_fields;

static bool add(answer_fields *answer, const ve_field *field) {
    if (answer->count > MOST_FIELDS) {
        return false;
    }
    answer->fields[answer->count++] = (nghttp3_nv){.name = (uint8_t *)(uintptr_t)field->name.at,
                                                   .value = (uint8_t *)(uintptr_t)field->value.at,
                                                   .namelen = field->name.length,
                                                   .valuelen = field->value.length};
    return true;
}

static bool has(const answer_fields *answer, ve_text name) {
    for (size_t i = 1; i < answer->count; i++) {
        if (answer->fields[i].namelen == name.length && memcmp(answer->fields[i].name, name.at, name.length) == 0) {
            return true;
        }
    }
    return false;
}

static void drop(answer_fields *answer, ve_text name) {
    size_t kept = 1;
    for (size_t i = 1; i < answer->count; i++) {
        if (answer->fields[i].namelen != name.length || memcmp(answer->fields[i].name, name.at, name.length) != 0) {
            answer->fields[kept++] = answer->fields[i];
        }
    }
    answer->count = kept;
}

static bool edit(answer_fields *answer, const ve_attempt *attempt) {
    for (int kind = EDIT_REMOVE; kind <= EDIT_DEFAULT; kind++) {
        PyObject *tuple = attempt->edits[kind];
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
            ve_field field;
            if (kind == EDIT_REMOVE) {
                if (ve_text_of(PyTuple_GET_ITEM(tuple, i), &field.name)) {
                    drop(answer, field.name);
                }
                continue;
            }
            if (!ve_field_of(PyTuple_GET_ITEM(tuple, i), &field)) {
                return false;
            }
            if (kind == EDIT_SET) {
                drop(answer, field.name);
            }
            if ((kind != EDIT_DEFAULT || !has(answer, field.name)) && !add(answer, &field)) {
                return false;
            }
        }
    }
    return true;
}

/* Connection fields of one message: more are not accepted. */
enum { MOST_CONNECTION_FIELDS = 8 };

const char *ve_attempt_head(ve_attempt *attempt, int status, const ve_field *fields, size_t count, bool end) {
    answer_fields answer;
    size_t connections[MOST_CONNECTION_FIELDS];
    size_t n = 0;
    answer.count = 1;
    if (status < 200 && ++attempt->informational > VE_MAX_INFORMATIONAL) {
        return "too many informational responses";
    }
    if (status < 200 && !attempt->expects && status == 100) {
        return NULL; /* nobody waits for it */
    }
    for (size_t i = 0; i < count; i++) {
        if (ve_text_is(fields[i].name, "connection")) {
            if (n == MOST_CONNECTION_FIELDS) {
                return "too many connection fields";
            }
            connections[n++] = i;
        }
    }
    bool without_length = status < 200 || status == 204; /* RFC 9110 section 8.6 */
    for (size_t i = 0; i < count; i++) {
        if ((without_length && ve_text_is(fields[i].name, "content-length")) || ve_text_is_hop_by_hop(fields[i].name) ||
            ve_text_is(fields[i].name, "te") || is_nominated(fields, count, connections, n, fields[i].name)) {
            continue;
        }
        if (!add(&answer, &fields[i])) {
            return "too many fields in the response";
        }
    }
    if (status >= 200 && !edit(&answer, attempt)) {
        return "too many fields in the response, with those that are added";
    }
    if (attempt->stream->responded) {
        return "the request was answered meanwhile";
    }
    int sent = ve_http_respond_fields(attempt->stream, status, answer.fields, answer.count, end);
    if (sent <= 0) {
        return sent < 0 ? "no memory" : "a field of the response is invalid";
    }
    if (status >= 200) {
        attempt->status = status;
        attempt->head_sent = true;
        attempt->head_ns = attempt->owner->engine->now_ns;
        ve_waiter_stop(&attempt->waiter);
        ve_attempt_moves(attempt);
    }
    return NULL;
}
