/* Changes of a connection that every layer may make: note an error, mark it for sending, move it between lists. */
#include "connection.h"

#include "engine.h"

void ve_connection_fail(ve_connection *connection, ngtcp2_ccerr_type type, uint64_t code, const char *reason) {
    if (connection->has_error) {
        return;
    }
    connection->has_error = true;
    snprintf(connection->reason, sizeof connection->reason, "%s", reason);
    ngtcp2_ccerr_default(&connection->error);
    connection->error.type = type;
    connection->error.error_code = code;
    connection->error.reason = (const uint8_t *)connection->reason;
    connection->error.reasonlen = strlen(connection->reason);
}

void ve_connection_mark(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (connection->dirty) {
        return;
    }
    connection->dirty = true;
    connection->dirty_next = NULL;
    if (engine->dirty_last != NULL) {
        engine->dirty_last->dirty_next = connection;
    } else {
        engine->dirty_first = connection;
    }
    engine->dirty_last = connection;
}

void ve_connection_unmark(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_connection *before = NULL;
    if (!connection->dirty) {
        return;
    }
    for (ve_connection *c = engine->dirty_first; c != connection; c = c->dirty_next) {
        before = c;
    }
    if (before == NULL) {
        engine->dirty_first = connection->dirty_next;
    } else {
        before->dirty_next = connection->dirty_next;
    }
    if (engine->dirty_last == connection) {
        engine->dirty_last = before;
    }
    connection->dirty = false;
}

void ve_connection_glitch(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    engine->counters[VE_glitches]++;
    if (!ve_rate_allow(&connection->glitches, engine->limits.max_glitches_per_s, engine->now_ns)) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD,
                           "too many failed or abandoned streams");
    }
}

/* Insert at the head of the list. */
void ve_connection_link(ve_connection **first, ve_connection *connection) {
    connection->next = *first;
    if (connection->next != NULL) {
        connection->next->previous = connection;
    }
    *first = connection;
}

void ve_connection_unlink(ve_connection **first, ve_connection *connection) {
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        *first = connection->next;
    }
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    connection->previous = connection->next = NULL;
}
