/* A binary heap of deadlines. */
#include "timers.h"

#include "connection.h"

void ve_timers_free(ve_timers *timers) {
    free(timers->heap);
    memset(timers, 0, sizeof *timers);
}

int ve_timers_reserve(ve_timers *timers) {
    if (timers->count < timers->capacity) {
        return 0;
    }
    size_t capacity = timers->capacity == 0 ? 256 : timers->capacity * 2;
    ve_connection **heap = realloc(timers->heap, capacity * sizeof(ve_connection *));
    if (heap == NULL) {
        return -1;
    }
    timers->heap = heap;
    timers->capacity = capacity;
    return 0;
}

static void put(ve_timers *timers, size_t index, ve_connection *connection) {
    timers->heap[index] = connection;
    connection->timer_index = index;
}

static void up(ve_timers *timers, size_t index) {
    ve_connection *moved = timers->heap[index];
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (timers->heap[parent]->deadline_ns <= moved->deadline_ns) {
            break;
        }
        put(timers, index, timers->heap[parent]);
        index = parent;
    }
    put(timers, index, moved);
}

static void down(ve_timers *timers, size_t index) {
    ve_connection *moved = timers->heap[index];
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= timers->count) {
            break;
        }
        if (child + 1 < timers->count && timers->heap[child + 1]->deadline_ns < timers->heap[child]->deadline_ns) {
            child++;
        }
        if (timers->heap[child]->deadline_ns >= moved->deadline_ns) {
            break;
        }
        put(timers, index, timers->heap[child]);
        index = child;
    }
    put(timers, index, moved);
}

void ve_timer_set(ve_timers *timers, ve_connection *connection, uint64_t deadline_ns) {
    if (!connection->in_timers) {
        /* ve_timers_reserve() was called when the connection opened. */
        connection->in_timers = true;
        connection->deadline_ns = deadline_ns;
        put(timers, timers->count++, connection);
        up(timers, connection->timer_index);
        return;
    }
    uint64_t before = connection->deadline_ns;
    connection->deadline_ns = deadline_ns;
    if (deadline_ns < before) {
        up(timers, connection->timer_index);
    } else if (deadline_ns > before) {
        down(timers, connection->timer_index);
    }
}

void ve_timer_remove(ve_timers *timers, ve_connection *connection) {
    if (!connection->in_timers) {
        return;
    }
    connection->in_timers = false;
    size_t index = connection->timer_index;
    ve_connection *last = timers->heap[--timers->count];
    if (last != connection) {
        put(timers, index, last);
        up(timers, index);
        down(timers, last->timer_index);
    }
}

ve_connection *ve_timer_first(const ve_timers *timers) {
    return timers->count == 0 ? NULL : timers->heap[0];
}
