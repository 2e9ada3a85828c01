/* A limit for address changes of a client (RFC 9000 section 9).
 *
 * Each change costs a PATH_CHALLENGE, which may never be answered, and resets congestion control. So authentic packets
 * that change the path, or arrive on a path that was not used lately, are counted. Above the limit per second all
 * datagrams of other paths are dropped before decryption. Late packets of the previous path are not counted.
 */
#ifndef VE_PATHS_H
#define VE_PATHS_H

#include "base.h"

enum { VE_RECENT_PATHS = 4 };

typedef struct ve_paths {
    ve_rate changes;
    uint64_t recent[VE_RECENT_PATHS]; /* hashes of peer addresses */
    unsigned next;
    uint64_t current; /* path that packets were sent on when the datagram arrived */
    uint64_t opened;
} ve_paths;

/* Before reading a datagram of another path. False: drop it. */
bool ve_paths_allow(ve_connection *connection);
/* After reading it. */
void ve_paths_note(ve_connection *connection, const ngtcp2_path *path);

#endif
