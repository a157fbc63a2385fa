/* What an idle TLS connection takes of OpenSSL alone: so many server ends that have done a handshake with a client in
 * memory and echoed a message, with their buffers released. The clients and what carried the bytes are freed. Prints
 * `{"objects": N, "heap_bytes": BYTES OF ONE}` and waits for the end of stdin, so that its memory can be looked at. */
#include <malloc.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../serve_tls.h"

enum { MESSAGE_BYTES = 64 };

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "tls_objects: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* One end, which reads from one piece of memory and writes to the other. */
static SSL *make_end(SSL_CTX *context, BIO *from, BIO *to) {
    SSL *ssl = SSL_new(context);
    if (ssl == NULL || from == NULL || to == NULL)
        fail("SSL_new");
    BIO_up_ref(from);
    BIO_up_ref(to);
    SSL_set_bio(ssl, from, to);
    return ssl;
}

static SSL *make_server(SSL_CTX *server_context, SSL_CTX *client_context) {
    BIO *to_server = BIO_new(BIO_s_mem()), *to_client = BIO_new(BIO_s_mem());
    SSL *server = make_end(server_context, to_server, to_client);
    SSL *client = make_end(client_context, to_client, to_server);
    BIO_set_mem_eof_return(to_server, -1);
    BIO_set_mem_eof_return(to_client, -1);
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    unsigned char message[MESSAGE_BYTES] = "", answer[MESSAGE_BYTES];
    int sent = 0, echoed = 0, received = 0;
    for (int round = 0; received != MESSAGE_BYTES; round++) {
        sent = sent > 0 ? sent : SSL_write(client, message, sizeof message);
        int got = SSL_read(server, answer, sizeof answer);
        if (got > 0)
            echoed = SSL_write(server, answer, got);
        received = echoed > 0 ? SSL_read(client, answer, sizeof answer) : 0;
        if (round == 10)
            fail("the two ends do not understand each other");
    }
    if (SSL_read(server, answer, sizeof answer) > 0) /* as a server waits for more */
        fail("more came than was sent");
    SSL_set_quiet_shutdown(client, 1);
    SSL_free(client);
    SSL_set0_rbio(server, NULL);
    SSL_set0_wbio(server, NULL);
    BIO_free(to_server);
    BIO_free(to_client);
    ERR_clear_error();
    return server;
}

int main(int argc, char **argv) {
    long objects = argc > 2 && strcmp(argv[1], "--objects") == 0 ? strtol(argv[2], NULL, 10) : 0;
    if (objects < 1 || objects > 1000000) {
        fprintf(stderr, "usage: tls_objects --objects N --tls-cert FILE --tls-key FILE\n");
        return 2;
    }
    serve_options options = serve_parse_tls(argc - 2, argv + 2);
    SSL_CTX *server_context = serve_tls_context(&options), *client_context = SSL_CTX_new(TLS_client_method());
    SSL **servers = calloc((size_t)objects, sizeof(SSL *));
    /* As the load generator's clients: a server keeps what each has offered. */
    if (client_context == NULL || servers == NULL || !SSL_CTX_set_min_proto_version(client_context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(client_context, "TLS_AES_256_GCM_SHA384"))
        fail("SSL_CTX_new");
    size_t before = 0;
    for (long index = 0; index < objects; index++) {
        servers[index] = make_server(server_context, client_context);
        if (index == 0)
            before = mallinfo2().uordblks; /* without what only the first one costs */
    }
    double each = objects > 1 ? (double)(mallinfo2().uordblks - before) / (double)(objects - 1) : 0;
    printf("{\"objects\": %ld, \"heap_bytes\": %.1f}\n", objects, each);
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 0;
}
