/* Allocators that count. */
#include "memory.h"

#include <stddef.h>
#include <stdlib.h>

/* In front of each allocation. Its size is a multiple of the strictest alignment, so that what follows is aligned. */
typedef struct header {
    _Alignas(max_align_t) size_t bytes;
    ve_holder holder;
} header;

enum { ALLOCATOR_BYTES = 8 }; /* overhead of malloc per block (glibc) */

static void *allocate(ve_memory *memory, ve_holder holder, size_t size, bool zeroed) {
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    size_t bytes = sizeof(header) + size;
    header *block = zeroed ? calloc(1, bytes) : malloc(bytes);
    if (block == NULL) {
        return NULL;
    }
    block->holder = memory->reading ? VE_RECEIVED : holder;
    block->bytes = bytes + ALLOCATOR_BYTES;
    memory->bytes[block->holder] += block->bytes;
    return block + 1;
}

static void release(void *pointer, void *user) {
    ve_memory *memory = user;
    if (pointer != NULL) {
        header *block = (header *)pointer - 1;
        memory->bytes[block->holder] -= block->bytes;
        free(block);
    }
}

static void *resize(ve_memory *memory, ve_holder holder, void *pointer, size_t size) {
    if (pointer == NULL) {
        return allocate(memory, holder, size, false);
    }
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    header *block = realloc((header *)pointer - 1, sizeof(header) + size);
    if (block == NULL) {
        return NULL;
    }
    memory->bytes[block->holder] -= block->bytes;
    block->bytes = sizeof(header) + size + ALLOCATOR_BYTES;
    memory->bytes[block->holder] += block->bytes;
    return block + 1;
}

static void *zeroed(ve_memory *memory, ve_holder holder, size_t count, size_t size) {
    size_t total;
    return __builtin_mul_overflow(count, size, &total) ? NULL : allocate(memory, holder, total, true);
}

static void *quic_malloc(size_t size, void *user) {
    return allocate(user, VE_SENT, size, false);
}
static void *quic_calloc(size_t count, size_t size, void *user) {
    return zeroed(user, VE_SENT, count, size);
}
static void *quic_realloc(void *pointer, size_t size, void *user) {
    return resize(user, VE_SENT, pointer, size);
}
static void *http_malloc(size_t size, void *user) {
    return allocate(user, VE_HTTP, size, false);
}
static void *http_calloc(size_t count, size_t size, void *user) {
    return zeroed(user, VE_HTTP, count, size);
}
static void *http_realloc(void *pointer, size_t size, void *user) {
    return resize(user, VE_HTTP, pointer, size);
}

void ve_memory_init(ve_memory *memory) {
    *memory = (ve_memory){
        .quic = {memory, quic_malloc, release, quic_calloc, quic_realloc},
        .http = {memory, http_malloc, release, http_calloc, http_realloc},
    };
}
