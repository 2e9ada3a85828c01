/* Packets of a connection, up to one send quantum. */
#include "life.h"

#include "batch.h"
#include "engine.h"
#include "http.h"
#include "module.h"
#include "stream.h"

/* Write one packet. NGTCP2_ERR_WRITE_MORE: the bytes were taken, and the packet has room for another stream. */
static ngtcp2_ssize write_packet(ve_connection *connection, ngtcp2_path *path, ngtcp2_pkt_info *info, uint8_t *out,
                                 size_t size) {
    nghttp3_vec vectors[16];
    for (;;) {
        int64_t id = -1;
        int fin = 0;
        ngtcp2_ssize taken = -1;
        nghttp3_ssize count = 0;
        if (connection->http != NULL && ngtcp2_conn_get_max_data_left(connection->quic) > 0) {
            count = nghttp3_conn_writev_stream(connection->http, &id, &fin, vectors, 16);
            if (count < 0) {
                ve_connection_fail(connection, NGTCP2_CCERR_TYPE_APPLICATION,
                                   nghttp3_err_infer_quic_app_error_code((int)count), nghttp3_strerror((int)count));
                return NGTCP2_ERR_CALLBACK_FAILURE;
            }
        }
        uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE | (fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : 0);
        ngtcp2_ssize n =
            ngtcp2_conn_writev_stream(connection->quic, path, info, out, size, &taken, flags, id,
                                      (const ngtcp2_vec *)vectors, (size_t)count, connection->engine->now_ns);
        if (n == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
            nghttp3_conn_block_stream(connection->http, id);
            continue;
        }
        if (n == NGTCP2_ERR_STREAM_SHUT_WR || n == NGTCP2_ERR_STREAM_NOT_FOUND) {
            nghttp3_conn_shutdown_stream_write(connection->http, id);
            continue;
        }
        if (taken >= 0 && id >= 0) {
            int rv = nghttp3_conn_add_write_offset(connection->http, id, (size_t)taken);
            if (rv != 0) {
                return NGTCP2_ERR_CALLBACK_FAILURE;
            }
        }
        if (n != NGTCP2_ERR_WRITE_MORE) {
            return n;
        }
    }
}

/* Joins the packets of a flight to trains that UDP_SEGMENT can split: one path, one ECN mark, equal sizes except for
 * the last packet. */
typedef struct writer {
    ve_batch *batch;
    ve_train *train; /* NULL: no open train */
} writer;

static void commit(writer *w) {
    if (w->train != NULL) {
        ve_batch_commit(w->batch, w->train);
        w->train = NULL;
    }
}

/* Return memory for the next packet; NULL: the batch is full. */
static uint8_t *place(writer *w, size_t size) {
    if (w->train != NULL && w->train->length + size > VE_TRAIN_SEND) {
        commit(w);
    }
    if (w->train == NULL) {
        w->train = ve_batch_next(w->batch, size);
    } else if (w->train->offset + w->train->length + size > VE_BATCH_BYTES) {
        commit(w);
        return NULL;
    }
    return w->train == NULL ? NULL : w->batch->memory + w->train->offset + w->train->length;
}

static void add_packet(writer *w, const ve_connection *connection, const ngtcp2_path *path, const ngtcp2_pkt_info *info,
                       uint32_t length) {
    ve_train *train = w->train;
    ve_address peer;
    ve_address_from_ngtcp2(&peer, &path->remote);
    if (train->length > 0) {
        if (length <= train->segment_size && train->tos == info->ecn && ve_address_equal(&train->peer, &peer)) {
            train->length += length;
            if (length < train->segment_size || train->length / train->segment_size >= VE_TRAIN_SEGMENTS) {
                commit(w); /* a shorter packet must be the last of a train */
            }
            return;
        }
        /* A larger packet (path MTU probe), another path or ECN mark: begin a new train. */
        const uint8_t *from = w->batch->memory + train->offset + train->length;
        commit(w);
        train = ve_batch_next(w->batch, length);
        if (train == NULL) {
            return; /* lost like any packet; happens only when the 256th train ends exactly here */
        }
        memmove(w->batch->memory + train->offset, from, length);
        w->train = train;
    }
    train->length = train->segment_size = length;
    train->tos = (uint8_t)info->ecn;
    train->peer = peer;
    train->connection = connection->handle;
    ve_address_from_ngtcp2(&train->local, &path->local);
    train->listener = (int)(intptr_t)path->user_data;
}

static void reset_broken_streams(ve_connection *connection) {
    for (ve_stream *stream = connection->streams; stream != NULL && connection->broken_streams > 0;
         stream = stream->next) {
        if (stream->broken) {
            stream->broken = false;
            connection->broken_streams--;
            ve_stream_reset(stream, VE_H3_INTERNAL_ERROR);
        }
    }
}

/* Bytes in flight were acknowledged: resume streams that waited for room. */
static void resume_paused(ve_connection *connection) {
    if (connection->paused_streams == 0 || !ve_connection_has_room(connection)) {
        return;
    }
    for (ve_stream *stream = connection->streams; stream != NULL; stream = stream->next) {
        if (stream->paused) {
            ve_http_resume(stream);
        }
    }
}

ve_written ve_connection_write(ve_connection *connection, ve_batch *batch) {
    ve_engine *engine = connection->engine;
    writer w = {batch, NULL};
    if (connection->state != VE_OPEN) {
        if (connection->repeat) {
            if (!ve_batch_add(batch, connection->last_packet, connection->last_packet_length, &connection->last_local,
                              &connection->last_peer, connection->last_listener)) {
                return VE_WRITTEN_FULL;
            }
            connection->repeat = false;
        }
        return VE_WRITTEN_ALL;
    }
    if (connection->close_requested) {
        ve_connection_close(connection, 0);
        return VE_WRITTEN_LAST;
    }
    resume_paused(connection);
    size_t size = ve_mtu_size(connection);
    size_t quantum = ngtcp2_conn_get_send_quantum(connection->quic);
    size_t sent = 0;
    ve_written result = VE_WRITTEN_MORE;
    while (sent < quantum) {
        ngtcp2_path_storage path;
        ngtcp2_pkt_info info = {0};
        uint8_t *out = place(&w, size);
        if (out == NULL) {
            result = VE_WRITTEN_FULL;
            break;
        }
        ngtcp2_path_storage_zero(&path);
        ngtcp2_ssize n = write_packet(connection, &path.path, &info, out, size);
        if (n < 0 || connection->has_error) {
            if (w.train != NULL && w.train->length > 0) {
                commit(&w);
            }
            ve_connection_survives(connection, n < 0 ? (int)n : 0);
            return VE_WRITTEN_LAST;
        }
        if (n == 0) {
            result = VE_WRITTEN_ALL;
            break;
        }
        add_packet(&w, connection, &path.path, &info, (uint32_t)n);
        ve_mtu_sent(connection, (size_t)n);
        sent += (size_t)n;
    }
    if (w.train != NULL && w.train->length > 0) {
        commit(&w);
    }
    if (sent > 0) {
        ngtcp2_conn_info now;
        ngtcp2_conn_update_pkt_tx_time(connection->quic, engine->now_ns); /* required for pacing */
        ngtcp2_conn_get_conn_info(connection->quic, &now);
        if (now.bytes_in_flight > connection->most_in_flight) {
            connection->most_in_flight = now.bytes_in_flight;
        }
    }
    if (connection->broken_streams > 0) {
        reset_broken_streams(connection);
        result = result == VE_WRITTEN_ALL ? VE_WRITTEN_MORE : result;
    }
    ve_deadlines_update(connection);
    ve_deadlines_set_timer(connection);
    return result;
}
