/* Connection ID -> connection, handle -> object. */
#include "table.h"

#include "connection.h"
#include "crypto.h"
#include "siphash.h"

enum { FIRST_BUCKETS = 1024, SLOT_BITS = 24 };

int ve_id_table_init(ve_id_table *table) {
    memset(table, 0, sizeof *table);
    table->buckets = calloc(FIRST_BUCKETS, sizeof *table->buckets);
    table->mask = FIRST_BUCKETS - 1;
    return table->buckets == NULL || ve_random(table->key, sizeof table->key) != 0 ? -1 : 0;
}

void ve_id_table_free(ve_id_table *table) {
    free(table->buckets);
    memset(table, 0, sizeof *table);
}

static ve_id **bucket(const ve_id_table *table, const uint8_t *bytes, size_t length) {
    return &table->buckets[ve_siphash13(table->key, bytes, length) & table->mask];
}

static ve_id **place(const ve_id_table *table, const uint8_t *bytes, size_t length) {
    ve_id **at = bucket(table, bytes, length);
    while (*at != NULL && ((*at)->length != length || memcmp((*at)->bytes, bytes, length) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

ve_connection *ve_id_find(const ve_id_table *table, const uint8_t *bytes, size_t length) {
    ve_id *found = *place(table, bytes, length);
    return found == NULL ? NULL : found->connection;
}

static void grow(ve_id_table *table) {
    size_t old_mask = table->mask;
    ve_id **old = table->buckets;
    ve_id **fresh = calloc((old_mask + 1) * 2, sizeof *fresh);
    if (fresh == NULL) {
        return; /* longer chains are slower, and still correct */
    }
    table->buckets = fresh;
    table->mask = old_mask * 2 + 1;
    for (size_t i = 0; i <= old_mask; i++) {
        while (old[i] != NULL) {
            ve_id *id = old[i];
            ve_id **to = bucket(table, id->bytes, id->length);
            old[i] = id->next;
            id->next = *to;
            *to = id;
        }
    }
    free(old);
}

int ve_id_add(ve_id_table *table, ve_connection *connection, const uint8_t *bytes, size_t length, int config) {
    ve_id **at = place(table, bytes, length);
    if (*at != NULL) {
        return 0;
    }
    ve_id *id = malloc(sizeof *id);
    if (id == NULL) {
        return -1;
    }
    id->config = (int8_t)config;
    if (config != VE_FOREIGN_ID && connection->ids_by_config[config]++ == 0) {
        table->by_config[config]++;
    }
    id->length = (uint8_t)length;
    memcpy(id->bytes, bytes, length);
    id->connection = connection;
    id->next = NULL;
    id->sibling = connection->ids;
    connection->ids = id;
    connection->id_count++;
    *at = id;
    if (++table->count > table->mask) {
        grow(table);
    }
    return 0;
}

static void unlink_id(ve_id_table *table, ve_id *id) {
    if (id->config != VE_FOREIGN_ID && --id->connection->ids_by_config[id->config] == 0) {
        table->by_config[id->config]--;
    }
    ve_id **at = place(table, id->bytes, id->length);
    *at = id->next;
    table->count--;
    free(id);
}

void ve_id_remove(ve_id_table *table, ve_connection *connection, const uint8_t *bytes, size_t length) {
    for (ve_id **at = &connection->ids; *at != NULL; at = &(*at)->sibling) {
        ve_id *id = *at;
        if (id->length == length && memcmp(id->bytes, bytes, length) == 0) {
            *at = id->sibling;
            connection->id_count--;
            unlink_id(table, id);
            return;
        }
    }
}

void ve_id_remove_all(ve_id_table *table, ve_connection *connection) {
    while (connection->ids != NULL) {
        ve_id *id = connection->ids;
        connection->ids = id->sibling;
        unlink_id(table, id);
    }
    connection->id_count = 0;
}

void ve_handles_init(ve_handles *handles) {
    memset(handles, 0, sizeof *handles);
    handles->free_head = UINT32_MAX;
}

void ve_handles_free(ve_handles *handles) {
    free(handles->slots);
    ve_handles_init(handles);
}

uint64_t ve_handle_new(ve_handles *handles, void *object) {
    uint32_t slot = handles->free_head;
    if (slot != UINT32_MAX) {
        handles->free_head = handles->slots[slot].next_free;
    } else {
        if (handles->count == handles->capacity) {
            uint32_t capacity = handles->capacity == 0 ? 256 : handles->capacity * 2;
            void *slots =
                capacity > 1u << SLOT_BITS ? NULL : realloc(handles->slots, capacity * sizeof *handles->slots);
            if (slots == NULL) {
                return 0;
            }
            handles->slots = slots;
            handles->capacity = capacity;
        }
        slot = handles->count++;
        handles->slots[slot].generation = 0;
    }
    handles->slots[slot].object = object;
    return ++handles->slots[slot].generation << SLOT_BITS | slot;
}

void *ve_handle_find(const ve_handles *handles, uint64_t handle) {
    uint64_t slot = handle & ((1u << SLOT_BITS) - 1);
    if (slot >= handles->count || handles->slots[slot].generation != handle >> SLOT_BITS) {
        return NULL;
    }
    return handles->slots[slot].object;
}

void ve_handle_release(ve_handles *handles, uint64_t handle) {
    uint32_t slot = (uint32_t)(handle & ((1u << SLOT_BITS) - 1));
    handles->slots[slot].object = NULL;
    handles->slots[slot].next_free = handles->free_head;
    handles->free_head = slot;
}
