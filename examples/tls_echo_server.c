/* The echo server with TLS. Beside echo_server.c there are only a context, made once of a certificate and its key, and
 * one more option of the server; what a connection does is the same. SIGHUP reads the files again: a certificate is
 * renewed without ending anything. Ctrl-C stops it.
 *
 *     tepal cert                              a certificate for localhost: cert.pem and key.pem
 *     tls_echo_server cert.pem key.pem [PORT]
 *     tls_client localhost PORT cert.pem TEXT            elsewhere
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

typedef struct echo {
    tepal_protocol protocol;
    tepal_transport *transport;
} echo;

/* Called when the handshake is done: what comes and goes from here on is plain text to us, and never on the way. */
static int echo_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((echo *)protocol)->transport = transport;
    return 0;
}

static int echo_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    return tepal_transport_write(((echo *)protocol)->transport, data, length);
}

static void echo_pause_writing(tepal_protocol *protocol) {
    tepal_transport_pause_reading(((echo *)protocol)->transport);
}

static void echo_resume_writing(tepal_protocol *protocol) {
    tepal_transport_resume_reading(((echo *)protocol)->transport);
}

static void echo_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    if (error != NULL)
        fprintf(stderr, "connection lost: %s\n", error->text);
    free(protocol);
}

static const tepal_protocol_type echo_type = {
    .size = sizeof echo_type,
    .connection_made = echo_connection_made,
    .data_received = echo_data_received,
    .pause_writing = echo_pause_writing,
    .resume_writing = echo_resume_writing,
    .connection_lost = echo_connection_lost,
};

static int echo_factory(void *argument, tepal_protocol **protocol) {
    (void)argument;
    echo *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &echo_type;
    *protocol = &self->protocol;
    return 0;
}

/* A handshake failed: its connection never gets a protocol. A server in earnest would say so less often. */
static void handshake_failed(void *argument, const tepal_error *error) {
    char text[TEPAL_ADDRESS_TEXT] = "somebody";
    (void)argument;
    if (error->address != NULL)
        tepal_address_format(error->address, text, sizeof text);
    fprintf(stderr, "no connection with %s: %s\n", text, error->text);
}

/* On an error the old certificate stays in use. */
static void reload(int signal, void *context) {
    char why[256] = "";
    (void)signal;
    if (tepal_tls_context_reload(context, NULL, why, sizeof why) < 0)
        fprintf(stderr, "not reloaded: %s\n", why);
    else
        fprintf(stderr, "reloaded\n");
}

static void stop(int signal, void *loop) {
    (void)signal;
    tepal_loop_stop(loop);
}

static void print_address(tepal_server *server) {
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];
    if (tepal_server_local(server, 0, &address) == 0 && tepal_address_format(&address, text, sizeof text) > 0)
        printf("listening on %s\n", text);
    fflush(stdout);
}

static int serve(tepal_loop *loop, tepal_tls_context *context, uint16_t port) {
    tepal_server *server;
    const char *host = "127.0.0.1";
    const tepal_tls_options tls = {.size = sizeof tls, .context = context};
    int code = tepal_loop_listen(loop, echo_factory, NULL,
                                 TEPAL_OPTIONS(tepal_server_options, .hosts = &host, .host_count = 1, .port = port,
                                               .tls = &tls, .accept_failed = handshake_failed),
                                 &server);
    if (code < 0)
        return code;
    tepal_loop_add_signal(loop, SIGHUP, reload, context);
    tepal_loop_add_signal(loop, SIGINT, stop, loop);
    tepal_loop_add_signal(loop, SIGTERM, stop, loop);
    print_address(server);
    code = tepal_loop_run_forever(loop);
    tepal_server_unref(server);
    return code;
}

int main(int argc, char **argv) {
    tepal_loop *loop;
    tepal_tls_context *context;
    char why[256] = "";
    if (argc < 3) {
        fprintf(stderr, "usage: tls_echo_server CERTIFICATE KEY [PORT]\n");
        return 2;
    }
    int code = tepal_tls_context_new(
        &context,
        TEPAL_OPTIONS(tepal_tls_context_options, .server = true, .certificate_file = argv[1], .key_file = argv[2]), why,
        sizeof why);
    if (code < 0) {
        fprintf(stderr, "no TLS: %s\n", why);
        return 1;
    }
    code = tepal_loop_new(&loop, NULL);
    if (code == 0) {
        code = serve(loop, context, argc > 3 ? (uint16_t)atoi(argv[3]) : 0);
        tepal_loop_close(loop);
        tepal_loop_unref(loop);
    }
    tepal_tls_context_unref(context);
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    return code < 0;
}
