// TLS between a connection's socket and its buffers, over memory, so that receives keep their stamps.
// Only with -DTLS; without it the server needs no OpenSSL, and no connection has a Tls.

#ifdef TLS
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

typedef SSL Tls;
static SSL_CTX *tls_context;

static void tls_load(const char *certificate, const char *key) {
    tls_context = SSL_CTX_new(TLS_server_method());
    if (!tls_context || SSL_CTX_use_certificate_chain_file(tls_context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls_context, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
}

static Tls *tls_new(void) {
    if (!tls_context) return NULL;
    Tls *tls = SSL_new(tls_context);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (!tls || !in || !out) { ERR_print_errors_fp(stderr); exit(1); }
    SSL_set_bio(tls, in, out);
    SSL_set_accept_state(tls);
    return tls;
}

// Encrypted bytes that came.
static void tls_feed(Tls *tls, const char *bytes, size_t length) {
    BIO_write(SSL_get_rbio(tls), bytes, (int)length);
}

// Clear bytes that they contained: how many, 0 for none yet, -1 if the connection is over.
static int tls_read(Tls *tls, char *to, size_t room) {
    ERR_clear_error();
    int length = SSL_read(tls, to, (int)room);
    if (length > 0) return length;
    return SSL_get_error(tls, length) == SSL_ERROR_WANT_READ ? 0 : -1;
}

static bool tls_write(Tls *tls, const char *bytes, size_t length) {
    ERR_clear_error();
    return length <= INT_MAX && SSL_write(tls, bytes, (int)length) == (int)length;
}

// Encrypted bytes that are to be sent, and that they were.
static size_t tls_pending(Tls *tls, const char **bytes) {
    char *start;
    long length = BIO_get_mem_data(SSL_get_wbio(tls), &start);
    *bytes = start;
    return length > 0 ? (size_t)length : 0;
}

static void tls_taken(Tls *tls) { (void)BIO_reset(SSL_get_wbio(tls)); }

static bool tls_bid_farewell(Tls *tls) { return SSL_shutdown(tls) >= 0; }

static void tls_free(Tls *tls) { SSL_free(tls); }

#else

typedef void Tls;

static void tls_load(const char *certificate, const char *key) {
    fprintf(stderr, "server: built without TLS, cannot use %s and %s\n", certificate, key);
    exit(2);
}
static Tls *tls_new(void) { return NULL; }
static void tls_feed(Tls *t, const char *b, size_t n) { (void)t, (void)b, (void)n; }
static int tls_read(Tls *t, char *to, size_t n) { (void)t, (void)to, (void)n; return -1; }
static bool tls_write(Tls *t, const char *b, size_t n) { (void)t, (void)b, (void)n; return false; }
static size_t tls_pending(Tls *t, const char **b) { (void)t, (void)b; return 0; }
static void tls_taken(Tls *t) { (void)t; }
static bool tls_bid_farewell(Tls *t) { (void)t; return false; }
static void tls_free(Tls *t) { (void)t; }
#endif
