/* The state of one engine, which serves one worker.
 *
 * Ownership: the engine owns its connections (open and closing), its tables, queued answers, events until they are
 * returned, and strays until they are fetched. It borrows a batch during a call. `busy` is set while it works: a call
 * from an upcall, or from another thread during an upcall, raises RuntimeError, so that nothing changes under a
 * callback.
 */
#ifndef VE_ENGINE_H
#define VE_ENGINE_H

#include "base.h"
#include "batch.h"
#include "cid.h"
#include "section.h"
#include "table.h"
#include "timers.h"

enum {
    VE_MAX_STRAYS = 4096,
    VE_MAX_ANSWER_BYTES = 256 * 1024,
};

/* A packet without a connection: Retry, stateless reset, Version Negotiation, refusal. Its bytes follow. */
typedef struct ve_answer {
    ve_address local;
    ve_address peer;
    int listener;
    uint32_t length;
} ve_answer;

enum ve_upcall { VE_UPCALL_ADMIT, VE_UPCALL_HANDSHAKE, VE_UPCALL_FEED, VE_UPCALL_TOKEN, VE_UPCALL_COUNT };

struct ve_engine {
    PyObject_HEAD ve_module *module;
    PyObject *upcalls;
    ve_limits limits;
    uint32_t node_id;
    uint16_t worker_id;
    ngtcp2_cc_algo congestion_control;

    ve_cids cids;
    uint8_t live_workers[65536 / 8];
    ve_id_table ids;
    ve_handles connections;
    ve_handles streams;
    ve_timers timers;
    ve_io io;
    struct ve_upstreams *upstreams; /* upstream_turn.c; NULL: nothing is forwarded */

    ve_connection *open_first;
    size_t open_count;
    size_t half_open;
    ve_connection *closing_first;
    size_t closing_count;
    ve_connection *dirty_first;
    ve_connection *dirty_last;
    uint64_t *bodies; /* handles of streams whose BodyReceived is made at the end of the turn */
    size_t body_count;
    size_t body_capacity;
    size_t stream_count;
    size_t unacked;
    ve_sections sections;

    uint8_t *answers;
    size_t answer_bytes;
    PyObject *events;
    PyObject *strays;

    uint64_t now_ns;
    bool busy;
    bool logged[VE_UPCALL_COUNT];
    PyObject *interrupt; /* KeyboardInterrupt, MemoryError or the like from an upcall: raised at the end of the turn */

    ve_rate resets;
    ve_rate negotiations;
    uint64_t counters[VE_COUNTER_COUNT];
};

/* --- reports.c --- */

/* Add an event; takes over the reference. NULL (with an exception) is counted as a failure and dropped. */
void ve_engine_event(ve_engine *engine, PyObject *event);

/* An upcall raised the current exception: count it, log the first of its kind, clear it. */
void ve_engine_upcall_failed(ve_engine *engine, enum ve_upcall upcall);

/* Queue a packet without a connection. */
void ve_engine_answer(ve_engine *engine, const uint8_t *data, size_t length, const ve_train *train);

#endif
