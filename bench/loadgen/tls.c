/* TLS of the client on OpenSSL: the context that all connections share, and tickets. */
#include "load.h"

static ngtcp2_conn *quic_of(ngtcp2_crypto_conn_ref *reference) {
    return ((struct connection *)reference->user_data)->quic;
}

static int on_ticket(SSL *tls, SSL_SESSION *session) {
    ngtcp2_crypto_conn_ref *reference = SSL_get_app_data(tls);
    if (reference == NULL) {
        return 0;
    }
    struct connection *connection = reference->user_data;
    connection->tickets++;
    if (!connection->target->resume) {
        return 0;
    }
    SSL_SESSION_free(connection->session);
    connection->session = session;
    return 1; /* we own it now */
}

SSL_CTX *tls_client_context(const char *groups) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || ngtcp2_crypto_ossl_init() != 0 || SSL_CTX_set1_groups_list(context, groups) != 1) {
        return NULL;
    }
    /* Verification of certificates by the client is not part of the measurement. */
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, on_ticket);
    return context;
}

bool tls_start(struct connection *connection) {
    connection->tls = SSL_new(connection->target->tls);
    if (connection->tls == NULL || ngtcp2_crypto_ossl_ctx_new(&connection->tls_context, connection->tls) != 0) {
        return false;
    }
    connection->reference = (ngtcp2_crypto_conn_ref){.get_conn = quic_of, .user_data = connection};
    SSL_set_app_data(connection->tls, &connection->reference);
    SSL_set_connect_state(connection->tls);
    if (ngtcp2_crypto_ossl_configure_client_session(connection->tls) != 0) {
        return false;
    }
    SSL_set_alpn_protos(connection->tls, (const unsigned char *)"\x02h3", 3);
    SSL_set_tlsext_host_name(connection->tls, connection->target->server_name);
    if (connection->session != NULL) {
        /* A ticket is used once (RFC 8446 appendix C.4). */
        SSL_set_session(connection->tls, connection->session);
        SSL_SESSION_free(connection->session);
        connection->session = NULL;
    }
    return true;
}
