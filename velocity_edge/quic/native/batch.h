/* Packet memory and the system calls: trains in, trains out.
 *
 * Ownership: a Batch owns one arena; trains lie in it one behind the other. It keeps its engine alive (the counters are
 * there). While an engine works on a batch it is `busy`, and Python can't change it from an upcall.
 */
#ifndef VE_BATCH_H
#define VE_BATCH_H

#include "base.h"

enum {
    /* Half a megabyte: what send() fills is still in the second-level cache when transmit() reads it. */
    VE_BATCH_BYTES = 512 * 1024,
    VE_BATCH_TRAINS = 256,
    VE_TRAIN_BYTES = 65536, /* the largest GRO train */
    VE_TRAIN_SEND = 65000,  /* and the largest GSO train: 64 KiB minus the headers of IP and UDP */
    VE_TRAIN_SEGMENTS = 64, /* UDP_MAX_SEGMENTS of older kernels */
    VE_MAX_LISTENERS = 256,
};

typedef struct ve_train {
    uint32_t offset;
    uint32_t length;
    uint32_t segment_size; /* 0 only when length is 0 */
    int listener;
    uint8_t tos;
    uint64_t connection;  /* handle of the one that sends it; 0: nobody's answer, or received */
    uint64_t received_ns; /* not 0: another worker received it */
    ve_address peer;
    ve_address local; /* length 0: not known */
} ve_train;

struct ve_batch {
    PyObject_HEAD ve_engine *engine;
    uint8_t *memory;
    size_t used;
    unsigned count;
    unsigned first; /* trains before it are sent */
    bool busy;
    ve_train trains[VE_BATCH_TRAINS];
};

/* What a batch must remember between calls, kept in the engine because batches come and go. */
typedef struct ve_io {
    struct {
        bool known;
        uint32_t drops;
    } listeners[VE_MAX_LISTENERS];
    ve_address no_gso[256]; /* destinations that refused UDP_SEGMENT, by hash; a newer one takes the place */
} ve_io;

/* For the engine: room for one more train of up to `bytes`; NULL when the batch is full. Filled in, then committed. */
ve_train *ve_batch_next(ve_batch *batch, size_t bytes);
void ve_batch_commit(ve_batch *batch, ve_train *train);
void ve_batch_clear(ve_batch *batch);

/* One datagram of our own making (Retry, reset ...). False: full. */
bool ve_batch_add(ve_batch *batch, const uint8_t *data, size_t length, const ve_address *local, const ve_address *peer,
                  int listener);

#endif
