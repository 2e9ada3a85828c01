/* Count address changes, and drop datagrams of other paths above the limit. */
#include "paths.h"

#include "connection.h"
#include "crypto.h"
#include "engine.h"
#include "siphash.h"

static uint64_t hash_of(const ve_connection *connection, const ngtcp2_path *path) {
    ve_address peer;
    ve_address_from_ngtcp2(&peer, &path->remote);
    return ve_siphash13(connection->engine->ids.key, (const uint8_t *)&peer.v6, sizeof peer.v6);
}

/* True: it was known. */
static bool remember(ve_paths *paths, uint64_t path) {
    for (int i = 0; i < VE_RECENT_PATHS; i++) {
        if (paths->recent[i] == path) {
            return true;
        }
    }
    paths->recent[paths->next++ % VE_RECENT_PATHS] = path;
    return false;
}

bool ve_paths_allow(ve_connection *connection) {
    ve_engine *engine = connection->engine;
    ve_paths *paths = &connection->paths;
    if (paths->changes.second == engine->now_ns / VE_SECOND_NS &&
        paths->changes.count >= engine->limits.max_migrations_per_s) {
        engine->counters[VE_migrations_refused]++;
        return false;
    }
    paths->current = hash_of(connection, ngtcp2_conn_get_path(connection->quic));
    paths->opened = ve_packets_opened;
    return true;
}

void ve_paths_note(ve_connection *connection, const ngtcp2_path *path) {
    ve_engine *engine = connection->engine;
    ve_paths *paths = &connection->paths;
    if (ve_packets_opened == paths->opened) {
        return; /* not authentic: anyone who knows an ID could use up the limit */
    }
    bool moved = ngtcp2_path_eq(ngtcp2_conn_get_path(connection->quic), path);
    bool known = remember(paths, hash_of(connection, path));
    remember(paths, paths->current);
    if (moved) {
        ve_mtu_moved(connection);
    }
    if (moved || !known) {
        (void)ve_rate_allow(&paths->changes, engine->limits.max_migrations_per_s, engine->now_ns);
    }
}
