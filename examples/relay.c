/* A relay: connects each client to another server and moves everything both ways by two pipes, which carry
 * back-pressure, half-close and errors across.
 *
 *     relay HOST PORT [LISTEN_PORT]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

/* A connection on one side. While the pipes run neither is told of data. */
typedef struct side {
    tepal_protocol protocol;
    struct pair *pair;
    tepal_transport *transport; /* NULL before and after the connection */
} side;

/* A client's connection and the one to the server. It lives as long as either; the client's comes first. */
typedef struct pair {
    side client, server;
    const tepal_connect_options *target; /* where the server is */
    tepal_future *connecting;            /* NULL: not any more */
} pair;

/* Errors are not waited for here: the pipe passes them on, and each connection is told in its connection_lost. */
static int start_pipe(tepal_transport *source, tepal_transport *sink) {
    tepal_future *done;
    int code = tepal_pipe(source, sink, NULL, &done);
    if (code == 0)
        tepal_future_unref(done);
    return code;
}

static void connected(tepal_future *future, void *argument) {
    pair *self = argument;
    int code = tepal_connection_result(future, NULL, NULL);
    if (code < 0)
        fprintf(stderr, "no connection to %s: %s\n", self->target->host, tepal_strerror(code));
    tepal_future_unref(future);
    self->connecting = NULL;
    if (code == 0)
        code = start_pipe(self->client.transport, self->server.transport);
    if (code == 0)
        code = start_pipe(self->server.transport, self->client.transport);
    if (code == 0)
        code = tepal_transport_resume_reading(self->client.transport);
    if (code < 0)
        tepal_transport_abort(self->client.transport, code);
}

static int server_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((side *)protocol)->transport = transport;
    return 0;
}

static void server_lost(tepal_protocol *protocol, const tepal_error *error) {
    side *self = (side *)protocol;
    (void)error; /* the pipe has passed it on */
    self->transport = NULL;
    if (self->pair->client.transport == NULL)
        free(self->pair);
}

static const tepal_protocol_type server_type = {
    .size = sizeof server_type, .connection_made = server_made, .connection_lost = server_lost};

static int server_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((pair *)argument)->server.protocol;
    return 0;
}

static int client_made(tepal_protocol *protocol, tepal_transport *transport) {
    side *self = (side *)protocol;
    self->transport = transport;
    tepal_transport_pause_reading(transport); /* until there is somewhere to put it */
    int code = tepal_loop_create_connection(tepal_transport_loop(transport), server_factory, self->pair,
                                            self->pair->target, &self->pair->connecting);
    return code < 0 ? code : tepal_future_add_done_callback(self->pair->connecting, connected, self->pair);
}

/* Whatever stage the pair is in, nothing may be left behind that still points to it. */
static void client_lost(tepal_protocol *protocol, const tepal_error *error) {
    pair *self = ((side *)protocol)->pair;
    self->client.transport = NULL;
    if (error != NULL)
        fprintf(stderr, "a client was lost: %s\n", error->text);
    if (self->connecting != NULL) {
        tepal_future_remove_done_callback(self->connecting, connected, self);
        tepal_future_cancel(self->connecting);
        tepal_future_unref(self->connecting);
    }
    if (self->server.transport != NULL)
        tepal_transport_close(self->server.transport);
    else
        free(self);
}

static const tepal_protocol_type client_type = {
    .size = sizeof client_type, .connection_made = client_made, .connection_lost = client_lost};

static int client_factory(void *argument, tepal_protocol **protocol) {
    pair *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    *self = (pair){.client = {.protocol.type = &client_type, .pair = self},
                   .server = {.protocol.type = &server_type, .pair = self},
                   .target = argument};
    *protocol = &self->client.protocol;
    return 0;
}

static void stop(int signal, void *loop) {
    (void)signal;
    tepal_loop_stop(loop);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: relay HOST PORT [LISTEN_PORT]\n");
        return 2;
    }
    tepal_connect_options target = {
        .size = sizeof target, .host = argv[1], .port = (uint16_t)atoi(argv[2]), .limit_ns = TEPAL_SEC(10)};
    tepal_loop *loop = NULL;
    tepal_server *server = NULL;
    tepal_address address;
    const char *here = "127.0.0.1";
    uint16_t port = argc > 3 ? (uint16_t)atoi(argv[3]) : 0;

    int code = tepal_loop_new(&loop, NULL);
    if (code == 0)
        code = tepal_loop_listen(loop, client_factory, &target,
                                 TEPAL_OPTIONS(tepal_server_options, .hosts = &here, .host_count = 1, .port = port),
                                 &server);
    if (code == 0 && (code = tepal_server_local(server, 0, &address)) == 0) {
        printf("listening on port %d\n", tepal_address_port(&address));
        fflush(stdout);
        tepal_loop_add_signal(loop, SIGINT, stop, loop);
        tepal_loop_add_signal(loop, SIGTERM, stop, loop);
        code = tepal_loop_run_forever(loop);
    }
    if (code < 0)
        fprintf(stderr, "relay: %s\n", tepal_strerror(code));
    tepal_server_unref(server);
    tepal_loop_unref(loop);
    return code < 0;
}
