/* The arena of a batch: trains, one after another. */
#include "batch.h"

ve_train *ve_batch_next(ve_batch *batch, size_t bytes) {
    if (batch->count == VE_BATCH_TRAINS || batch->used + bytes > VE_BATCH_BYTES) {
        return NULL;
    }
    ve_train *train = &batch->trains[batch->count];
    memset(train, 0, sizeof *train);
    train->offset = (uint32_t)batch->used;
    return train;
}

void ve_batch_commit(ve_batch *batch, ve_train *train) {
    batch->used = train->offset + ((train->length + 63u) & ~63u);
    batch->count++;
}

void ve_batch_clear(ve_batch *batch) {
    batch->used = 0;
    batch->count = 0;
    batch->first = 0;
}

bool ve_batch_add(ve_batch *batch, const uint8_t *data, size_t length, const ve_address *local, const ve_address *peer,
                  int listener) {
    ve_train *train = ve_batch_next(batch, length);
    if (train == NULL) {
        return false;
    }
    memcpy(batch->memory + train->offset, data, length);
    train->length = train->segment_size = (uint32_t)length;
    train->local = *local;
    train->peer = *peer;
    train->listener = listener;
    ve_batch_commit(batch, train);
    return true;
}
