/* The memory of a batch: trains of datagrams, one after another.
 *
 * Ownership: a Batch owns one arena, and holds a reference to its engine, which has the counters. `busy` is set while
 * an engine works on the batch: then an upcall cannot change it from Python.
 */
#ifndef VE_BATCH_H
#define VE_BATCH_H

#include "base.h"

enum {
    /* Half a megabyte: what send() writes is still in the second-level cache when transmit() reads it. */
    VE_BATCH_BYTES = 512 * 1024,
    VE_BATCH_TRAINS = 256,
    VE_TRAIN_BYTES = 65536, /* the largest GRO train */
    VE_TRAIN_SEND = 65000,  /* the largest GSO train: 64 KiB minus the IP and UDP headers */
    VE_TRAIN_SEGMENTS = 64, /* UDP_MAX_SEGMENTS of older kernels */
    VE_MAX_LISTENERS = 256,
};

typedef struct ve_train {
    uint32_t offset;
    uint32_t length;
    uint32_t segment_size; /* 0 only when length is 0 */
    int listener;
    uint8_t tos;
    uint64_t connection;  /* handle of the connection that sends it; 0: received, or no connection */
    uint64_t received_ns; /* when another worker received it; 0: received here */
    ve_address peer;
    ve_address local; /* length 0: unknown */
} ve_train;

struct ve_batch {
    PyObject_HEAD ve_engine *engine;
    uint8_t *memory;
    size_t used;
    unsigned count;
    unsigned first; /* trains before this one are sent */
    bool busy;
    ve_train trains[VE_BATCH_TRAINS];
};

/* What outlives a batch: state of sockets and destinations. It is part of the engine. */
typedef struct ve_io {
    struct {
        bool known;
        uint32_t drops;
    } listeners[VE_MAX_LISTENERS];
    ve_address no_gso[256]; /* destinations that refused UDP_SEGMENT, by hash; a newer one replaces an older one */
} ve_io;

/* Return room for one more train of up to `bytes`, or NULL when the batch is full. The caller fills it in and
 * commits it. */
ve_train *ve_batch_next(ve_batch *batch, size_t bytes);
void ve_batch_commit(ve_batch *batch, ve_train *train);
void ve_batch_clear(ve_batch *batch);

/* Add one datagram that no connection sends (Retry, reset ...). False: the batch is full. */
bool ve_batch_add(ve_batch *batch, const uint8_t *data, size_t length, const ve_address *local, const ve_address *peer,
                  int listener);

#endif
