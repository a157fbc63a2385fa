/* Tepal's side of the echo benchmark: an echo server on <tepal.h>, the way its guide would have it. */
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <tepal.h>

#include "../serve.h"

typedef struct echo {
    tepal_protocol protocol;
    tepal_transport *transport;
} echo;

static serve_options options;

static void check(int code, const char *what) {
    if (code < 0) {
        fprintf(stderr, "%s: %s\n", what, tepal_strerror(code));
        exit(1);
    }
}

static int made(tepal_protocol *self, tepal_transport *transport) {
    ((echo *)self)->transport = transport;
    return 0;
}

static int received(tepal_protocol *self, const void *data, size_t length) {
    return tepal_transport_write(((echo *)self)->transport, data, length);
}

static int received_in_pieces(tepal_protocol *self, const void *data, size_t length) {
    tepal_transport *transport = ((echo *)self)->transport;
    size_t piece = serve_piece(length, options.pieces);
    int code = 0;
    for (size_t done = 0; done < length && code == 0; done += piece)
        code =
            tepal_transport_write(transport, (const char *)data + done, length - done < piece ? length - done : piece);
    return code;
}

static int received_gathered(tepal_protocol *self, const void *data, size_t length) {
    size_t piece = serve_piece(length, options.pieces);
    struct iovec parts[SERVE_PIECES_MAX];
    size_t count = 0;
    for (size_t done = 0; done < length; done += piece)
        parts[count++] = (struct iovec){(char *)data + done, length - done < piece ? length - done : piece};
    return tepal_transport_writev(((echo *)self)->transport, parts, count);
}

static int received_and_dropped(tepal_protocol *self, const void *data, size_t length) {
    (void)self;
    (void)data;
    (void)length;
    return 0;
}

static void pause_writing(tepal_protocol *self) {
    tepal_transport_pause_reading(((echo *)self)->transport);
}

static void resume_writing(tepal_protocol *self) {
    tepal_transport_resume_reading(((echo *)self)->transport);
}

static void lost(tepal_protocol *self, const tepal_error *error) {
    (void)error;
    free(self);
}

static tepal_protocol_type type = {
    .size = sizeof type,
    .connection_made = made,
    .data_received = received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = lost,
};

static int make_echo(void *unused, tepal_protocol **protocol) {
    (void)unused;
    echo *made_echo = malloc(sizeof *made_echo);
    if (made_echo == NULL)
        return TEPAL_ENOMEM;
    made_echo->protocol.type = &type;
    *protocol = &made_echo->protocol;
    return 0;
}

/* NULL without --tls-cert. */
static tepal_tls_context *make_context(void) {
    if (options.tls_certificate == NULL)
        return NULL;
    char why[256] = "tepal_tls_context_new";
    tepal_tls_context *context = NULL;
    check(tepal_tls_context_new(&context,
                                TEPAL_OPTIONS(tepal_tls_context_options, .server = true, .minimum = TEPAL_TLS_1_3,
                                              .certificate_file = options.tls_certificate, .key_file = options.tls_key),
                                why, sizeof why),
          why);
    return context;
}

static void on_signal(int number, void *loop) {
    (void)number;
    tepal_loop_stop(loop);
}

int main(int argc, char **argv) {
    options = serve_parse_tls(argc, argv);
    if (options.sink)
        type.data_received = received_and_dropped;
    else if (options.pieces > 1)
        type.data_received = options.gathered ? received_gathered : received_in_pieces;
    tepal_loop *loop;
    check(tepal_loop_new(&loop, NULL), "tepal_loop_new");
    check(tepal_loop_add_signal(loop, SIGTERM, on_signal, loop), "tepal_loop_add_signal");
    check(tepal_loop_add_signal(loop, SIGINT, on_signal, loop), "tepal_loop_add_signal");
    tepal_server *server;
    const char *host = "127.0.0.1";
    tepal_tls_context *context = make_context();
    const tepal_tls_options *tls = context == NULL ? NULL : TEPAL_OPTIONS(tepal_tls_options, .context = context);
    check(tepal_loop_listen(loop, make_echo, NULL,
                            TEPAL_OPTIONS(tepal_server_options, .hosts = &host, .host_count = 1, .port = options.port,
                                          .backlog = SERVE_BACKLOG, .tls = tls),
                            &server),
          "tepal_loop_listen");
    tepal_tls_context_unref(context);
    tepal_address address;
    check(tepal_server_local(server, 0, &address), "tepal_server_local");
    serve_announce((uint16_t)tepal_address_port(&address));
    check(tepal_loop_run_forever(loop), "tepal_loop_run_forever");
    serve_report("tepal");
    tepal_server_unref(server);
    tepal_loop_close(loop);
    tepal_loop_unref(loop);
    return 0;
}
