/* The shortest echo server, as the README shows it; echo_server.c is one that slows down with its peer and stops well. */
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

typedef struct echo {
    tepal_protocol protocol; /* first, so a pointer to one is a pointer to the other */
    tepal_transport *transport;
} echo;

static int echo_made(tepal_protocol *self, tepal_transport *transport) {
    ((echo *)self)->transport = transport;
    return 0;
}

static int echo_received(tepal_protocol *self, const void *data, size_t length) {
    return tepal_transport_write(((echo *)self)->transport, data, length);
}

static void echo_lost(tepal_protocol *self, const tepal_error *error) {
    fprintf(stderr, "closed: %s\n", error == NULL ? "all was sent back" : error->text);
    free(self);
}

static const tepal_protocol_type echo_type = {
    .size = sizeof echo_type,
    .connection_made = echo_made,
    .data_received = echo_received,
    .connection_lost = echo_lost,
};

static int make_echo(void *argument, tepal_protocol **protocol) {
    (void)argument;
    echo *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &echo_type;
    *protocol = &self->protocol;
    return 0;
}

int main(int argc, char **argv) {
    tepal_loop *loop;
    tepal_server *server;
    tepal_server_options options = {.size = sizeof options, .port = argc > 1 ? (uint16_t)atoi(argv[1]) : 7000};
    int code = tepal_loop_new(&loop, NULL);
    if (code == 0)
        code = tepal_loop_listen(loop, make_echo, NULL, &options, &server);
    if (code == 0)
        code = tepal_loop_run_forever(loop);
    fprintf(stderr, "echo_short: %s\n", tepal_strerror(code));
    return 1;
}
