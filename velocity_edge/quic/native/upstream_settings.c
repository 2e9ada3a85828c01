/* PoolSettings and addresses from Python. */
#include "upstream.h"

#include <arpa/inet.h>

#include "engine.h"
#include "module.h"

static uint64_t number(PyObject *settings, const char *name) {
    if (PyErr_Occurred()) {
        return 0;
    }
    PyObject *value = PyObject_GetAttrString(settings, name);
    uint64_t result = value == NULL ? 0 : PyLong_AsUnsignedLongLong(value);
    Py_XDECREF(value);
    /* Times are added to the time of today. */
    return !PyErr_Occurred() && result > (uint64_t)INT64_MAX / 2 ? (uint64_t)INT64_MAX / 2 : result;
}

static bool speaks(PyObject *settings, ve_speaks *out) {
    static const char *const names[] = {"h1", "h2", "auto"};
    PyObject *name = PyErr_Occurred() ? NULL : PyObject_GetAttrString(settings, "protocol");
    if (name == NULL) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, names[i]) == 0) {
            *out = (ve_speaks)i;
            Py_DECREF(name);
            return true;
        }
    }
    PyErr_Format(PyExc_ValueError, "protocol %R: expected h1, h2 or auto", name);
    Py_DECREF(name);
    return false;
}

static void free_unused(ve_pool *pool) {
    SSL_CTX_free(pool->tls);
    free(pool->server_name);
    free(pool);
}

ve_pool *ve_pool_new(ve_upstreams *owner, PyObject *settings) {
    ve_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    pool->owner = owner;
    pool->connecting.timeout_ns = number(settings, "connect_timeout_ns");
    pool->responding.timeout_ns = number(settings, "response_timeout_ns");
    pool->moving.timeout_ns = number(settings, "idle_timeout_ns");
    pool->resting.timeout_ns = number(settings, "keepalive_timeout_ns");
    pool->max_connections = number(settings, "max_connections");
    pool->max_idle = number(settings, "max_idle_connections");
    pool->max_requests = number(settings, "max_requests_per_connection");
    pool->max_head_bytes = number(settings, "max_head_bytes");
    pool->max_fields = number(settings, "max_fields");
    pool->tcp_keepalive_ns = number(settings, "tcp_keepalive_ns");
    PyObject *tls = speaks(settings, &pool->speaks) ? PyObject_GetAttrString(settings, "tls") : NULL;
    bool failed = tls == NULL || (tls != Py_None && ve_pool_use_tls(pool, tls) != 0);
    Py_XDECREF(tls);
    if (!failed) {
        pool->handle = ve_handle_new(&owner->pools, pool);
        if (pool->handle == 0) {
            PyErr_NoMemory();
            failed = true;
        }
    }
    if (failed) {
        free_unused(pool);
        return NULL;
    }
    pool->next = owner->first_pool;
    if (pool->next != NULL) {
        pool->next->previous = pool;
    }
    owner->first_pool = pool;
    return pool;
}

static bool read_path(PyObject *path, ve_peer *peer) {
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(path, &length);
    if (text == NULL) {
        return false;
    }
    if (length == 0 || (size_t)length >= sizeof peer->un.sun_path) {
        PyErr_Format(PyExc_ValueError, "the path of a unix socket must have 1 to %d bytes: %R",
                     (int)sizeof peer->un.sun_path - 1, path);
        return false;
    }
    peer->un.sun_family = AF_UNIX;
    memcpy(peer->un.sun_path, text, (size_t)length);
    peer->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
    if (text[0] == '@') { /* Linux's abstract names */
        peer->un.sun_path[0] = 0;
        peer->length--;
    }
    return true;
}

static bool read_address(PyObject *address, ve_peer *peer) {
    const char *host;
    int port;
    memset(peer, 0, sizeof *peer);
    if (PyUnicode_Check(address)) {
        return read_path(address, peer);
    }
    if (!PyTuple_Check(address) || !PyArg_ParseTuple(address, "si", &host, &port)) {
        PyErr_SetString(PyExc_TypeError, "an address must be (host, port) or the path of a unix socket");
        return false;
    }
    if (port < 1 || port > 65535) {
        PyErr_Format(PyExc_ValueError, "port %d is out of range 1..65535", port);
        return false;
    }
    char literal[INET6_ADDRSTRLEN + 32];
    snprintf(literal, sizeof literal, "%s", host);
    char *zone = strchr(literal, '%');
    if (zone != NULL) {
        *zone++ = 0;
    }
    if (inet_pton(AF_INET, host, &peer->v4.sin_addr) == 1) {
        peer->v4.sin_family = AF_INET;
        peer->v4.sin_port = htons((uint16_t)port);
        peer->length = sizeof peer->v4;
    } else if (inet_pton(AF_INET6, literal, &peer->v6.sin6_addr) == 1) {
        peer->v6.sin6_family = AF_INET6;
        peer->v6.sin6_port = htons((uint16_t)port);
        peer->v6.sin6_scope_id = zone == NULL ? 0 : (uint32_t)strtoul(zone, NULL, 10);
        peer->length = sizeof peer->v6;
    } else {
        PyErr_Format(PyExc_ValueError, "an address must be literal, not %R", address);
        return false;
    }
    return true;
}

int ve_pool_use_addresses(ve_pool *pool, PyObject *addresses) {
    ve_peer peers[VE_MAX_UPSTREAM_ADDRESSES];
    size_t count = 0;
    PyObject *fast = PySequence_Fast(addresses, "addresses must be a sequence");
    if (fast == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast) && count < VE_MAX_UPSTREAM_ADDRESSES; i++) {
        if (!read_address(PySequence_Fast_GET_ITEM(fast, i), &peers[count++])) {
            Py_DECREF(fast);
            return -1;
        }
    }
    Py_DECREF(fast);
    memcpy(pool->peers, peers, count * sizeof peers[0]);
    pool->peer_count = count;
    ve_pool_close_idle(pool, false);
    return 0;
}
