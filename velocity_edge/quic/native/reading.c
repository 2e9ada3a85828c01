/* Input of a connection: datagrams, and its timer. */
#include "life.h"

#include "engine.h"
#include "mtu.h"
#include "paths.h"

/* Too much memory is used for what this peer sent or did not acknowledge. One packet adds little compared with the
 * limits. */
static void bound_memory(ve_connection *connection, int rv) {
    const ve_memory *memory = &connection->memory;
    bool early = !connection->handshake_completed;
    size_t received = early ? connection->half_open_memory_bytes : connection->received_memory_bytes;
    size_t sent = connection->sent_memory_bytes + 4 * connection->most_in_flight;
    /* ngtcp2 returns ERR_INTERNAL when a stream has more than 5000 gaps. */
    if (memory->bytes[VE_RECEIVED] <= received && memory->bytes[VE_SENT] <= sent && rv != NGTCP2_ERR_INTERNAL) {
        return;
    }
    connection->engine->counters[VE_memory_exceeded]++;
    if (early) {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_TRANSPORT, NGTCP2_CRYPTO_BUFFER_EXCEEDED,
                           "too much memory for received or unacknowledged data");
    } else {
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD,
                           "too much memory for received or unacknowledged data");
    }
}

static int read_packet(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                       size_t length) {
    ngtcp2_pkt_info info = {.ecn = tos & 3};
    ve_mtu_reading(connection);
    connection->memory.reading = true;
    int rv = ngtcp2_conn_read_pkt(connection->quic, path, &info, data, length, connection->engine->now_ns);
    connection->memory.reading = false;
    ve_mtu_read(connection);
    bound_memory(connection, rv);
    return rv;
}

bool ve_connection_read_first(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                              size_t length) {
    int rv = read_packet(connection, path, tos, data, length);
    if (rv == NGTCP2_ERR_RETRY && !connection->has_error) {
        ve_connection_undo(connection);
        return false;
    }
    if (ve_connection_survives(connection, rv)) {
        ve_connection_mark(connection);
    }
    return true;
}

void ve_connection_read(ve_connection *connection, const ngtcp2_path *path, uint8_t tos, const uint8_t *data,
                        size_t length) {
    if (connection->state == VE_DRAINING) {
        return;
    }
    if (connection->state == VE_CLOSING) {
        /* Send it again at the first, second, fourth, eighth ... packet: a flood gets fewer and fewer responses (RFC
           9000 section 10.2.1). */
        unsigned n = ++connection->packets_while_closing;
        if ((n & (n - 1)) == 0 && connection->last_packet != NULL) {
            connection->repeat = true;
            ve_connection_mark(connection);
        }
        return;
    }
    bool elsewhere = !ngtcp2_path_eq(ngtcp2_conn_get_path(connection->quic), path);
    if (elsewhere && !ve_paths_allow(connection)) {
        return;
    }
    int rv = read_packet(connection, path, tos, data, length);
    if (elsewhere) {
        ve_paths_note(connection, path);
    }
    if (ve_connection_survives(connection, rv)) {
        ve_connection_mark(connection);
    }
}

void ve_connection_expire(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    if (connection->state != VE_OPEN) {
        ve_connection_free(connection);
        return;
    }
    ve_deadlines_expire(connection);
    ve_mtu_expire(connection);
    int rv = 0;
    if (ngtcp2_conn_get_expiry(connection->quic) <= engine->now_ns) {
        rv = ngtcp2_conn_handle_expiry(connection->quic, engine->now_ns);
    }
    if (rv == NGTCP2_ERR_IDLE_CLOSE || rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT) {
        static const char *const reasons[] = {"idle", "handshake timeout"};
        connection->timed_out = rv == NGTCP2_ERR_HANDSHAKE_TIMEOUT;
        const char *reason = reasons[connection->timed_out];
        ngtcp2_ccerr error;
        ngtcp2_ccerr_default(&error);
        error.reason = (const uint8_t *)reason;
        error.reasonlen = strlen(reason);
        ve_connection_vanish(connection, VE_CLOSING, &error, false);
        return;
    }
    if (ve_connection_survives(connection, rv)) {
        /* Writing sets the real one. This one is for an endpoint that does not write. */
        ve_timer_set(&engine->timers, connection, engine->now_ns + 1000000);
        ve_connection_mark(connection);
    }
}
