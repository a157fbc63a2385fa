/* A minimal HTTP/1.1 server: every request is answered with a greeting. Shows requests that come in pieces or several at
 * once, keep-alive, a limit on what a peer may send, an idle time limit that costs no allocation, and a client that
 * ends its side after its last request and still gets the answer (half-close).
 *
 *     http_hello [PORT]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

#define IDLE_NS TEPAL_SEC(30)
enum { HEAD_BYTES = 8192 };

typedef struct request {
    tepal_protocol protocol;
    tepal_transport *transport;
    tepal_timer idle;
    size_t length; /* of the head so far */
    char head[HEAD_BYTES + 1];
} request;

static void idle_for_too_long(tepal_work *work, int status) {
    request *self = (request *)((char *)work - offsetof(request, idle.work));
    if (status == 0)
        tepal_transport_abort(self->transport, TEPAL_ETIMEDOUT);
}

static void restart_idle_limit(request *self) {
    tepal_loop *loop = tepal_transport_loop(self->transport);
    tepal_timer_start(loop, &self->idle, tepal_loop_turn_time(loop) + IDLE_NS);
}

/* Answers leave together: what one upcall writes is joined and sent when it returns. */
static int answer(request *self, const char *status, const char *body, bool close) {
    char text[512];
    int length = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s\r\n%s", status, strlen(body),
                          close ? "Connection: close\r\n" : "", body);
    int code = tepal_transport_write(self->transport, text, (size_t)length);
    if (close)
        tepal_transport_close(self->transport); /* after what is written */
    return code;
}

static int request_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    request *self = (request *)protocol;
    self->transport = transport;
    restart_idle_limit(self);
    return 0;
}

static int request_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    request *self = (request *)protocol;
    const char *from = data;
    restart_idle_limit(self);
    while (length > 0 && !tepal_transport_is_closing(self->transport)) {
        size_t part = length < HEAD_BYTES - self->length ? length : HEAD_BYTES - self->length;
        memcpy(self->head + self->length, from, part);
        self->length += part;
        from += part;
        length -= part;
        self->head[self->length] = '\0';
        char *rest = self->head, *end;
        while (!tepal_transport_is_closing(self->transport) && (end = strstr(rest, "\r\n\r\n")) != NULL) {
            *end = '\0';
            bool last = strcasestr(rest, "\nconnection: close") != NULL;
            int code = answer(self, "200 OK", "hello from tepal\n", last);
            if (code < 0)
                return code;
            rest = end + 4;
        }
        self->length -= (size_t)(rest - self->head);
        memmove(self->head, rest, self->length + 1);
        if (self->length == HEAD_BYTES)
            return answer(self, "431 Request Header Fields Too Large", "too long\n", true);
    }
    return 0;
}

/* A client that does not read its answers gets no more of them. */
static void request_pause_writing(tepal_protocol *protocol) {
    tepal_transport_pause_reading(((request *)protocol)->transport);
}

static void request_resume_writing(tepal_protocol *protocol) {
    tepal_transport_resume_reading(((request *)protocol)->transport);
}

static void request_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    request *self = (request *)protocol;
    (void)error;
    tepal_timer_stop(tepal_transport_loop(self->transport), &self->idle);
    free(self);
}

/* No eof_received: the default delivers the answers to all that came before the client's end, and closes. */
static const tepal_protocol_type request_type = {
    .size = sizeof request_type,
    .connection_made = request_connection_made,
    .data_received = request_data_received,
    .pause_writing = request_pause_writing,
    .resume_writing = request_resume_writing,
    .connection_lost = request_connection_lost,
};

static int request_factory(void *argument, tepal_protocol **protocol) {
    (void)argument;
    request *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &request_type;
    self->idle.work.run = idle_for_too_long;
    *protocol = &self->protocol;
    return 0;
}

static void stop(int signal, void *loop) {
    (void)signal;
    tepal_loop_stop(loop);
}

int main(int argc, char **argv) {
    tepal_loop *loop = NULL;
    tepal_server *server = NULL;
    tepal_address address;
    const char *host = "127.0.0.1";
    uint16_t port = argc > 1 ? (uint16_t)atoi(argv[1]) : 0;

    int code = tepal_loop_new(&loop, NULL);
    if (code == 0)
        code = tepal_loop_listen(loop, request_factory, NULL,
                                 TEPAL_OPTIONS(tepal_server_options, .hosts = &host, .host_count = 1, .port = port),
                                 &server);
    if (code == 0 && (code = tepal_server_local(server, 0, &address)) == 0) {
        printf("listening on http://127.0.0.1:%d/\n", tepal_address_port(&address));
        fflush(stdout);
        tepal_loop_add_signal(loop, SIGINT, stop, loop);
        tepal_loop_add_signal(loop, SIGTERM, stop, loop);
        code = tepal_loop_run_forever(loop);
    }
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    tepal_server_unref(server);
    tepal_loop_unref(loop);
    return code < 0;
}
