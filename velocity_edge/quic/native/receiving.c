/* receive() of a batch: recvmsg() with GRO, packet information, ECN and the count of drops. */
#include "surface.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

#include "batch.h"
#include "engine.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static void unmap(ve_address *address) {
    if (address->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr)) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = address->v6.sin6_port};
        memcpy(&v4.sin_addr, address->v6.sin6_addr.s6_addr + 12, 4);
        address->v4 = v4;
        address->length = sizeof v4;
    }
}

/* `train->local` begins as the result of getsockname(). IP_PKTINFO replaces the address and keeps the port. */
static void read_control(struct msghdr *message, ve_train *train, ve_engine *engine) {
    in_port_t port = train->local.any.sa_family == AF_INET ? train->local.v4.sin_port : train->local.v6.sin6_port;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        int value;
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&value, CMSG_DATA(c), sizeof value);
            if (value > 0 && (uint32_t)value < train->length) {
                train->segment_size = (uint32_t)value;
            }
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            train->local.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr = info.ipi_addr};
            train->local.length = sizeof train->local.v4;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            train->local.v6 =
                (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = info.ipi6_addr};
            if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) {
                train->local.v6.sin6_scope_id = info.ipi6_ifindex;
            }
            train->local.length = sizeof train->local.v6;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            train->tos = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            memcpy(&value, CMSG_DATA(c), sizeof value);
            train->tos = (uint8_t)value;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
            uint32_t drops;
            memcpy(&drops, CMSG_DATA(c), sizeof drops);
            uint32_t lost = drops - engine->io.listeners[train->listener].drops;
            if (lost < UINT32_MAX / 2) { /* a train received earlier may be read later */
                engine->counters[VE_socket_overflows] += lost;
                engine->io.listeners[train->listener].drops = drops;
            }
        }
    }
}

/* Drops before this worker started are not counted: the socket outlives its workers. */
static void first_look(ve_engine *engine, int fd, int listener) {
    uint32_t information[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof information;
    if (!engine->io.listeners[listener].known) {
        engine->io.listeners[listener].known = true;
        if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, information, &length) == 0) {
            engine->io.listeners[listener].drops = information[SK_MEMINFO_DROPS];
        }
    }
}

PyObject *ve_batch_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    ve_batch *batch = (ve_batch *)self;
    ve_engine *engine = batch->engine;
    ve_address bound = {0};
    socklen_t bound_length = sizeof bound.v6;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "receive(fd, listener)");
        return NULL;
    }
    long fd = PyLong_AsLong(arguments[0]);
    long listener = PyLong_AsLong(arguments[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (listener < 0 || listener >= VE_MAX_LISTENERS) {
        return PyErr_Format(PyExc_ValueError, "listener %ld is out of range 0..%d", listener, VE_MAX_LISTENERS - 1);
    }
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
        return NULL;
    }
    if (getsockname((int)fd, &bound.any, &bound_length) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    bound.length = bound_length;
    first_look(engine, (int)fd, (int)listener);
    /* Errors that ICMP left on the socket are returned one per call. Each takes one round, so the loop ends. */
    for (int rounds = 0; rounds < 2 * VE_BATCH_TRAINS; rounds++) {
        union {
            char bytes[256];
            struct cmsghdr align;
        } control;
        ve_train *train = ve_batch_next(batch, VE_TRAIN_BYTES);
        if (train == NULL) {
            break;
        }
        struct iovec vector = {batch->memory + train->offset, VE_TRAIN_BYTES};
        struct msghdr message = {.msg_name = &train->peer.any,
                                 .msg_namelen = sizeof train->peer.v6,
                                 .msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control.bytes};
        ssize_t length = recvmsg((int)fd, &message, MSG_DONTWAIT);
        if (length < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                break;
            }
            if (errno == EBADF || errno == ENOTSOCK || errno == EINVAL || errno == EFAULT) {
                return PyErr_SetFromErrno(PyExc_OSError);
            }
            if (errno != EINTR) {
                engine->counters[VE_send_errors]++; /* an ICMP error for a datagram that was sent */
            }
            continue;
        }
        train->length = train->segment_size = (uint32_t)length;
        train->listener = (int)listener;
        train->peer.length = message.msg_namelen;
        train->local = bound;
        read_control(&message, train, engine);
        unmap(&train->peer);
        unmap(&train->local);
        engine->counters[VE_receive_calls]++;
        engine->counters[VE_receive_bytes] += (uint64_t)length;
        ve_batch_commit(batch, train);
    }
    return PyLong_FromUnsignedLong(batch->count);
}
