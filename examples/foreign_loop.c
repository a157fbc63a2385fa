/* Tepal inside a loop that is not Tepal's: a plain poll() loop that also has a descriptor of its own (its standard
 * input). Lines typed there are sent to an echo server over Tepal, and what comes back is printed.
 *
 *     foreign_loop HOST PORT
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>
#include <unistd.h>

typedef struct line {
    tepal_protocol protocol;
    tepal_transport *transport; /* NULL before and after the connection */
    bool over;
    int status;
} line;

static int line_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((line *)protocol)->transport = transport;
    return 0;
}

static int line_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    (void)protocol;
    fwrite(data, 1, length, stdout);
    fflush(stdout);
    return 0;
}

static void line_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    line *self = (line *)protocol;
    self->transport = NULL;
    self->over = true;
    self->status = error != NULL;
    if (error != NULL)
        fprintf(stderr, "connection lost: %s\n", error->text);
}

static const tepal_protocol_type line_type = {
    .size = sizeof line_type,
    .connection_made = line_connection_made,
    .data_received = line_data_received,
    .connection_lost = line_connection_lost,
};

static int line_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((line *)argument)->protocol;
    return 0;
}

static void connected(tepal_future *future, void *argument) {
    line *self = argument;
    int code = tepal_connection_result(future, NULL, NULL);
    if (code < 0) {
        fprintf(stderr, "no connection: %s\n", tepal_strerror(code));
        self->over = true;
        self->status = 1;
    }
}

/* This loop's own descriptor. Returns whether to go on watching it. */
static bool input_ready(line *self) {
    char data[4096];
    ssize_t length = read(STDIN_FILENO, data, sizeof data);
    if (length > 0)
        tepal_transport_write(self->transport, data, (size_t)length);
    else
        tepal_transport_write_eof(self->transport); /* the server ends its side when all has come back */
    return length > 0;
}

/* Tell Tepal to get ready, wait for its one descriptor no longer than it says, give it a turn. */
static int run(tepal_loop *loop, line *self) {
    bool input = true;
    int code = 0;
    while (!self->over && code >= 0) {
        int64_t timeout_ns;
        if ((code = tepal_loop_prepare(loop, &timeout_ns)) < 0)
            break;
        int64_t timeout_ms = timeout_ns < 0 ? -1 : (timeout_ns + TEPAL_MS(1) - 1) / TEPAL_MS(1);
        struct pollfd ready[2] = {
            {.fd = tepal_loop_poll_fd(loop), .events = POLLIN},
            {.fd = input && self->transport != NULL ? STDIN_FILENO : -1, .events = POLLIN},
        };
        int count = poll(ready, 2, timeout_ms > 3600000 ? 3600000 : (int)timeout_ms);
        if (count < 0 && errno != EINTR)
            return TEPAL_SYSTEM(errno);
        if (count > 0 && ready[1].revents != 0)
            input = input_ready(self);
        code = tepal_loop_step(loop, 0);
    }
    return code;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: foreign_loop HOST PORT\n");
        return 2;
    }
    line self = {.protocol.type = &line_type};
    tepal_loop *loop = NULL;
    tepal_future *future;
    /* The poll driver has no descriptor that another loop could wait for. */
    int code = tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "epoll"));
    if (code == 0)
        code = tepal_loop_create_connection(
            loop, line_factory, &self,
            TEPAL_OPTIONS(tepal_connect_options, .host = argv[1], .port = (uint16_t)atoi(argv[2])), &future);
    if (code == 0) {
        code = tepal_future_add_done_callback(future, connected, &self);
        tepal_future_unref(future);
    }
    if (code == 0)
        code = run(loop, &self);
    if (code < 0)
        fprintf(stderr, "foreign_loop: %s\n", tepal_strerror(code));
    tepal_loop_unref(loop);
    return code < 0 ? 1 : self.status;
}
