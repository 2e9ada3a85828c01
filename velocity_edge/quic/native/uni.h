/* A unidirectional stream of the peer: uni.c reads its type, control.c the control stream. */
#ifndef VE_UNI_H
#define VE_UNI_H

#include "http.h"

typedef enum ve_uni_kind { VE_UNI_CONTROL, VE_UNI_PUSH, VE_UNI_ENCODER, VE_UNI_DECODER, VE_UNI_OTHER } ve_uni_kind;

struct ve_uni {
    ve_uni *next;
    int64_t id;
    bool typed; /* its type is known */
    ve_uni_kind kind;
    ve_varint varint;
    /* Control stream. */
    bool in_frame_head; /* the type is known, the length is not */
    bool in_frame;
    uint64_t frame_type;
    uint64_t frame_left;
    uint8_t *payload; /* NULL: the frame is ignored */
    size_t payload_length;
    /* Decoder stream: how many more bytes a Stream Cancellation may have. */
    unsigned integer_left;
};

/* Bytes of the control stream; 0 or an ngtcp2 error. */
int ve_control_read(ve_connection *connection, ve_uni *uni, const uint8_t *at, const uint8_t *end);

#endif
