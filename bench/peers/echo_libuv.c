/* The libuv peer: an echo server the way libuv's guide would have it, with its fastest correct write: uv_try_write
 * from the read buffer, and uv_write of a copy for what the kernel refused. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "../serve.h"

typedef struct pending_write {
    uv_write_t request;
    char data[];
} pending_write;

static char read_buffer[SERVE_READ_BYTES]; /* one is enough: it is free again when the read callback returns */
static serve_options options;
static uv_tcp_t listener;
static uv_signal_t terminate, interrupt;

static void check(int status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "%s: %s\n", what, uv_strerror(status));
        exit(1);
    }
}

static void on_closed(uv_handle_t *handle) {
    free(handle);
}

static void drop(uv_stream_t *stream) {
    if (!uv_is_closing((uv_handle_t *)stream))
        uv_close((uv_handle_t *)stream, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)handle;
    (void)suggested;
    *buffer = uv_buf_init(read_buffer, sizeof read_buffer);
}

static void on_written(uv_write_t *request, int status) {
    if (status < 0)
        drop(request->handle);
    free(request);
}

static void queue_write(uv_stream_t *stream, const char *data, size_t length) {
    pending_write *write = malloc(sizeof *write + length);
    if (write == NULL)
        serve_fail("malloc");
    memcpy(write->data, data, length);
    uv_buf_t rest = uv_buf_init(write->data, (unsigned)length);
    if (uv_write(&write->request, stream, &rest, 1, on_written) < 0) {
        free(write);
        drop(stream);
    }
}

/* Try at once; queue what is left. After a refusal uv_try_write goes on refusing until the queue is empty, so order
 * is kept. Returns false if the connection is lost. */
static bool echo(uv_stream_t *stream, char *data, size_t length) {
    uv_buf_t whole = uv_buf_init(data, (unsigned)length);
    int sent = uv_try_write(stream, &whole, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
        drop(stream);
        return false;
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    if (done < length)
        queue_write(stream, data + done, length - done);
    return true;
}

static void echo_pieces(uv_stream_t *stream, char *data, size_t length) {
    size_t piece = serve_piece(length, options.pieces);
    for (size_t done = 0; done < length; done += piece) {
        if (!echo(stream, data + done, length - done < piece ? length - done : piece))
            return;
    }
}

/* The same pieces with one uv_try_write: the pieces lie behind one another, so what is left is one range. */
static void echo_gathered(uv_stream_t *stream, char *data, size_t length) {
    size_t piece = serve_piece(length, options.pieces);
    uv_buf_t parts[SERVE_PIECES_MAX];
    unsigned count = 0;
    for (size_t done = 0; done < length; done += piece)
        parts[count++] = uv_buf_init(data + done, (unsigned)(length - done < piece ? length - done : piece));
    int sent = uv_try_write(stream, parts, count);
    if (sent < 0 && sent != UV_EAGAIN) {
        drop(stream);
        return;
    }
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    if (taken < length)
        queue_write(stream, data + taken, length - taken);
}

static void on_shutdown(uv_shutdown_t *request, int status) {
    (void)status;
    drop(request->handle);
    free(request);
}

/* The peer has ended: what is queued still goes out before the connection closes. */
static void finish(uv_stream_t *stream) {
    uv_shutdown_t *request = malloc(sizeof *request);
    if (request == NULL || uv_shutdown(request, stream, on_shutdown) < 0) {
        free(request);
        drop(stream);
    }
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer) {
    if (length > 0) {
        if (options.pieces == 1)
            echo(stream, buffer->base, (size_t)length);
        else if (options.gathered)
            echo_gathered(stream, buffer->base, (size_t)length);
        else if (!options.sink)
            echo_pieces(stream, buffer->base, (size_t)length);
    } else if (length == UV_EOF) {
        finish(stream);
    } else if (length < 0) {
        drop(stream);
    }
}

static void on_connection(uv_stream_t *server, int status) {
    check(status, "accept");
    uv_tcp_t *client = malloc(sizeof *client);
    if (client == NULL)
        serve_fail("malloc");
    check(uv_tcp_init(server->loop, client), "uv_tcp_init");
    if (uv_accept(server, (uv_stream_t *)client) < 0) {
        drop((uv_stream_t *)client);
        return;
    }
    uv_tcp_nodelay(client, 1);
    check(uv_read_start((uv_stream_t *)client, on_alloc, on_read), "uv_read_start");
}

static void on_signal(uv_signal_t *handle, int number) {
    (void)number;
    uv_stop(handle->loop);
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    signal(SIGPIPE, SIG_IGN); /* as libuv's guide asks */
    uv_loop_t *loop = uv_default_loop();

    struct sockaddr_in address;
    check(uv_ip4_addr("127.0.0.1", options.port, &address), "uv_ip4_addr");
    check(uv_tcp_init(loop, &listener), "uv_tcp_init");
    check(uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0), "uv_tcp_bind"); /* sets SO_REUSEADDR */
    check(uv_listen((uv_stream_t *)&listener, SERVE_BACKLOG, on_connection), "uv_listen");
    check(uv_signal_init(loop, &terminate), "uv_signal_init");
    check(uv_signal_start(&terminate, on_signal, SIGTERM), "uv_signal_start");
    check(uv_signal_init(loop, &interrupt), "uv_signal_init");
    check(uv_signal_start(&interrupt, on_signal, SIGINT), "uv_signal_start");

    int length = sizeof address;
    check(uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &length), "uv_tcp_getsockname");
    serve_announce(ntohs(address.sin_port));
    uv_run(loop, UV_RUN_DEFAULT);
    serve_report("libuv");
    return 0;
}
