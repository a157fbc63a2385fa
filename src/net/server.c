/*
 * A server's life: accepting, what to do when that fails, closing, and waiting for the end. How its sockets come about
 * is listen.c's. It must never spin on an accept that fails, close a descriptor that is only borrowed, nor touch what
 * belongs to a parent process.
 */
#include "net/server.h"

#include <sys/socket.h>
#include <unistd.h>

/* After a failed accept: the first pause, and the longest. */
#define RETRY_FIRST_NS TEPAL_MS(100)
#define RETRY_LONGEST_NS TEPAL_SEC(1)
/* The user hears of failed accepts no more often than this. */
#define TELL_EVERY_NS TEPAL_SEC(1)

struct tpi_server_waiter {
    tpi_server_waiter *next;
    tepal_server *server;
    tepal_future *future; /* a reference */
};

static const tpi_upcalls listener_upcalls;

/* References, and the end */

static void server_release(tepal_server *server) {
    if (--server->references > 0) {
        return;
    }
    tepal_loop *loop = server->loop;
    if (server->way != NULL) {
        tpi_tls.close(loop, server->way);
    }
    tpi_free(loop->realloc, server->listeners);
    tpi_free(loop->realloc, server);
    tepal_loop_unref(loop);
}

/* Closed, every socket gone and every connection lost: those who wait for that are told. */
static void server_check_end(tepal_server *server) {
    if (!server->closed || server->alive > 0 || server->connections > 0) {
        return;
    }
    while (server->waiters != NULL) {
        tpi_server_waiter *waiter = server->waiters;
        tepal_future *future = waiter->future;
        server->waiters = waiter->next;
        tepal_future_set_cancel_hook(future, NULL, NULL);
        (void)tepal_future_set_result(future, NULL, NULL);
        tepal_future_unref(future);
        tpi_free(server->loop->realloc, waiter);
    }
}

static void listener_gone(tpi_listener *listener) {
    tepal_server *server = listener->server;

    tpi_free(server->loop->realloc, listener);
    server->alive--;
    server_check_end(server);
    server_release(server);
}

/* Failed accepts */

static void server_tell(tepal_server *server, int code, const tepal_address *peer) {
    const tepal_error error = {.code = code, .text = tepal_strerror(code), .address = peer};

    if (server->accept_failed != NULL) {
        server->accept_failed(server->argument, &error);
    } else {
        tepal_loop_call_exception_handler(server->loop, "a connection could not be accepted", &error);
    }
}

static void server_retry(tepal_work *work, int status) {
    tepal_server *server = (tepal_server *)((char *)work - offsetof(tepal_server, retry.work));
    const tpi_driver_ops *ops;

    if (status != 0 || server->closed) {
        return;
    }
    ops = server->loop->driver->ops;
    for (size_t index = 0; index < server->listener_count; index++) {
        tpi_listener *listener = server->listeners[index];
        if (listener->stalled) {
            listener->stalled = false;
            listener->accepting = true;
            ops->accept_start(server->loop->driver, &listener->object);
        }
    }
}

static void listener_accept_failed(tpi_object *object, int code) {
    tpi_listener *listener = (tpi_listener *)object;
    tepal_server *server = listener->server;

    listener->accepting = false;
    if (server->closed) {
        return;
    }
    const int64_t now_ns = tepal_loop_time(server->loop);
    const bool another_stalls = server->retry.work.state != 0;
    listener->stalled = true;
    if (!another_stalls) {
        const int64_t longer_ns = server->retry_delay_ns == 0 ? RETRY_FIRST_NS : 2 * server->retry_delay_ns;
        server->retry_delay_ns = longer_ns < RETRY_LONGEST_NS ? longer_ns : RETRY_LONGEST_NS;
        (void)tepal_timer_start(server->loop, &server->retry, now_ns + server->retry_delay_ns);
    }
    if (!server->told || now_ns - server->told_ns >= TELL_EVERY_NS) {
        server->told = true;
        server->told_ns = now_ns;
        server_tell(server, code, NULL);
    }
}

/* Accepting */

static void unmade_closed(tpi_object *object) {
    tpi_transport_discard((tepal_transport *)object);
}

static void unmade_ending(tpi_object *object) {
    (void)object; /* it is being closed already */
}

/* Of an accepted transport until it has its protocol; then they are the stream's. */
static const tpi_upcalls unmade_upcalls = {
    .closed = unmade_closed, .ending = unmade_ending, .abandoned = unmade_closed};

/* A protocol from the program's factory. */
static int server_make_protocol(const tepal_server *server, tepal_protocol **protocol) {
    const int code = server->factory(server->argument, protocol);
    return code >= 0 && *protocol == NULL ? TEPAL_EINVAL : code;
}

/* A handshake is done, or has failed: strangers do so all the time, so nobody is told who did not ask to be. */
static void server_set_up(tepal_transport *transport, void *argument, const tepal_error *failure) {
    tepal_server *server = argument;
    tpi_driver *driver = server->loop->driver;
    tepal_protocol *protocol = NULL;
    tepal_address peer;

    const bool known = driver->ops->query(driver, &transport->object, TPI_QUERY_PEER, &peer) == 0;
    if (failure != NULL) {
        if (server->accept_failed != NULL) {
            const tepal_error error = {.code = failure->code, .text = failure->text, .address = known ? &peer : NULL};
            server->accept_failed(server->argument, &error);
        }
        return;
    }
    const int code = server_make_protocol(server, &protocol);
    if (code < 0) {
        tpi_setup_forsake(transport, code);
        server_tell(server, code, known ? &peer : NULL);
        return;
    }
    tpi_setup_finish(transport, protocol);
    tpi_setup_established(transport);
}

/* Make a connection of fd. On an error fd is closed, or will be. */
static int server_connect(tepal_server *server, int fd, const tepal_address *peer) {
    tpi_driver *driver = server->loop->driver;
    tepal_transport *transport;
    tepal_protocol *protocol = NULL;

    int code = tpi_transport_new(server->loop, &server->transport, &unmade_upcalls, &transport);
    if (code != 0) {
        driver->ops->discard(driver, fd);
        return code;
    }
    code = driver->ops->adopt(driver, &transport->object, fd, TPI_STREAM, peer->storage.ss_family);
    if (code != 0) {
        tpi_transport_discard(transport);
        driver->ops->discard(driver, fd);
        return code;
    }
    tpi_transport_configure(transport, &server->transport, peer->storage.ss_family);
    code = server->way != NULL ? tpi_setup_begin(transport, server->way, server_set_up, server)
                               : server_make_protocol(server, &protocol);
    if (code < 0) {
        driver->ops->close(driver, &transport->object);
        return code;
    }
    transport->owner = tepal_server_ref(server);
    transport->flags |= TPI_ACCEPTED;
    server->connections++;
    if (server->way == NULL) {
        tpi_transport_made(transport, protocol);
    }
    return 0;
}

static void listener_accepted(tpi_object *object, int fd, const tepal_address *peer) {
    tepal_server *server = ((tpi_listener *)object)->server;
    tpi_driver *driver = server->loop->driver;

    server->retry_delay_ns = 0;
    if (server->loop->phase != TPI_PHASE_OPEN) {
        driver->ops->discard(driver, fd);
        return;
    }
    if (server->accepted != NULL) {
        const int answer = server->accepted(server->argument, fd, peer);
        if (answer < 0) {
            driver->ops->discard(driver, fd);
        }
        if (answer != 0) {
            return;
        }
    }
    const int code = server_connect(server, fd, peer);
    if (code < 0) {
        server_tell(server, code, peer);
    }
}

void tpi_server_connection_lost(tepal_server *server) {
    server->connections--;
    server_check_end(server);
    server_release(server);
}

/* The end of a listener */

static void listener_release(tpi_listener *listener) {
    tpi_driver *driver = listener->server->loop->driver;
    driver->ops->release(driver, &listener->object);
}

static void listener_accept_stopped(tpi_object *object) {
    listener_release((tpi_listener *)object);
}

static void listener_released(tpi_object *object, int fd, const uint8_t *held, size_t length) {
    (void)fd;
    (void)held;
    (void)length;
    listener_gone((tpi_listener *)object);
}

static void listener_closed(tpi_object *object) {
    listener_gone((tpi_listener *)object);
}

void tpi_listener_retire(tpi_listener *listener) {
    tepal_server *server = listener->server;
    tpi_driver *driver = server->loop->driver;

    if (listener->retired) {
        return;
    }
    listener->retired = true;
    if (listener->object.borrowed) {
        if (listener->accepting) {
            driver->ops->accept_stop(driver, &listener->object); /* what is accepted already is still served */
        } else {
            listener_release(listener);
        }
        return;
    }
    if (server->pid == getpid()) {
        tpi_unix_file_remove(&listener->file, &listener->address);
        driver->ops->refuse(driver, &listener->object);
    }
    driver->ops->close(driver, &listener->object);
}

static void server_set_closed(tepal_server *server) {
    server->closed = true;
    server->serving = false;
    (void)tepal_timer_stop(server->loop, &server->retry);
}

/* In a forked child whose loop is closed: the driver has closed or left the descriptor, and calls nobody any more. */
static void listener_abandoned(tpi_object *object) {
    tpi_listener *listener = (tpi_listener *)object;

    server_set_closed(listener->server);
    listener_gone(listener);
}

/* The loop is being closed. Each listener ends at its own turn, so that the driver's walk over them is not disturbed. */
static void listener_ending(tpi_object *object) {
    tpi_listener *listener = (tpi_listener *)object;

    server_set_closed(listener->server);
    tpi_listener_retire(listener);
}

static const tpi_upcalls listener_upcalls = {
    .accepted = listener_accepted,
    .accept_failed = listener_accept_failed,
    .accept_stopped = listener_accept_stopped,
    .released = listener_released,
    .closed = listener_closed,
    .ending = listener_ending,
    .abandoned = listener_abandoned,
};

/* Making: for listen.c */

tepal_server *tpi_server_new(tepal_loop *loop, tepal_factory factory, void *argument,
                             const tepal_server_options *options, size_t room) {
    tepal_server *server = tpi_alloc_zero(loop->realloc, sizeof *server);

    if (server == NULL) {
        return NULL;
    }
    server->listeners = tpi_alloc_zero(loop->realloc, (room > 0 ? room : 1) * sizeof(tpi_listener *));
    if (server->listeners == NULL) {
        tpi_free(loop->realloc, server);
        return NULL;
    }
    server->loop = tepal_loop_ref(loop);
    server->references = 1;
    server->factory = factory;
    server->argument = argument;
    server->accept_failed = options->accept_failed;
    server->accepted = options->accepted;
    server->backlog = options->backlog == 0 ? SOMAXCONN : options->backlog;
    server->pid = getpid();
    server->retry.work.run = server_retry;
    server->transport.size = sizeof server->transport;
    return server;
}

tpi_listener *tpi_listener_new(tepal_server *server) {
    tpi_listener *listener = tpi_alloc_zero(server->loop->realloc, sizeof *listener);

    if (listener != NULL) {
        listener->object.up = &listener_upcalls;
        listener->object.fd = -1;
        listener->server = tepal_server_ref(server);
        server->alive++;
    }
    return listener;
}

void tpi_listener_discard(tpi_listener *listener) {
    listener_gone(listener);
}

/* The public face */

tepal_server *tepal_server_ref(tepal_server *server) {
    server->references++;
    return server;
}

void tepal_server_unref(tepal_server *server) {
    if (server != NULL) {
        server_release(server);
    }
}

int tepal_server_start_serving(tepal_server *server) {
    const int open = server->closed ? TEPAL_ECLOSED : tpi_loop_check(server->loop);
    tpi_driver *driver = server->loop->driver;

    if (open < 0 || server->serving) {
        return open;
    }
    for (size_t index = 0; index < server->listener_count; index++) {
        tpi_listener *listener = server->listeners[index];
        const int code = listener->listening ? 0 : driver->ops->listen(driver, &listener->object, server->backlog);
        if (code < 0) {
            return code;
        }
        listener->listening = true;
    }
    for (size_t index = 0; index < server->listener_count; index++) {
        server->listeners[index]->accepting = true;
        driver->ops->accept_start(driver, &server->listeners[index]->object);
    }
    server->serving = true;
    return 0;
}

bool tepal_server_is_serving(const tepal_server *server) {
    return server->serving;
}

size_t tepal_server_socket_count(const tepal_server *server) {
    return server->closed ? 0 : server->listener_count;
}

int tepal_server_socket(const tepal_server *server, size_t index) {
    return index < tepal_server_socket_count(server) ? server->listeners[index]->object.fd : TEPAL_EINVAL;
}

int tepal_server_local(const tepal_server *server, size_t index, tepal_address *address) {
    const tpi_driver *driver = server->loop->driver;
    tepal_address local;

    if (index >= tepal_server_socket_count(server)) {
        return TEPAL_EINVAL;
    }
    const int code =
        driver->ops->query(server->loop->driver, &server->listeners[index]->object, TPI_QUERY_LOCAL, &local);
    if (code < 0) {
        return code;
    }
    *address = local;
    return 0;
}

size_t tepal_server_connection_count(const tepal_server *server) {
    return server->connections;
}

void tepal_server_close(tepal_server *server) {
    if (server->closed) {
        return;
    }
    tepal_server_ref(server);
    server_set_closed(server);
    for (size_t index = 0; index < server->listener_count; index++) {
        tpi_listener_retire(server->listeners[index]);
    }
    server_check_end(server);
    server_release(server);
}

struct sweep {
    tepal_server *server;
    bool abort;
};

static void sweep_visit(tpi_object *object, void *argument) {
    const struct sweep *sweep = argument;
    tepal_transport *transport = (tepal_transport *)object;

    if (object->up != &tpi_stream_upcalls || !(transport->flags & TPI_ACCEPTED) || transport->owner != sweep->server) {
        return;
    }
    if (sweep->abort) {
        tepal_transport_abort(transport, TEPAL_ECLOSED);
    } else {
        tepal_transport_close(transport);
    }
}

static void server_sweep(tepal_server *server, bool abort) {
    tpi_driver *driver = server->loop->driver;
    struct sweep sweep = {.server = server, .abort = abort};

    if (tpi_loop_check(server->loop) == 0 && server->connections > 0) {
        driver->ops->each(driver, sweep_visit, &sweep);
    }
}

void tepal_server_close_clients(tepal_server *server) {
    server_sweep(server, false);
}

void tepal_server_abort_clients(tepal_server *server) {
    server_sweep(server, true);
}

/* Waiting for the end */

static void waiter_canceled(tepal_future *future, void *argument) {
    tpi_server_waiter *waiter = argument;
    tpi_server_waiter **link = &waiter->server->waiters;

    while (*link != waiter) {
        link = &(*link)->next;
    }
    *link = waiter->next;
    tpi_free(waiter->server->loop->realloc, waiter);
    tepal_future_unref(future);
}

int tepal_server_wait_closed(tepal_server *server, tepal_future **future) {
    tepal_future *made;
    int code = tpi_loop_check(server->loop);

    if (code < 0 || (code = tepal_future_new(server->loop, &made)) < 0) {
        return code;
    }
    tpi_server_waiter *waiter = tpi_alloc_zero(server->loop->realloc, sizeof *waiter);
    if (waiter == NULL) {
        tepal_future_unref(made);
        return TEPAL_ENOMEM;
    }
    waiter->server = server;
    waiter->future = tepal_future_ref(made);
    tepal_future_set_cancel_hook(made, waiter_canceled, waiter);
    tpi_server_waiter **link = &server->waiters;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = waiter;
    server_check_end(server);
    *future = made;
    return 0;
}
