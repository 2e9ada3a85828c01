/* What the libraries hold for one connection, in bytes, by who made them: a frame that came in, or our own sending.
 *
 * Flow control bounds the bytes of a stream, not what it costs to keep them: a byte behind a gap costs a node of a tree,
 * 60 times its size, and ngtcp2 counts none of that. So each connection has allocators of its own, which count.
 * They only count. The owner compares after each packet (connection.c) and ends the connection: an allocation that
 * failed in the middle would be an error of ours.
 */
#ifndef VE_MEMORY_H
#define VE_MEMORY_H

#include "base.h"

typedef enum ve_holder {
    VE_RECEIVED, /* allocated while a packet was read: gaps, data behind them, streams, fields */
    VE_SENT,     /* by ngtcp2 otherwise: the connection itself, and packets that are not acknowledged */
    VE_HTTP,     /* by nghttp3 otherwise: answers; bounded by streams */
    VE_HOLDERS,
} ve_holder;

typedef struct ve_memory {
    ngtcp2_mem quic;
    nghttp3_mem http;
    bool reading;
    size_t bytes[VE_HOLDERS]; /* with what the allocator adds */
} ve_memory;

/* It must not move, and must outlive what was allocated by it. */
void ve_memory_init(ve_memory *memory);

#endif
