/* Who waits for a time, and what is freed at the end of a call.
 *
 * All members of a ve_waiting wait for the same time, so that the list is in the order of their deadlines: adding,
 * removing and renewing cost a few pointers, and there is no heap. Memory of closed connections is freed when no code
 * that may know it runs any more (ve_grave).
 */
#ifndef VE_UPSTREAM_LISTS_H
#define VE_UPSTREAM_LISTS_H

#include <stddef.h>

#include "base.h"

typedef struct ve_waiter {
    struct ve_waiter *previous;
    struct ve_waiter *next;
    struct ve_waiting *list; /* NULL: it waits for nothing */
    uint64_t since_ns;
} ve_waiter;

typedef struct ve_waiting {
    ve_waiter *first;
    ve_waiter *last;
    uint64_t timeout_ns;
} ve_waiting;

#define VE_OWNER(type, member, pointer) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

static inline void ve_waiter_stop(ve_waiter *waiter) {
    ve_waiting *list = waiter->list;
    if (list == NULL) {
        return;
    }
    *(waiter->previous != NULL ? &waiter->previous->next : &list->first) = waiter->next;
    *(waiter->next != NULL ? &waiter->next->previous : &list->last) = waiter->previous;
    waiter->list = NULL;
}

/* Wait in `list`, from now; whatever it waited for before. */
static inline void ve_waiter_start(ve_waiter *waiter, ve_waiting *list, uint64_t now_ns) {
    ve_waiter_stop(waiter);
    waiter->list = list;
    waiter->since_ns = now_ns;
    waiter->next = NULL;
    waiter->previous = list->last;
    *(list->last != NULL ? &list->last->next : &list->first) = waiter;
    list->last = waiter;
}

/* When the first one is due; VE_NEVER: nobody waits. */
static inline uint64_t ve_waiting_due(const ve_waiting *list) {
    return list->first == NULL ? VE_NEVER : list->first->since_ns + list->timeout_ns;
}

/* First member of everything that is buried. */
typedef struct ve_grave {
    struct ve_grave *next;
} ve_grave;

#endif
