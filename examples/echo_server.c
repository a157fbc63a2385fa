/* An echo server: what a client sends comes back, no faster than the client reads it. Ctrl-C stops it.
 *
 *     echo_server [PORT]          then, elsewhere:  nc 127.0.0.1 PORT
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

/* One connection. The protocol comes first, so a pointer to one is a pointer to the other. */
typedef struct echo {
    tepal_protocol protocol;
    tepal_transport *transport;
} echo;

static int echo_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((echo *)protocol)->transport = transport;
    return 0;
}

static int echo_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    return tepal_transport_write(((echo *)protocol)->transport, data, length);
}

/* The client does not read: more than the high mark waits to be sent. So stop reading, too. */
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

/* There is no eof_received: without one, the end of the client's stream closes the connection once all is sent. */
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

int main(int argc, char **argv) {
    tepal_loop *loop;
    tepal_server *server;
    const char *host = "127.0.0.1";
    uint16_t port = argc > 1 ? (uint16_t)atoi(argv[1]) : 0;

    int code = tepal_loop_new(&loop, NULL);
    if (code < 0) {
        fprintf(stderr, "no loop: %s\n", tepal_strerror(code));
        return 1;
    }
    code =
        tepal_loop_listen(loop, echo_factory, NULL,
                          TEPAL_OPTIONS(tepal_server_options, .hosts = &host, .host_count = 1, .port = port), &server);
    if (code == 0) {
        tepal_loop_add_signal(loop, SIGINT, stop, loop);
        tepal_loop_add_signal(loop, SIGTERM, stop, loop);
        print_address(server);
        code = tepal_loop_run_forever(loop);
        tepal_server_unref(server);
    }
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    tepal_loop_close(loop); /* ends what connections are left */
    tepal_loop_unref(loop);
    return code < 0;
}
