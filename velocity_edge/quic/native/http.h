/* HTTP/3 of one connection on nghttp3: what the callbacks mean to our streams, and how an answer is submitted.
 *
 * Ownership: the nghttp3_conn belongs to its connection, from our 1-RTT write key to the connection's end. QPACK has no
 * dynamic table in either direction: no state that a peer could grow, no blocked streams.
 */
#ifndef VE_HTTP_H
#define VE_HTTP_H

#include "base.h"

/* 0, or -1 when the peer doesn't let us open our three streams, or without memory. */
int ve_http_start(ve_connection *connection);

/* Stream bytes from ngtcp2; 0 or an ngtcp2 error (the connection's error is set). */
int ve_http_receive(ve_connection *connection, int64_t id, ve_stream *stream, const uint8_t *data, size_t length,
                    bool fin);

/* Answer: 1 done, 0 the stream can't take it, -1 with an exception. Informational ones don't end the section. */
int ve_http_respond(ve_stream *stream, int status, PyObject *headers, PyObject *body, bool fin);

/* More is there to be sent for a stream whose data_reader had nothing. */
void ve_http_resume(ve_stream *stream);

#endif
