/* transmit() of a batch: sendmsg() with GSO where the destination allows it, source address and ECN. */
#include "surface.h"

#include <errno.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

#include "batch.h"
#include "connection.h"
#include "engine.h"
#include "siphash.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static ve_address mapped(const ve_address *address) {
    ve_address out = {.length = sizeof out.v6};
    out.v6.sin6_family = AF_INET6;
    out.v6.sin6_port = address->v4.sin_port;
    out.v6.sin6_addr.s6_addr[10] = out.v6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(out.v6.sin6_addr.s6_addr + 12, &address->v4.sin_addr, 4);
    return out;
}

static ve_address *no_gso_entry(ve_engine *engine, const ve_address *peer) {
    uint64_t hash = peer->any.sa_family == AF_INET
                        ? ve_siphash13(engine->ids.key, (const uint8_t *)&peer->v4.sin_addr, 4)
                        : ve_siphash13(engine->ids.key, peer->v6.sin6_addr.s6_addr, 16);
    return &engine->io.no_gso[hash & 255];
}

static bool same_host(const ve_address *a, const ve_address *b) {
    if (a->any.sa_family != b->any.sa_family) {
        return false;
    }
    return a->any.sa_family == AF_INET ? a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr
                                       : memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0;
}

static void add_control(struct msghdr *message, size_t *used, int level, int type, const void *data, size_t length) {
    struct cmsghdr *c = (struct cmsghdr *)((char *)message->msg_control + *used);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(c), data, length);
    *used += CMSG_SPACE(length);
}

/* Send `length` bytes of the train from its offset; the kernel splits them when there is more than one segment. 0 or
 * errno. */
static int send_part(const ve_batch *batch, const ve_train *train, int fd, int domain, uint32_t length) {
    union {
        char bytes[256];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    ve_address to = train->peer;
    size_t used = 0;
    struct iovec vector = {batch->memory + train->offset, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes};
    /* For IPv4 the control messages are those of IPv4, also on a dual-stack socket, where only the address is
       mapped. */
    if (to.any.sa_family == AF_INET) {
        if (train->local.length != 0 && train->local.v4.sin_addr.s_addr != INADDR_ANY) {
            struct in_pktinfo info = {.ipi_spec_dst = train->local.v4.sin_addr};
            add_control(&message, &used, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
        }
        if (train->tos != 0) {
            int tos = train->tos;
            add_control(&message, &used, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
        }
        if (domain == AF_INET6) {
            to = mapped(&train->peer);
        }
    } else {
        if (train->local.length != 0 && !IN6_IS_ADDR_UNSPECIFIED(&train->local.v6.sin6_addr)) {
            struct in6_pktinfo info = {.ipi6_addr = train->local.v6.sin6_addr,
                                       .ipi6_ifindex = train->local.v6.sin6_scope_id};
            add_control(&message, &used, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
        }
        if (train->tos != 0) {
            int tclass = train->tos;
            add_control(&message, &used, IPPROTO_IPV6, IPV6_TCLASS, &tclass, sizeof tclass);
        }
    }
    if (length > train->segment_size) {
        uint16_t segment = (uint16_t)train->segment_size;
        add_control(&message, &used, SOL_UDP, UDP_SEGMENT, &segment, sizeof segment);
    }
    message.msg_name = &to.any;
    message.msg_namelen = to.length;
    message.msg_controllen = used;
    if (used == 0) {
        message.msg_control = NULL;
    }
    int error;
    /* An error that ICMP left on the socket is returned by the next call, for whatever destination: try once more. */
    for (int attempt = 0; attempt < 2; attempt++) {
        if (sendmsg(fd, &message, MSG_DONTWAIT) >= 0) {
            ve_engine *engine = batch->engine;
            engine->counters[VE_send_calls]++;
            engine->counters[VE_send_bytes] += length;
            engine->counters[VE_datagrams_sent] += (length + train->segment_size - 1) / train->segment_size;
            return 0;
        }
        error = errno;
        if (error != EINTR && error != ECONNREFUSED) {
            break;
        }
    }
    return error;
}

/* True: the train is done (sent, or lost and counted). False: the socket would block; the train holds the rest. */
static bool send_train(ve_batch *batch, ve_train *train, int fd, int domain) {
    ve_engine *engine = batch->engine;
    ve_address *refused = no_gso_entry(engine, &train->peer);
    bool single = same_host(refused, &train->peer);
    while (train->length > 0) {
        uint32_t length = single && train->length > train->segment_size ? train->segment_size : train->length;
        int error = send_part(batch, train, fd, domain, length);
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return false;
        }
        if ((error == EIO || error == EINVAL) && length > train->segment_size) {
            engine->counters[VE_gso_fallbacks]++;
            *refused = train->peer;
            single = true;
            continue;
        }
        if (error == EMSGSIZE && train->connection != 0) {
            ve_connection *connection = ve_handle_find(&engine->connections, train->connection);
            if (connection != NULL) {
                ve_mtu_refused(connection, train->segment_size);
            }
        }
        if (error != 0) {
            engine->counters[VE_send_errors]++;
        }
        train->offset += length;
        train->length -= length;
    }
    return true;
}

PyObject *ve_batch_transmit(PyObject *self, PyObject *sequence) {
    ve_batch *batch = (ve_batch *)self;
    int descriptors[VE_MAX_LISTENERS];
    int domains[VE_MAX_LISTENERS] = {0};
    PyObject *fast = PySequence_Fast(sequence, "transmit(fds): a sequence of descriptors, one per listener");
    if (fast == NULL) {
        return NULL;
    }
    Py_ssize_t n = PySequence_Fast_GET_SIZE(fast);
    if (n > VE_MAX_LISTENERS) {
        n = VE_MAX_LISTENERS;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        descriptors[i] = (int)PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, i));
    }
    Py_DECREF(fast);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
        return NULL;
    }
    while (batch->first < batch->count) {
        ve_train *train = &batch->trains[batch->first];
        if (train->listener >= n) {
            return PyErr_Format(PyExc_IndexError, "no descriptor for listener %d", train->listener);
        }
        if (domains[train->listener] == 0) {
            socklen_t length = sizeof(int);
            if (getsockopt(descriptors[train->listener], SOL_SOCKET, SO_DOMAIN, &domains[train->listener], &length) !=
                0) {
                return PyErr_SetFromErrno(PyExc_OSError);
            }
        }
        if (!send_train(batch, train, descriptors[train->listener], domains[train->listener])) {
            Py_RETURN_FALSE;
        }
        batch->first++;
    }
    ve_batch_clear(batch);
    Py_RETURN_TRUE;
}
