/* Two tables of one engine: connection ID -> connection, and handle -> object.
 *
 * Ownership: ve_id entries belong to the table and are chained in their connection, which removes them before it is
 * freed. Handles do not own their objects.
 *
 * The ID table is hashed with SipHash under a random key, because a client chooses the ID of its first packet and must
 * not be able to choose the bucket. A handle is generation << 24 | slot: a handle of something that is gone never
 * refers to another object (2^39 reuses of one slot).
 */
#ifndef VE_TABLE_H
#define VE_TABLE_H

#include "base.h"

typedef struct ve_id {
    struct ve_id *next;    /* in its bucket */
    struct ve_id *sibling; /* of the same connection */
    ve_connection *connection;
    int8_t config; /* CID configuration that it was issued under; VE_FOREIGN_ID: the peer chose it */
    uint8_t length;
    uint8_t bytes[VE_CID_LENGTH];
} ve_id;

typedef struct ve_id_table {
    ve_id **buckets;
    size_t mask;
    size_t count;
    size_t by_config[VE_CID_CONFIGS]; /* number of connections with at least one ID of it */
    uint8_t key[16];
} ve_id_table;

int ve_id_table_init(ve_id_table *table);
void ve_id_table_free(ve_id_table *table);
ve_connection *ve_id_find(const ve_id_table *table, const uint8_t *bytes, size_t length);

/* Both update the connection's list and the counts. 0, or -1 without memory. An ID that is in use stays with its
 * connection. `config` as in ve_id. */
int ve_id_add(ve_id_table *table, ve_connection *connection, const uint8_t *bytes, size_t length, int config);
void ve_id_remove(ve_id_table *table, ve_connection *connection, const uint8_t *bytes, size_t length);
void ve_id_remove_all(ve_id_table *table, ve_connection *connection);

typedef struct ve_handles {
    struct {
        void *object;
        uint64_t generation;
        uint32_t next_free;
    } *slots;
    uint32_t count;
    uint32_t capacity;
    uint32_t free_head; /* UINT32_MAX: none */
} ve_handles;

void ve_handles_init(ve_handles *handles);
void ve_handles_free(ve_handles *handles);
/* 0 is not a handle: no memory. */
uint64_t ve_handle_new(ve_handles *handles, void *object);
void *ve_handle_find(const ve_handles *handles, uint64_t handle);
void ve_handle_release(ve_handles *handles, uint64_t handle);

#endif
