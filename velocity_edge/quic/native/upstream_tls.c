/* TLS to upstreams, by libssl: who is believed, who we are, and resumption. */
#include "upstream.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "engine.h"
#include "module.h"

static const uint8_t ALPN_H1[] = "\x08http/1.1";
static const uint8_t ALPN_H2[] = "\x02h2";
static const uint8_t ALPN_AUTO[] = "\x02h2\x08http/1.1";

static int refuse(ve_pool *pool, const char *what) {
    unsigned long error = ERR_peek_last_error();
    const char *reason = error == 0 ? NULL : ERR_reason_error_string(error);
    PyErr_Format(pool->owner->engine->module->velocity_error, "cannot use %s: %s", what,
                 reason == NULL ? "there is nothing in it" : reason);
    ERR_clear_error();
    return -1;
}

/* The attribute as bytes, borrowed from `client` (a frozen dataclass); false: it is None. */
static bool pem_of(PyObject *client, const char *name, BIO **out) {
    PyObject *value = PyObject_GetAttrString(client, name);
    *out = NULL;
    if (value != NULL && PyBytes_Check(value)) {
        BIO *memory = BIO_new(BIO_s_mem()); /* a copy, so that it may outlive the object */
        if (memory != NULL &&
            BIO_write(memory, PyBytes_AS_STRING(value), (int)PyBytes_GET_SIZE(value)) == (int)PyBytes_GET_SIZE(value)) {
            *out = memory;
        } else {
            BIO_free(memory);
        }
    }
    bool given = value != NULL && value != Py_None;
    Py_XDECREF(value);
    return given;
}

static int use_authorities(ve_pool *pool, PyObject *client) {
    BIO *pem;
    X509_STORE *store = SSL_CTX_get_cert_store(pool->tls);
    int count = 0;
    if (!pem_of(client, "ca_pem", &pem)) {
        SSL_CTX_set_default_verify_paths(pool->tls);
        STACK_OF(X509_OBJECT) *known = X509_STORE_get0_objects(store);
        if (known == NULL || sk_X509_OBJECT_num(known) == 0) {
            return refuse(pool, "the system's certificate authorities (give a file with them)");
        }
        ERR_clear_error();
        return 0;
    }
    X509 *certificate;
    while (pem != NULL && (certificate = PEM_read_bio_X509(pem, NULL, NULL, NULL)) != NULL) {
        count += X509_STORE_add_cert(store, certificate) == 1;
        X509_free(certificate);
    }
    BIO_free(pem);
    if (count == 0) {
        return refuse(pool, "the certificate authorities of an upstream");
    }
    ERR_clear_error(); /* the end of the file is reported as an error */
    return 0;
}

static int no_passphrase(char *buffer, int size, int writing, void *user) {
    (void)buffer;
    (void)size;
    (void)writing;
    (void)user;
    return 0;
}

static int use_certificate(ve_pool *pool, PyObject *client) {
    BIO *pem;
    if (!pem_of(client, "certificate_pem", &pem)) {
        return 0;
    }
    X509 *certificate = pem == NULL ? NULL : PEM_read_bio_X509(pem, NULL, NULL, NULL);
    int good = certificate != NULL && SSL_CTX_use_certificate(pool->tls, certificate) == 1;
    X509_free(certificate);
    while (good && (certificate = PEM_read_bio_X509(pem, NULL, NULL, NULL)) != NULL) {
        good = SSL_CTX_add1_chain_cert(pool->tls, certificate) == 1;
        X509_free(certificate);
    }
    BIO_free(pem);
    if (!good) {
        return refuse(pool, "the client certificate for an upstream");
    }
    ERR_clear_error();
    bool given = pem_of(client, "private_key_pem", &pem);
    EVP_PKEY *key = pem == NULL ? NULL : PEM_read_bio_PrivateKey(pem, NULL, no_passphrase, NULL);
    good = given && key != NULL && SSL_CTX_use_PrivateKey(pool->tls, key) == 1 && SSL_CTX_check_private_key(pool->tls);
    EVP_PKEY_free(key);
    BIO_free(pem);
    return good ? 0 : refuse(pool, "the private key of the client certificate for an upstream");
}

static int keep_session(SSL *tls, SSL_SESSION *session) {
    ve_pool *pool = SSL_get_app_data(tls);
    SSL_SESSION_free(pool->session);
    pool->session = session;
    return 1; /* we have the reference now */
}

int ve_pool_use_tls(ve_pool *pool, PyObject *client) {
    PyObject *name = PyObject_GetAttrString(client, "server_name");
    PyObject *verify = name == NULL ? NULL : PyObject_GetAttrString(client, "verify");
    const char *text = verify == NULL ? NULL : PyUnicode_AsUTF8(name);
    pool->verify = verify != NULL && PyObject_IsTrue(verify) != 0;
    pool->server_name = text == NULL ? NULL : strdup(text);
    Py_XDECREF(verify);
    Py_XDECREF(name);
    if (PyErr_Occurred()) {
        return -1;
    }
    pool->tls = SSL_CTX_new(TLS_client_method());
    if (pool->tls == NULL || pool->server_name == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    SSL_CTX_set_min_proto_version(pool->tls, TLS1_2_VERSION);
    SSL_CTX_set_mode(pool->tls,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(pool->tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_verify(pool->tls, pool->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(pool->tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(pool->tls, keep_session);
    if (pool->speaks == VE_SPEAKS_H1) {
        SSL_CTX_set_alpn_protos(pool->tls, ALPN_H1, sizeof ALPN_H1 - 1);
    } else if (pool->speaks == VE_SPEAKS_H2) {
        SSL_CTX_set_alpn_protos(pool->tls, ALPN_H2, sizeof ALPN_H2 - 1);
    } else {
        SSL_CTX_set_alpn_protos(pool->tls, ALPN_AUTO, sizeof ALPN_AUTO - 1);
    }
    if (pool->verify && use_authorities(pool, client) != 0) {
        return -1;
    }
    return use_certificate(pool, client);
}

SSL *ve_tls_client(ve_pool *pool, int fd) {
    uint8_t address[16];
    SSL *tls = SSL_new(pool->tls);
    if (tls == NULL) {
        return NULL;
    }
    bool is_address =
        inet_pton(AF_INET, pool->server_name, address) == 1 || inet_pton(AF_INET6, pool->server_name, address) == 1;
    X509_VERIFY_PARAM *parameters = SSL_get0_param(tls);
    X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    int good = is_address ? X509_VERIFY_PARAM_set1_ip_asc(parameters, pool->server_name)
                          : SSL_set1_host(tls, pool->server_name) &&
                                SSL_set_tlsext_host_name(tls, pool->server_name); /* RFC 6066: never an address */
    if (!good || SSL_set_fd(tls, fd) != 1) {
        SSL_free(tls);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_app_data(tls, pool);
    SSL_set_connect_state(tls);
    if (pool->session != NULL) {
        SSL_set_session(tls, pool->session);
        if (SSL_SESSION_get_protocol_version(pool->session) == TLS1_3_VERSION) {
            SSL_SESSION_free(pool->session); /* a ticket is used once (RFC 8446 appendix C.4) */
            pool->session = NULL;
        }
    }
    return tls;
}

void ve_tls_client_reason(const SSL *tls, char *reason, size_t length) {
    long verified = SSL_get_verify_result(tls);
    unsigned long error = ERR_peek_last_error();
    const char *text = ERR_reason_error_string(error);
    if (verified != X509_V_OK) {
        snprintf(reason, length, "TLS: %s", X509_verify_cert_error_string(verified));
    } else {
        snprintf(reason, length, "TLS: %s", text == NULL ? "the connection was closed" : text);
    }
    ERR_clear_error();
}
