/* What the descriptor of all upstreams waits for: sockets, and the earliest deadline. And what is freed after a call. */
#include "upstream.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "engine.h"

void ve_source_add(ve_upstreams *owner, ve_source *source, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = source};
    source->interest = interest;
    if (interest != 0 && epoll_ctl(owner->epoll, EPOLL_CTL_ADD, source->fd, &event) != 0) {
        source->interest = 0; /* no memory in the kernel: the time-out ends what waits for it */
    }
}

void ve_source_change(ve_upstreams *owner, ve_source *source, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = source};
    if (source->interest == 0) {
        ve_source_add(owner, source, interest);
        return;
    }
    /* Without interest epoll would still report a hang-up, again and again. */
    epoll_ctl(owner->epoll, interest == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, source->fd, &event);
    source->interest = interest;
}

void ve_bury(ve_upstreams *owner, ve_grave *grave) {
    grave->next = owner->graves;
    owner->graves = grave;
}

void ve_bury_all(ve_upstreams *owner) {
    while (owner->graves != NULL) {
        ve_grave *grave = owner->graves;
        owner->graves = grave->next;
        free(grave);
    }
}

void ve_upstreams_arm(ve_upstreams *owner, uint64_t due_ns) {
    uint64_t now_ns = owner->engine->now_ns;
    uint64_t after_ns = due_ns > now_ns ? due_ns - now_ns : 1;
    struct itimerspec time = {
        .it_value = {.tv_sec = (time_t)(after_ns / VE_SECOND_NS), .tv_nsec = (long)(after_ns % VE_SECOND_NS)}};
    owner->armed_ns = due_ns;
    timerfd_settime(owner->timer.fd, 0, &time, NULL);
}

void ve_upstreams_wake(ve_upstreams *owner) {
    if (!owner->turning && owner->armed_ns != 0) {
        ve_upstreams_arm(owner, 0);
    }
}

void ve_wait(ve_upstreams *owner, ve_waiter *waiter, ve_waiting *list) {
    uint64_t now_ns = owner->engine->now_ns;
    ve_waiter_start(waiter, list, now_ns);
    if (now_ns + list->timeout_ns < owner->armed_ns) {
        ve_upstreams_arm(owner, now_ns + list->timeout_ns);
    }
}
