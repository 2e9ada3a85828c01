#include "batch.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

#include "engine.h"
#include "events.h"
#include "module.h"
#include "siphash.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

/* --- addresses ------------------------------------------------------------------------------------------------------- */

static void unmap(ve_address *address) {
    if (address->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr)) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = address->v6.sin6_port};
        memcpy(&v4.sin_addr, address->v6.sin6_addr.s6_addr + 12, 4);
        address->v4 = v4;
        address->length = sizeof v4;
    }
}

static ve_address mapped(const ve_address *address) {
    ve_address out = {.length = sizeof out.v6};
    out.v6.sin6_family = AF_INET6;
    out.v6.sin6_port = address->v4.sin_port;
    out.v6.sin6_addr.s6_addr[10] = out.v6.sin6_addr.s6_addr[11] = 0xff;
    memcpy(out.v6.sin6_addr.s6_addr + 12, &address->v4.sin_addr, 4);
    return out;
}

PyObject *ve_address_to_python(const ve_address *address) {
    if (address->length == 0) {
        return Py_BuildValue("(y#i)", "", (Py_ssize_t)0, 0);
    }
    if (address->any.sa_family == AF_INET) {
        return Py_BuildValue("(y#i)", &address->v4.sin_addr, (Py_ssize_t)4, (int)ntohs(address->v4.sin_port));
    }
    return Py_BuildValue("(y#i)", &address->v6.sin6_addr, (Py_ssize_t)16, (int)ntohs(address->v6.sin6_port));
}

int ve_address_from_python(ve_address *address, PyObject *pair) {
    const uint8_t *packed;
    Py_ssize_t length;
    int port;
    memset(address, 0, sizeof *address);
    if (!PyTuple_Check(pair)) {
        PyErr_SetString(PyExc_TypeError, "an address is (packed bytes, port)");
        return -1;
    }
    if (!PyArg_ParseTuple(pair, "y#i;an address is (packed bytes, port)", &packed, &length, &port)) {
        return -1;
    }
    if ((length != 0 && length != 4 && length != 16) || port < 0 || port > 65535) {
        PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes, a port 0..65535");
        return -1;
    }
    if (length == 4) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons((uint16_t)port);
        memcpy(&address->v4.sin_addr, packed, 4);
        address->length = sizeof address->v4;
    } else if (length == 16) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons((uint16_t)port);
        memcpy(&address->v6.sin6_addr, packed, 16);
        address->length = sizeof address->v6;
    }
    return 0;
}

/* --- the arena ------------------------------------------------------------------------------------------------------- */

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

/* --- receiving ------------------------------------------------------------------------------------------------------- */

/* `received->local` begins as what getsockname() said; IP_PKTINFO replaces the address and leaves the port. */
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
            train->local.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = info.ipi6_addr};
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

/* Drops before our time are not ours to count: the socket outlives its workers. */
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

static PyObject *batch_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
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
        return PyErr_Format(PyExc_ValueError, "listener %ld is not in 0..%d", listener, VE_MAX_LISTENERS - 1);
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
    /* Errors that ICMP left on the socket come one per call: each costs one of these rounds, so the loop ends. */
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
        struct msghdr message = {
            .msg_name = &train->peer.any, .msg_namelen = sizeof train->peer.v6, .msg_iov = &vector, .msg_iovlen = 1,
            .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
        ssize_t length = recvmsg((int)fd, &message, MSG_DONTWAIT);
        if (length < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                break;
            }
            if (errno == EBADF || errno == ENOTSOCK || errno == EINVAL || errno == EFAULT) {
                return PyErr_SetFromErrno(PyExc_OSError);
            }
            if (errno != EINTR) {
                engine->counters[VE_send_errors]++; /* what ICMP said about something we sent */
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

/* --- sending --------------------------------------------------------------------------------------------------------- */

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

/* `length` bytes of the train from its offset, cut by the kernel when that is more than one segment. 0 or errno. */
static int send_part(const ve_batch *batch, const ve_train *train, int fd, int domain, uint32_t length) {
    union {
        char bytes[256];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    ve_address to = train->peer;
    size_t used = 0;
    struct iovec vector = {batch->memory + train->offset, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes};
    /* To IPv4 the options are IPv4's, also on a dual-stack socket, where only the name is mapped. */
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
            struct in6_pktinfo info = {.ipi6_addr = train->local.v6.sin6_addr};
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
    /* An error that ICMP left on the socket is reported by the next call, whoever that was for: once more. */
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

/* True: the train is gone (sent, or lost and counted). False: the socket would block; what is left stays in the train. */
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
        if (error != 0) {
            engine->counters[VE_send_errors]++;
        }
        train->offset += length;
        train->length -= length;
    }
    return true;
}

static PyObject *batch_transmit(PyObject *self, PyObject *sequence) {
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
            if (getsockopt(descriptors[train->listener], SOL_SOCKET, SO_DOMAIN, &domains[train->listener], &length) != 0) {
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

/* --- Python's view --------------------------------------------------------------------------------------------------- */

static long integer_attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    long result = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    return result;
}

/* Everything but the bytes. 0, or -1 with an exception. */
static int train_from_python(ve_train *train, PyObject *object) {
    PyObject *peer = PyObject_GetAttrString(object, "peer");
    PyObject *local = PyObject_GetAttrString(object, "local");
    PyObject *received = PyObject_GetAttrString(object, "received_ns");
    int result = -1;
    if (peer != NULL && local != NULL && received != NULL && ve_address_from_python(&train->peer, peer) == 0 &&
        ve_address_from_python(&train->local, local) == 0) {
        long segment = integer_attribute(object, "segment_size");
        long listener = PyErr_Occurred() ? -1 : integer_attribute(object, "listener");
        long tos = PyErr_Occurred() ? -1 : integer_attribute(object, "tos");
        train->received_ns = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(received);
        if (PyErr_Occurred()) {
            result = -1;
        } else if (segment < 0 || segment > VE_TRAIN_BYTES || listener < 0 || listener >= VE_MAX_LISTENERS || tos < 0 ||
                   tos > 255 || (segment == 0 && train->length > 0) || train->peer.length == 0) {
            PyErr_SetString(PyExc_ValueError, "not a train: segment size, listener, tos or peer out of range");
        } else {
            train->segment_size = (uint32_t)segment < train->length ? (uint32_t)segment : train->length;
            train->listener = (int)listener;
            train->tos = (uint8_t)tos;
            result = 0;
        }
    }
    Py_XDECREF(peer);
    Py_XDECREF(local);
    Py_XDECREF(received);
    return result;
}

static PyObject *batch_append(PyObject *self, PyObject *object) {
    ve_batch *batch = (ve_batch *)self;
    Py_buffer view;
    PyObject *data = PyObject_GetAttrString(object, "data");
    if (data == NULL) {
        return NULL;
    }
    int failed = PyObject_GetBuffer(data, &view, PyBUF_SIMPLE);
    Py_DECREF(data); /* the view keeps it */
    if (failed) {
        return NULL;
    }
    PyObject *result = NULL;
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
    } else if (view.len > VE_TRAIN_BYTES) {
        PyErr_SetString(PyExc_ValueError, "not a train: more than 64 KiB");
    } else {
        ve_train *train = ve_batch_next(batch, (size_t)view.len);
        if (train == NULL) {
            result = Py_NewRef(Py_False);
        } else {
            train->length = (uint32_t)view.len;
            if (train_from_python(train, object) == 0) {
                memcpy(batch->memory + train->offset, view.buf, (size_t)view.len);
                ve_batch_commit(batch, train);
                result = Py_NewRef(Py_True);
            }
        }
    }
    PyBuffer_Release(&view);
    return result;
}

static PyObject *train_to_python(ve_batch *batch, const ve_train *train) {
    PyObject *values[] = {
        PyBytes_FromStringAndSize((char *)batch->memory + train->offset, train->length),
        PyLong_FromUnsignedLong(train->segment_size),
        ve_address_to_python(&train->peer),
        ve_address_to_python(&train->local),
        PyLong_FromLong(train->listener),
        PyLong_FromLong(train->tos),
        PyLong_FromUnsignedLongLong(train->received_ns),
    };
    return ve_record_new(&batch->engine->module->train, values);
}

static PyObject *batch_iter(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    PyObject *list = PyList_New(0);
    for (unsigned i = batch->first; list != NULL && i < batch->count; i++) {
        PyObject *train = train_to_python(batch, &batch->trains[i]);
        if (train == NULL || PyList_Append(list, train) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(train);
    }
    PyObject *iterator = list == NULL ? NULL : PyObject_GetIter(list);
    Py_XDECREF(list);
    return iterator;
}

static PyObject *batch_clear(PyObject *self, PyObject *unused) {
    ve_batch *batch = (ve_batch *)self;
    (void)unused;
    if (batch->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this batch is in use by its engine");
        return NULL;
    }
    ve_batch_clear(batch);
    Py_RETURN_NONE;
}

static Py_ssize_t batch_length(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    return (Py_ssize_t)(batch->count - batch->first);
}

PyObject *ve_batch_new(ve_engine *engine) {
    PyTypeObject *type = engine->module->batch_type;
    ve_batch *batch = (ve_batch *)type->tp_alloc(type, 0);
    if (batch == NULL) {
        return NULL;
    }
    batch->memory = PyMem_Malloc(VE_BATCH_BYTES);
    batch->engine = (ve_engine *)Py_NewRef((PyObject *)engine);
    if (batch->memory == NULL) {
        Py_DECREF(batch);
        return PyErr_NoMemory();
    }
    return (PyObject *)batch;
}

static int batch_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((ve_batch *)self)->engine);
    return 0;
}

static void batch_dealloc(PyObject *self) {
    ve_batch *batch = (ve_batch *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    PyMem_Free(batch->memory);
    Py_XDECREF(batch->engine);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef batch_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))batch_receive, METH_FASTCALL, "Take trains from a UDP socket."},
    {"transmit", batch_transmit, METH_O, "Send the trains, each on the socket of its listener."},
    {"append", batch_append, METH_O, "Add one train; False when the batch is full."},
    {"clear", batch_clear, METH_NOARGS, "Forget the trains."},
    {0},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_doc, "Trains of datagrams in native memory (velocity_edge.quic.engine.Batch)."},
    {Py_tp_methods, batch_methods},
    {Py_tp_iter, batch_iter},
    {Py_tp_traverse, batch_traverse},
    {Py_tp_dealloc, batch_dealloc},
    {Py_sq_length, batch_length},
    {0, NULL},
};

PyType_Spec ve_batch_spec = {
    .name = "velocity_edge.quic.native._native.Batch",
    .basicsize = sizeof(ve_batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = batch_slots,
};
