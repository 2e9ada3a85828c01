/* How often the client of a connection may come from another address (RFC 9000 section 9).
 *
 * Each change costs a PATH_CHALLENGE that nobody may ever answer or acknowledge, and congestion control begins anew. So
 * authentic packets that change the path, or come by one that was not seen lately, are counted. Above the limit of a
 * second every datagram from elsewhere is dropped unopened. Late packets of the path before are free.
 */
#ifndef VE_PATHS_H
#define VE_PATHS_H

#include "base.h"

enum { VE_RECENT_PATHS = 4 };

typedef struct ve_paths {
    ve_rate changes;
    uint64_t recent[VE_RECENT_PATHS]; /* hashes of peers' addresses */
    unsigned next;
    uint64_t current; /* where packets went when the datagram came */
    uint64_t opened;
} ve_paths;

/* Before a datagram is read that did not come by the current path. False: drop it. */
bool ve_paths_allow(ve_connection *connection);
/* After it. */
void ve_paths_note(ve_connection *connection, const ngtcp2_path *path);

#endif
