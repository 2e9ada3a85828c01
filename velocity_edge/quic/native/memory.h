/* Bytes that the libraries allocated for one connection, by cause: a packet that was received, or sending.
 *
 * Flow control bounds the bytes of a stream, not the cost of storing them: a byte behind a gap takes a tree node, 60
 * times its size, and ngtcp2 does not count that. So each connection has allocators of its own that count. They refuse
 * nothing: reading.c compares after each packet and closes the connection, because an allocation that failed inside a
 * library would be reported as an internal error.
 */
#ifndef VE_MEMORY_H
#define VE_MEMORY_H

#include "base.h"

typedef enum ve_holder {
    VE_RECEIVED, /* while a packet was read: gaps, data after them, streams, fields */
    VE_SENT,     /* other allocations of ngtcp2: the connection itself, packets that are not acknowledged */
    VE_HTTP,     /* other allocations of nghttp3: responses; bounded by the number of streams */
    VE_HOLDERS,
} ve_holder;

typedef struct ve_memory {
    ngtcp2_mem quic;
    nghttp3_mem http;
    bool reading;
    size_t bytes[VE_HOLDERS]; /* including the overhead of malloc */
} ve_memory;

/* It must not move, and must outlive the allocations. */
void ve_memory_init(ve_memory *memory);

#endif
