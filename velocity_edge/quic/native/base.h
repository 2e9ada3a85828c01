/* Included by every file of the native engine: addresses, limits, counters, error codes.
 *
 * docs/native-engine.md lists all files in their layers: a file calls only files below it. The comment at the top of
 * each header says who owns what.
 */
#ifndef VE_BASE_H
#define VE_BASE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <nghttp3/nghttp3.h>
#include <ngtcp2/ngtcp2.h>

#define VE_CID_LENGTH 20
#define VE_CID_CONFIGS 7   /* config ids 0..6 */
#define VE_FOREIGN_ID (-1) /* instead of a config id: the peer chose the id */
#define VE_RESET_TOKEN_LENGTH 16
#define VE_SECOND_NS 1000000000ull
#define VE_NEVER UINT64_MAX

/* HTTP/3 error codes (RFC 9114 section 8.1, RFC 9204 section 8.3) */
#define VE_H3_NO_ERROR 0x100
#define VE_H3_GENERAL_PROTOCOL_ERROR 0x101
#define VE_H3_INTERNAL_ERROR 0x102
#define VE_H3_STREAM_CREATION_ERROR 0x103
#define VE_H3_CLOSED_CRITICAL_STREAM 0x104
#define VE_H3_FRAME_UNEXPECTED 0x105
#define VE_H3_FRAME_ERROR 0x106
#define VE_H3_EXCESSIVE_LOAD 0x107
#define VE_H3_ID_ERROR 0x108
#define VE_H3_SETTINGS_ERROR 0x109
#define VE_H3_MISSING_SETTINGS 0x10a
#define VE_H3_REQUEST_CANCELLED 0x10c
#define VE_H3_REQUEST_INCOMPLETE 0x10d
#define VE_H3_MESSAGE_ERROR 0x10e
#define VE_QPACK_DECOMPRESSION_FAILED 0x200
#define VE_QPACK_ENCODER_STREAM_ERROR 0x201
#define VE_QPACK_DECODER_STREAM_ERROR 0x202

/* An address as the kernel takes it. It is never an IPv4-mapped IPv6 address: receiving.c and sending.c convert. */
typedef struct ve_address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t length;
} ve_address;

static inline bool ve_address_equal(const ve_address *a, const ve_address *b) {
    if (a->any.sa_family != b->any.sa_family) {
        return false;
    }
    if (a->any.sa_family == AF_INET) {
        return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
    }
    return a->v6.sin6_port == b->v6.sin6_port && a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
           memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0;
}

static inline void ve_address_from_ngtcp2(ve_address *out, const ngtcp2_addr *in) {
    memset(out, 0, sizeof *out);
    memcpy(&out->any, in->addr, in->addrlen);
    out->length = in->addrlen;
}

/* The tuple (packed address, port) of datagrams.py, in both directions. ve_address_from_python returns 0, or -1 with
 * an exception. */
void ve_address_pack(uint8_t out[16], const ve_address *address); /* IPv6 */
PyObject *ve_address_to_python(const ve_address *address);
int ve_address_from_python(ve_address *address, PyObject *pair);

/* The limits of velocity_edge/quic/limits.py, in the units used here. */
typedef struct ve_limits {
    size_t max_connections;
    size_t max_half_open;
    uint64_t handshake_timeout_ns;
    uint64_t idle_timeout_ns;
    size_t max_crypto_bytes;
    uint64_t stream_window_bytes;
    uint64_t connection_window_bytes;
    size_t max_datagram_bytes;
    uint64_t max_streams_bidi;
    uint64_t max_streams_uni;
    size_t max_field_section_bytes;
    size_t max_control_frame_bytes;
    size_t send_high_bytes;
    size_t send_low_bytes;
    size_t max_unacked_bytes;
    size_t max_unacked_bytes_per_worker;
    size_t max_active_cids;
    size_t half_open_memory_bytes;
    size_t received_memory_bytes;
    size_t sent_memory_bytes;
    unsigned max_glitches_per_s;
    unsigned max_migrations_per_s;
    uint64_t request_timeout_ns;
    uint64_t stall_timeout_ns;
    unsigned max_resets_per_s;
    unsigned max_version_negotiations_per_s;
} ve_limits;

/* Allow at most `limit` per second, counted in fixed seconds: an upper bound, not a shaper. */
typedef struct ve_rate {
    uint64_t second;
    unsigned count;
} ve_rate;

static inline bool ve_rate_allow(ve_rate *rate, unsigned limit, uint64_t now_ns) {
    uint64_t second = now_ns / VE_SECOND_NS;
    if (rate->second != second) {
        rate->second = second;
        rate->count = 0;
    }
    if (rate->count >= limit) {
        return false;
    }
    rate->count++;
    return true;
}

/* The names of velocity_edge/wire/counters.py in the same order: the module cannot be imported when they differ. */
/* clang-format off */
#define VE_COUNTERS(X) \
    X(datagrams_received) \
    X(datagrams_injected) \
    X(verdict_delivered) \
    X(verdict_accepted) \
    X(verdict_retried) \
    X(verdict_refused) \
    X(verdict_version_negotiated) \
    X(verdict_reset) \
    X(verdict_handed_over) \
    X(verdict_dropped_malformed) \
    X(verdict_dropped_small_initial) \
    X(verdict_dropped_unknown_cid) \
    X(verdict_dropped_foreign_id) \
    X(verdict_dropped_version) \
    X(verdict_dropped_half_open) \
    X(verdict_dropped_prefix) \
    X(verdict_dropped_connections) \
    X(verdict_dropped_not_accepting) \
    X(verdict_dropped_reset_limit) \
    X(verdict_dropped_token) \
    X(verdict_dropped_forwarded) \
    X(verdict_dropped_internal) \
    X(receive_calls) \
    X(receive_bytes) \
    X(socket_overflows) \
    X(datagrams_sent) \
    X(send_calls) \
    X(send_bytes) \
    X(send_errors) \
    X(gso_fallbacks) \
    X(handover_full) \
    X(connections_opened) \
    X(connections_closed) \
    X(handshakes_completed) \
    X(handshakes_failed) \
    X(handshakes_timed_out) \
    X(handshakes_resumed) \
    X(handshakes_x25519mlkem768) \
    X(handshakes_secp256r1mlkem768) \
    X(handshakes_secp384r1mlkem1024) \
    X(handshakes_classical) \
    X(hello_retry_requests) \
    X(requests) \
    X(responses_1xx) \
    X(responses_2xx) \
    X(responses_3xx) \
    X(responses_4xx) \
    X(responses_5xx) \
    X(streams_reset) \
    X(glitches) \
    X(migrations) \
    X(upcall_errors) \
    X(memory_exceeded) \
    X(migrations_refused) \
    X(path_mtu_lowered) \
    X(stalled)
/* clang-format on */

enum ve_counter {
#define X(name) VE_##name,
    VE_COUNTERS(X)
#undef X
        VE_COUNTER_COUNT
};

typedef struct ve_engine ve_engine;
typedef struct ve_connection ve_connection;
typedef struct ve_stream ve_stream;
typedef struct ve_module ve_module;
typedef struct ve_batch ve_batch;
typedef struct ve_transport ve_transport;

#endif
