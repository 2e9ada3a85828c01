/* A binary heap with one deadline per connection.
 *
 * Ownership: the heap belongs to the engine and borrows connections; a connection is removed before it is freed.
 */
#ifndef VE_TIMERS_H
#define VE_TIMERS_H

#include "base.h"

typedef struct ve_timers {
    ve_connection **heap;
    size_t count;
    size_t capacity;
} ve_timers;

void ve_timers_free(ve_timers *timers);
/* Make room for one more connection; 0, or -1 without memory. Called when a connection opens, so that setting a
 * timer cannot fail. */
int ve_timers_reserve(ve_timers *timers);
void ve_timer_set(ve_timers *timers, ve_connection *connection, uint64_t deadline_ns);
void ve_timer_remove(ve_timers *timers, ve_connection *connection);
/* The earliest, or NULL. */
ve_connection *ve_timer_first(const ve_timers *timers);

#endif
