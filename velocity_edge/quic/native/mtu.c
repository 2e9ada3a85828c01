/* Fall back to 1200 bytes when large packets do not arrive. */
#include "mtu.h"

#include "connection.h"
#include "engine.h"

static void lower(ve_connection *connection) {
    if (!connection->mtu.lowered) {
        connection->mtu.lowered = true;
        connection->engine->counters[VE_path_mtu_lowered]++;
        ve_connection_mark(connection);
    }
}

static bool known_to_fit(const ve_connection *connection, size_t length) {
    return length <= ngtcp2_conn_get_path_max_tx_udp_payload_size(connection->quic); /* a larger one is a probe */
}

static uint64_t in_flight(const ve_connection *connection) {
    ngtcp2_conn_info info;
    ngtcp2_conn_get_conn_info(connection->quic, &info);
    return info.bytes_in_flight;
}

static void doubt(ve_doubt *doubt, uint64_t now_ns) {
    if (doubt->packets++ == 0) {
        doubt->since_ns = now_ns;
    }
}

static bool too_long(const ve_connection *connection, const ve_doubt *doubt, unsigned packets, unsigned ptos) {
    return doubt->packets >= packets &&
           connection->engine->now_ns - doubt->since_ns >= ptos * ngtcp2_conn_get_pto(connection->quic);
}

size_t ve_mtu_size(ve_connection *connection) {
    return connection->mtu.lowered ? VE_LEAST_DATAGRAM : ngtcp2_conn_get_max_tx_udp_payload_size(connection->quic);
}

void ve_mtu_sent(ve_connection *connection, size_t length) {
    if (length > VE_LEAST_DATAGRAM && known_to_fit(connection, length)) {
        doubt(&connection->mtu.silence, connection->engine->now_ns);
        doubt(&connection->mtu.stall, connection->engine->now_ns);
    }
}

void ve_mtu_reading(ve_connection *connection) {
    connection->mtu.acked = 0;
    if (connection->mtu.stall.packets != 0) {
        connection->mtu.in_flight = in_flight(connection);
    }
}

void ve_mtu_read(ve_connection *connection) {
    ve_mtu *mtu = &connection->mtu;
    if (mtu->stall.packets == 0) {
        return;
    }
    uint64_t left = in_flight(connection);
    if (mtu->in_flight >= left + VE_LARGE) {
        mtu->silence.packets = 0;
    }
    if (mtu->acked >= VE_LARGE || left == 0) {
        mtu->silence.packets = mtu->stall.packets = 0;
    }
}

void ve_mtu_moved(ve_connection *connection) {
    connection->mtu = (ve_mtu){0};
}

void ve_mtu_expire(ve_connection *connection) {
    /* On lossy paths a single packet and its first probes get lost as well. */
    if (too_long(connection, &connection->mtu.silence, 4, 5) || too_long(connection, &connection->mtu.stall, 16, 12)) {
        lower(connection);
    }
}

void ve_mtu_refused(ve_connection *connection, size_t length) {
    if (connection->state == VE_OPEN && known_to_fit(connection, length)) {
        lower(connection);
    }
}
