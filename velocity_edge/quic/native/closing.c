/* The end of a connection: CONNECTION_CLOSE, the closing and draining states, and freeing it. */
#include "life.h"

#include "engine.h"
#include "events.h"
#include "module.h"
#include "stream.h"
#include "tls.h"

enum { CLOSE_PACKET_BYTES = 1200 };

void ve_connection_free(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_connection_unmark(connection);
    ve_timer_remove(&engine->timers, connection);
    ve_id_remove_all(&engine->ids, connection);
    if (connection->state == VE_OPEN) {
        ve_connection_unlink(&engine->open_first, connection);
        engine->open_count--;
        nghttp3_conn_del(connection->http);
        ve_peer_http_free(connection);
        while (connection->streams != NULL) {
            connection->streams->headers_done = false; /* the engine is being freed: no events */
            ve_stream_free(connection->streams);
        }
        ngtcp2_conn_del(connection->quic);
        ve_tls_end(connection);
        free(connection->message);
        ve_handle_release(&engine->connections, connection->handle);
    } else {
        ve_connection_unlink(&engine->closing_first, connection);
        engine->closing_count--;
    }
    free(connection->last_packet);
    free(connection);
}

void ve_connection_undo(ve_connection *connection) {
    connection->engine->half_open--;
    connection->engine->counters[VE_connections_opened]--;
    ve_connection_free(connection);
}

/* From open to closing or draining: make events, count, and free everything but this struct, its IDs and the saved
 * packet. */
static void leave_open(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer) {
    ve_engine *engine = connection->engine;
    uint64_t linger_ns = 3 * ngtcp2_conn_get_pto(connection->quic);
    if (connection->http != NULL) {
        nghttp3_conn_del(connection->http);
        connection->http = NULL;
    }
    while (connection->streams != NULL) {
        ve_stream_over(connection->streams, false, error->error_code);
        ve_stream_free(connection->streams);
    }
    ve_peer_http_free(connection);
    engine->counters[VE_connections_closed]++;
    if (!connection->handshake_completed) {
        engine->half_open--;
        engine->counters[connection->timed_out ? VE_handshakes_timed_out : VE_handshakes_failed]++;
    }
    PyObject *reason = PyUnicode_DecodeUTF8((const char *)error->reason, (Py_ssize_t)error->reasonlen, "replace");
    PyObject *values[] = {
        PyLong_FromUnsignedLongLong(connection->handle),
        PyLong_FromUnsignedLongLong(error->error_code),
        PyBool_FromLong(error->type == NGTCP2_CCERR_TYPE_APPLICATION),
        PyBool_FromLong(by_peer),
        reason,
        PyBool_FromLong(connection->handshake_completed),
    };
    ve_engine_event(engine, ve_record_new(&engine->module->connection_closed, values));
    ngtcp2_conn_del(connection->quic);
    connection->quic = NULL;
    ve_tls_end(connection);
    free(connection->message);
    connection->message = NULL;
    ve_handle_release(&engine->connections, connection->handle);
    ve_connection_unlink(&engine->open_first, connection);
    engine->open_count--;
    ve_connection_unmark(connection);
    connection->state = state;
    ve_connection_link(&engine->closing_first, connection);
    engine->closing_count++;
    ve_timer_set(&engine->timers, connection, engine->now_ns + linger_ns);
}

void ve_connection_vanish(ve_connection *connection, ve_state state, const ngtcp2_ccerr *error, bool by_peer) {
    leave_open(connection, state, error, by_peer);
    if (state != VE_DRAINING || connection->engine->closing_count > connection->engine->limits.max_connections) {
        ve_connection_free(connection);
    }
}

void ve_connection_close(ve_connection *connection, int rv) {
    ve_engine *engine = connection->engine;
    uint8_t packet[CLOSE_PACKET_BYTES];
    ngtcp2_path_storage path;
    ngtcp2_pkt_info info = {0};
    ngtcp2_ccerr error = connection->error;
    if (!connection->has_error) {
        ngtcp2_ccerr_default(&error);
        if (rv == NGTCP2_ERR_CRYPTO) {
            ngtcp2_ccerr_set_tls_alert(&error, ngtcp2_conn_get_tls_alert(connection->quic), NULL, 0);
        } else {
            ngtcp2_ccerr_set_liberr(&error, rv, NULL, 0);
        }
    }
    if (error.type != NGTCP2_CCERR_TYPE_TRANSPORT && error.type != NGTCP2_CCERR_TYPE_APPLICATION) {
        ve_connection_vanish(connection, VE_CLOSING, &error,
                             false); /* idle or dropped: ngtcp2 says that nothing is sent */
        return;
    }
    ngtcp2_path_storage_zero(&path);
    ngtcp2_ssize length = ngtcp2_conn_write_connection_close(connection->quic, &path.path, &info, packet, sizeof packet,
                                                             &error, engine->now_ns);
    /* 0: the address is not validated, and three times the received bytes were sent. Negative: no keys, or no
       memory. */
    uint8_t *copy = length > 0 ? malloc((size_t)length) : NULL;
    if (copy == NULL) {
        ve_connection_vanish(connection, VE_CLOSING, &error, false);
        return;
    }
    memcpy(copy, packet, (size_t)length);
    connection->last_packet = copy;
    connection->last_packet_length = (size_t)length;
    ve_address_from_ngtcp2(&connection->last_peer, &path.path.remote);
    ve_address_from_ngtcp2(&connection->last_local, &path.path.local);
    connection->last_listener = (int)(intptr_t)path.path.user_data;
    leave_open(connection, VE_CLOSING, &error, false);
    if (engine->closing_count > engine->limits.max_connections) {
        /* Too many connections are closing: send CONNECTION_CLOSE once, and free this one. */
        ve_train once = {
            .local = connection->last_local, .peer = connection->last_peer, .listener = connection->last_listener};
        ve_engine_answer(engine, connection->last_packet, connection->last_packet_length, &once);
        ve_connection_free(connection);
        return;
    }
    connection->repeat = true;
    ve_connection_mark(connection);
}

static void drain(ve_connection *connection) {
    ngtcp2_ccerr error = *ngtcp2_conn_get_ccerr(connection->quic);
    char reason[256];
    size_t length = error.reasonlen < sizeof reason ? error.reasonlen : sizeof reason;
    if (length > 0) {
        memcpy(reason, error.reason, length); /* it is freed with the ngtcp2_conn, before the event is made */
    }
    error.reason = (const uint8_t *)reason;
    error.reasonlen = length;
    ve_connection_vanish(connection, VE_DRAINING, &error, true);
}

bool ve_connection_survives(ve_connection *connection, int rv) {
    if (rv == 0 && !connection->has_error) {
        return true;
    }
    if (rv == NGTCP2_ERR_DRAINING) {
        drain(connection);
    } else if (rv == NGTCP2_ERR_DROP_CONN || rv == NGTCP2_ERR_RETRY) {
        ngtcp2_ccerr error;
        ngtcp2_ccerr_default(&error);
        ve_connection_vanish(connection, VE_CLOSING, &error, false);
    } else {
        ve_connection_close(connection, rv);
    }
    return false;
}
