#include "stall.h"

#include "connection.h"
#include "engine.h"

/* A third of the time after which either side would give up: two PINGs may get lost. */
static uint64_t interval_ns(const ve_connection *connection) {
    const ngtcp2_transport_params *peer = ngtcp2_conn_get_remote_transport_params(connection->quic);
    uint64_t idle_ns = ngtcp2_conn_get_local_transport_params(connection->quic)->max_idle_timeout;
    if (peer != NULL && peer->max_idle_timeout != 0 && (idle_ns == 0 || peer->max_idle_timeout < idle_ns)) {
        idle_ns = peer->max_idle_timeout;
    }
    return idle_ns == 0 ? UINT64_MAX : idle_ns / 3 > 0 ? idle_ns / 3 : 1;
}

void ve_stall_update(ve_connection *connection) {
    ve_stall *stall = &connection->stall;
    /* Without credit of the connection nothing is taken from the streams, and nothing need be in flight. */
    bool waiting = connection->unacked > 0 ||
                   (connection->streams != NULL && ngtcp2_conn_get_max_data_left(connection->quic) == 0);
    if (waiting != stall->waiting) {
        stall->waiting = waiting;
        stall->progress_ns = connection->engine->now_ns;
        ngtcp2_conn_set_keep_alive_timeout(connection->quic, waiting ? interval_ns(connection) : UINT64_MAX);
    }
}

void ve_stall_progress(ve_connection *connection) {
    connection->stall.progress_ns = connection->engine->now_ns;
}

uint64_t ve_stall_deadline(const ve_connection *connection) {
    return connection->stall.waiting ? connection->stall.progress_ns + connection->engine->limits.stall_timeout_ns
                                     : VE_NEVER;
}

void ve_stall_expire(ve_connection *connection) {
    if (ve_stall_deadline(connection) <= connection->engine->now_ns) {
        connection->engine->counters[VE_stalled]++;
        ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION, VE_H3_EXCESSIVE_LOAD,
                           "nothing of the answers was taken for too long");
    }
}
