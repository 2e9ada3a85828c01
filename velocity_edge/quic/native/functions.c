/* Functions of the module that need no engine. */
#include "surface.h"

#include <openssl/crypto.h>

#include "crypto.h"
#include "message.h"
#include "section.h"

static PyObject *hmac(bool sha384, PyObject *const *arguments, Py_ssize_t n) {
    uint8_t digest[VE_MAX_DIGEST];
    if (n != 2 || !PyBytes_Check(arguments[0]) || !PyBytes_Check(arguments[1]) || PyBytes_GET_SIZE(arguments[0]) > 64) {
        PyErr_SetString(PyExc_TypeError, "hmac(key of up to 64 bytes, message)");
        return NULL;
    }
    size_t length =
        ve_hmac(sha384, (const uint8_t *)PyBytes_AS_STRING(arguments[0]), (size_t)PyBytes_GET_SIZE(arguments[0]),
                (const uint8_t *)PyBytes_AS_STRING(arguments[1]), (size_t)PyBytes_GET_SIZE(arguments[1]), digest);
    return PyBytes_FromStringAndSize((const char *)digest, (Py_ssize_t)length);
}

static PyObject *hmac_sha256(PyObject *module, PyObject *const *arguments, Py_ssize_t n) {
    (void)module;
    return hmac(false, arguments, n);
}

static PyObject *hmac_sha384(PyObject *module, PyObject *const *arguments, Py_ssize_t n) {
    (void)module;
    return hmac(true, arguments, n);
}

/* Decode and check a field section, for tests that compare the result with message.py. None: invalid QPACK. */
static PyObject *is_well_formed(PyObject *module, PyObject *arguments) {
    ve_sections sections = {0};
    ve_head head;
    Py_buffer data;
    int trailers;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*p:is_well_formed", &data, &trailers)) {
        return NULL;
    }
    PyObject *result = Py_None;
    if (ve_sections_decode(&sections, data.buf, (size_t)data.len, SIZE_MAX) == VE_DECODED) {
        bool well_formed = trailers ? ve_message_trailers(sections.fields, sections.count)
                                    : ve_message_request(sections.fields, sections.count, &head);
        result = well_formed ? Py_True : Py_False;
    }
    ve_sections_free(&sections);
    PyBuffer_Release(&data);
    return Py_NewRef(result);
}

static PyObject *library_versions(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return Py_BuildValue("{ssssss}", "ngtcp2", ngtcp2_version(0)->version_str, "nghttp3",
                         nghttp3_version(0)->version_str, "openssl", OpenSSL_version(OPENSSL_VERSION_STRING));
}

PyMethodDef ve_module_functions[] = {
    {"hmac_sha256", (PyCFunction)(void (*)(void))hmac_sha256, METH_FASTCALL, "hmac_sha256(key, message) -> digest"},
    {"hmac_sha384", (PyCFunction)(void (*)(void))hmac_sha384, METH_FASTCALL, "hmac_sha384(key, message) -> digest"},
    {"is_well_formed", is_well_formed, METH_VARARGS, "is_well_formed(field section, trailers) -> bool, None: no QPACK"},
    {"library_versions", library_versions, METH_NOARGS, "Versions of the libraries that are loaded."},
    {0},
};
