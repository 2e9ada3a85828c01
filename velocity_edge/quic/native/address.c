/* Addresses from and to Python. */
#include "base.h"

/* In a link-local address bytes 2 to 7 are zero on the wire. In the packed form bytes 4 to 7 carry the interface
 * index, as in BSD kernels (velocity_edge/quic/datagrams.py: Address). */
void ve_address_pack(uint8_t out[16], const ve_address *address) {
    memcpy(out, &address->v6.sin6_addr, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&address->v6.sin6_addr)) {
        uint32_t scope = htonl(address->v6.sin6_scope_id);
        memcpy(out + 4, &scope, 4);
    }
}

static void unpack(ve_address *address, const uint8_t packed[16]) {
    memcpy(&address->v6.sin6_addr, packed, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&address->v6.sin6_addr)) {
        uint32_t scope;
        memcpy(&scope, packed + 4, 4);
        address->v6.sin6_scope_id = ntohl(scope);
        memset(address->v6.sin6_addr.s6_addr + 4, 0, 4);
    }
}

PyObject *ve_address_to_python(const ve_address *address) {
    if (address->length == 0) {
        return Py_BuildValue("(y#i)", "", (Py_ssize_t)0, 0);
    }
    if (address->any.sa_family == AF_INET) {
        return Py_BuildValue("(y#i)", &address->v4.sin_addr, (Py_ssize_t)4, (int)ntohs(address->v4.sin_port));
    }
    uint8_t packed[16];
    ve_address_pack(packed, address);
    return Py_BuildValue("(y#i)", packed, (Py_ssize_t)16, (int)ntohs(address->v6.sin6_port));
}

int ve_address_from_python(ve_address *address, PyObject *pair) {
    const uint8_t *packed;
    Py_ssize_t length;
    int port;
    memset(address, 0, sizeof *address);
    if (!PyTuple_Check(pair)) {
        PyErr_SetString(PyExc_TypeError, "an address must be (packed bytes, port)");
        return -1;
    }
    if (!PyArg_ParseTuple(pair, "y#i;an address must be (packed bytes, port)", &packed, &length, &port)) {
        return -1;
    }
    if ((length != 0 && length != 4 && length != 16) || port < 0 || port > 65535) {
        PyErr_SetString(PyExc_ValueError, "an address must have 4 or 16 bytes, and a port 0..65535");
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
        unpack(address, packed);
        address->length = sizeof address->v6;
    }
    return 0;
}
