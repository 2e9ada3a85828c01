#include "base.h"

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
