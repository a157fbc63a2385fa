/*
 * The driver contract on simulated sockets: what the loop asks for. Unlike a kernel it notices a caller that breaks
 * the contract, and chooses by chance among all that the contract allows.
 */
#include "driver/sim.h"

#include <errno.h>
#include <netinet/in.h>

#define LATE_DISPATCHES 4 /* what is late comes so many dispatches later at most */
#define SUMMED 16         /* bytes looked at, at each end of a piece in flight */

static tepal_sim *sim_of(tpi_driver *driver) {
    return tpi_sim_driver_of(driver)->sim;
}

/* The socket of an object that must be open. NULL after a word to who asks: the contract is broken. */
static tpi_sim_socket *open_socket(tpi_driver *driver, const tpi_object *object, const char *what) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    tpi_sim_socket *socket = object->kind == 0 ? NULL : tpi_sim_socket_at(self, object->fd);
    if (socket == NULL || socket->object != object) {
        (void)tpi_sim_broken(self, 5, what);
        return NULL;
    }
    return socket;
}

/* Its object hears of something no earlier than in the next dispatch, and later by chance. */
static void later(tpi_driver *driver, tpi_sim_socket *socket) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    bool late = tpi_sim_chance(self->sim, TPI_RATE_LATE);
    socket->not_before = self->dispatches + 1 + (late ? tpi_sim_below(&self->sim->network, LATE_DISPATCHES) : 0);
}

/* Opening and closing */

static void attach(tpi_driver *driver, tpi_object *object, tpi_sim_socket *socket, tpi_kind kind) {
    object->kind = (uint8_t)kind;
    object->fd = socket->fd;
    object->bits = 0;
    object->sending = NULL;
    socket->object = object;
    socket->kind = (uint8_t)kind;
    driver->objects++;
}

static int sim_open(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX) {
        return TEPAL_SYSTEM(EAFNOSUPPORT);
    }
    if (self->crashed) {
        return TEPAL_SYSTEM(ENETDOWN);
    }
    if (tpi_sim_chance(self->sim, TPI_RATE_ENOMEM)) {
        self->sim->stats.faults++;
        tpi_sim_trace(self->sim, self->host, "has no memory for a socket");
        return TEPAL_ENOMEM;
    }
    tpi_sim_socket *socket = tpi_sim_socket_new(self->host, kind, family);
    if (socket == NULL) {
        return TEPAL_ENOMEM;
    }
    int code = tpi_sim_socket_open(socket, self);
    if (code >= 0) {
        attach(driver, object, socket, kind);
        code = 0;
    }
    tpi_sim_socket_unref(socket);
    return code;
}

static int sim_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    tpi_sim_socket *socket = tpi_sim_socket_at(self, fd);
    if (socket == NULL) {
        return fd >= 0 && fd < TPI_SIM_FD ? TEPAL_ENOTSUP : TEPAL_EBADF; /* the kernel's are not of this world */
    }
    if (socket->object != NULL) {
        return TEPAL_EBUSY;
    }
    if (kind == TPI_STREAM ? !socket->connected : socket->bound_link == NULL) {
        return TEPAL_EINVAL;
    }
    if (tpi_sim_chance(self->sim, TPI_RATE_ENOMEM)) {
        self->sim->stats.faults++;
        tpi_sim_trace(self->sim, self->host, "has no memory for a socket");
        return TEPAL_ENOMEM;
    }
    attach(driver, object, socket, kind);
    socket->fresh = accepted == 0;
    return 0;
}

/* Nothing but the last word may follow. */
static void retire(tpi_driver *driver, tpi_object *object, tpi_sim_socket *socket) {
    object->sending = NULL;
    socket->reading = socket->accepting = socket->start_again = false;
    socket->say_sent = socket->say_connected = socket->say_stopped = false;
    later(driver, socket);
    tpi_sim_list(socket);
}

static void sim_close(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "an object is closed that is not open");
    if (socket != NULL) {
        socket->say_closed = true;
        retire(driver, object, socket); /* which holds it */
        tpi_sim_socket_close(socket);
        object->fd = -1;
        object->kind = 0;
    }
}

static void sim_release(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "an object is released that is not open");
    if (socket != NULL) {
        socket->say_released = true;
        retire(driver, object, socket);
    }
}

static void sim_discard(tpi_driver *driver, int fd) {
    tpi_sim_socket *socket = tpi_sim_socket_at(tpi_sim_driver_of(driver), fd);
    if (socket != NULL && socket->object == NULL) {
        tpi_sim_socket_close(socket);
    }
}

/* Listening and connecting */

static int sim_bind(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    tpi_sim_socket *socket = open_socket(driver, object, "an object is bound that is not open");
    return socket == NULL ? TEPAL_EBADF : tpi_sim_socket_bind(socket, address);
}

static int sim_listen(tpi_driver *driver, tpi_object *object, int backlog) {
    tpi_sim_socket *socket = open_socket(driver, object, "an object listens that is not open");
    return socket == NULL ? TEPAL_EBADF : tpi_sim_socket_listen(socket, backlog);
}

static void sim_refuse(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "a listener refuses that is not open");
    if (socket != NULL) {
        socket->listening = false;
    }
}

static void sim_accept_start(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "a listener accepts that is not open");
    if (socket != NULL) {
        socket->accepting = true;
        if (socket->waiting > 0) {
            tpi_sim_list(socket);
        }
    }
}

static void sim_accept_stop(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "a listener stops accepting that is not open");
    if (socket != NULL) {
        socket->accepting = false;
        socket->say_stopped = true;
        later(driver, socket);
        tpi_sim_list(socket);
    }
}

static int sim_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    tpi_sim_socket *socket = open_socket(driver, object, "an object connects that is not open");
    if (socket == NULL || socket->closed) {
        return socket == NULL ? TEPAL_EBADF : TEPAL_SYSTEM(ENETDOWN); /* its host has crashed */
    }
    if (socket->connected || socket->connecting) {
        return tpi_sim_broken(tpi_sim_driver_of(driver), 5, "an object connects twice");
    }
    int code = tpi_sim_socket_connect(socket, address);
    socket->not_before = 0;
    if (code == TPI_PENDING && socket->say_connected) {
        later(driver, socket);
    }
    return code;
}

/* Streams */

static void sim_read_start(tpi_driver *driver, tpi_object *object) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    tpi_sim_socket *socket = open_socket(driver, object, "reading is started on an object that is not open");
    if (socket == NULL || socket->reading || socket->at_end) {
        return;
    }
    socket->reading = true;
    socket->reading_since = self->dispatches;
    if (tpi_sim_stream_has_news(socket)) {
        tpi_sim_list(socket);
    }
}

static void sim_read_stop(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "reading is stopped on an object that is not open");
    if (socket != NULL) {
        socket->reading = false;
        socket->was_stopped = true;
    }
}

static int64_t offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count) {
    tpi_sim_socket *socket = open_socket(driver, object, "something is sent on an object that is not open");
    if (socket == NULL) {
        return TEPAL_EBADF;
    }
    if (object->sending != NULL) {
        return tpi_sim_broken(tpi_sim_driver_of(driver), 5, "something is sent while a send is pending");
    }
    if (socket->fin_sent) {
        return tpi_sim_broken(tpi_sim_driver_of(driver), 3, "something is sent after the end");
    }
    return tpi_sim_chance(sim_of(driver), TPI_RATE_LATE) ? TPI_PENDING : tpi_sim_stream_send(socket, pieces, count);
}

static int64_t sim_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length) {
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    return offer_pieces(driver, object, &piece, 1);
}

/* Of what is to stay as it is: both ends of each piece, since a look at all of it for each byte sent would take long. */
uint64_t tpi_sim_sum_of(const tpi_message *message) {
    uint64_t sum = message->count;
    for (size_t i = 0; i < message->count; i++) {
        const uint8_t *bytes = message->pieces[i].iov_base;
        size_t length = message->pieces[i].iov_len;
        size_t some = length < SUMMED ? length : SUMMED;
        sum = sum * 31 + length;
        for (size_t k = 0; k < some; k++) {
            sum = (sum * 31 + bytes[k]) * 31 + bytes[length - 1 - k];
        }
    }
    return sum;
}

static int64_t pending(tpi_driver *driver, tpi_object *object, tpi_sim_socket *socket, const tpi_message *message) {
    object->sending = message;
    socket->message_sum = tpi_sim_sum_of(message);
    later(driver, socket);
    return TPI_PENDING;
}

/* A send that is late may have taken its bytes already, and only not said so: both happen. */
static int64_t sim_send(tpi_driver *driver, tpi_object *object, const tpi_message *message) {
    tepal_sim *sim = sim_of(driver);
    int64_t sent = offer_pieces(driver, object, message->pieces, message->count);
    tpi_sim_socket *socket = tpi_sim_socket_at(tpi_sim_driver_of(driver), object->fd);
    if (socket == NULL || (sent < 0 && sent != TPI_PENDING)) {
        return sent;
    }
    if (sent != TPI_PENDING && !tpi_sim_chance(sim, TPI_RATE_LATE)) {
        return sent;
    }
    socket->say_sent = sent != TPI_PENDING;
    socket->sent_result = sent;
    tpi_sim_list(socket);
    return pending(driver, object, socket, message);
}

static int sim_shutdown(tpi_driver *driver, tpi_object *object) {
    tpi_sim_socket *socket = open_socket(driver, object, "an end is sent on an object that is not open");
    if (socket == NULL) {
        return TEPAL_EBADF;
    }
    if (object->sending != NULL) {
        return tpi_sim_broken(tpi_sim_driver_of(driver), 3, "an end is sent while a send is pending");
    }
    if (socket->error != 0) {
        return TEPAL_SYSTEM(ENOTCONN);
    }
    tpi_sim_stream_fin(socket);
    return 0;
}

/* Waiting */

static void sleep_for_real(tpi_sim_driver *self) {
    while (!atomic_load(&self->woken)) {
        (void)sem_wait(&self->awake); /* EINTR: look again */
    }
}

static void forget_wake(tpi_sim_driver *self) {
    if (atomic_exchange(&self->woken, false)) {
        (void)sem_trywait(&self->awake);
    }
}

static int sim_wait(tpi_driver *driver, int64_t timeout_ns) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    tepal_sim *sim = self->sim;
    if (sim->stepping == self || driver->ending) {
        forget_wake(self);
        return 0;
    }
    int64_t until_ns =
        timeout_ns < 0 || timeout_ns > TPI_SIM_NEVER - sim->now_ns ? TPI_SIM_NEVER : sim->now_ns + timeout_ns;
    int code = tpi_sim_drive(sim, self, until_ns);
    if (code == 1 && self->alone) {
        sleep_for_real(self);
        code = 0;
    }
    forget_wake(self);
    if (code == 1) {
        return TEPAL_SYSTEM(EDEADLK);
    }
    return code;
}

static void sim_wake(tpi_driver *driver) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    if (!atomic_exchange(&self->woken, true)) {
        (void)sem_post(&self->awake);
    }
}

static int64_t sim_now(tpi_driver *driver) {
    const tpi_sim_driver *self = tpi_sim_driver_of(driver);
    return self->sim->now_ns + self->host->clock_ns;
}

static uint64_t sim_random(tpi_driver *driver) {
    return tpi_sim_next(&sim_of(driver)->kernel);
}

static void sim_flush(tpi_driver *driver) {
    (void)driver; /* what was sent is on its way */
}

static int sim_poll_fd(tpi_driver *driver) {
    (void)driver;
    return TEPAL_ENOTSUP;
}

/* Questions, options, and what there is none of */

static int sim_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer) {
    const tpi_sim_socket *socket = open_socket(driver, object, "an object is asked that is not open");
    if (socket == NULL) {
        return TEPAL_EBADF;
    }
    switch (what) {
    case TPI_QUERY_LOCAL:
        *(tepal_address *)answer = socket->local;
        return 0;
    case TPI_QUERY_PEER:
        if (!socket->connected) {
            return TEPAL_SYSTEM(ENOTCONN);
        }
        *(tepal_address *)answer = socket->remote;
        return 0;
    case TPI_QUERY_UNREAD:
        *(size_t *)answer = socket->arrived;
        return 0;
    case TPI_QUERY_SENT:
        return TEPAL_ENOENT;
    default:
        *(bool *)answer = socket->listening;
        return 0;
    }
}

static int sim_set(tpi_driver *driver, tpi_object *object, tpi_option option, int value) {
    tpi_sim_socket *socket = open_socket(driver, object, "an option is set on an object that is not open");
    if (socket == NULL) {
        return TEPAL_EBADF;
    }
    switch (option) {
    case TPI_OPTION_KEEP_ALIVE:
        socket->keep_alive = value != 0;
        tpi_sim_keep_alive(socket);
        return 0;
    case TPI_OPTION_KEEP_ALIVE_IDLE:
        socket->keep_idle_s = value;
        tpi_sim_keep_alive(socket);
        return 0;
    case TPI_OPTION_KEEP_ALIVE_INTERVAL:
        socket->keep_interval_s = value;
        return 0;
    case TPI_OPTION_KEEP_ALIVE_COUNT:
        socket->keep_count = value;
        return 0;
    case TPI_OPTION_NO_DELAY:
        socket->no_delay = value != 0; /* kept, and otherwise without a meaning here */
        return 0;
    case TPI_OPTION_REUSE_PORT:
        socket->reuse_port = value != 0;
        return 0;
    case TPI_OPTION_IPV6_ONLY:
        socket->ipv6_only = value != 0;
        return 0;
    case TPI_OPTION_RESET_ON_CLOSE:
        socket->reset_on_close = value != 0 && socket->family != AF_UNIX; /* SO_LINGER does nothing there */
        return 0;
    default:
        return 0; /* reuse of addresses: it is so here in any case */
    }
}

static int sim_watch(tpi_driver *driver, tpi_object *object, int fd, unsigned events) {
    (void)driver;
    (void)object;
    (void)fd;
    (void)events;
    return TEPAL_ENOTSUP;
}

static void sim_unwatch(tpi_driver *driver, tpi_object *object) {
    (void)driver;
    (void)object;
}

static void sim_each(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument) {
    const tpi_sim_driver *self = tpi_sim_driver_of(driver);
    for (unsigned i = 0; i < self->table_room; i++) {
        const tpi_sim_socket *socket = self->table[i];
        if (socket != NULL && socket->object != NULL && !tpi_sim_is_gone(socket)) {
            visit(socket->object, argument);
        }
    }
}

/* Its life */

int tpi_sim_driver_new(tpi_driver **driver, tpi_sim_host *host, const tpi_driver_options *options) {
    tpi_sim_driver *self = tpi_alloc_zero(options->realloc, sizeof *self);
    if (self == NULL) {
        return TEPAL_ENOMEM;
    }
    self->scratch = options->realloc(NULL, options->read_bytes);
    if (self->scratch == NULL || sem_init(&self->awake, 0, 0) < 0) {
        int code = self->scratch == NULL ? TEPAL_ENOMEM : TEPAL_SYSTEM(errno);
        tpi_free(options->realloc, self->scratch);
        tpi_free(options->realloc, self);
        return code;
    }
    self->driver.ops = &tpi_sim_driver_ops;
    self->driver.realloc = options->realloc;
    self->sim = host->sim;
    self->sim->references++;
    self->host = host;
    self->read_budget = options->read_budget;
    self->read_bytes = options->read_bytes;
    self->due_end = &self->due;
    host->driver = self;
    *driver = &self->driver;
    return 0;
}

/* For the loop of a host; or alone, in a network of its own that is not on the loop's memory. */
static int sim_create(tpi_driver **driver, const tpi_driver_options *options) {
    if (options->sim_host != NULL) {
        return tpi_sim_driver_new(driver, options->sim_host, options);
    }
    const tepal_sim_options own = {.size = sizeof own};
    uint64_t seed = 1;
    tepal_sim *sim;
    tpi_sim_host *host;
    (void)tpi_sim_environment_seed(&seed);
    int code = tpi_sim_create(&sim, &own, seed);
    if (code < 0) {
        return code;
    }
    code = tpi_sim_host_new(sim, "host", &host);
    if (code == 0) {
        code = tpi_sim_driver_new(driver, host, options);
    }
    if (code == 0) {
        host->driver->alone = true;
    }
    tpi_sim_unref(sim);
    return code;
}

static void free_memory(tpi_sim_driver *self) {
    tepal_sim *sim = self->sim;
    while (self->first != NULL) {
        tpi_sim_socket_unref(tpi_sim_take_first(self));
    }
    if (self->host->driver == self) {
        self->host->driver = NULL;
    }
    tpi_free(sim->realloc, self->table);
    tpi_free(self->driver.realloc, self->scratch);
    (void)sem_destroy(&self->awake);
    tpi_free(self->driver.realloc, self);
    tpi_sim_unref(sim);
}

/* What a process leaves open its kernel closes. */
static void close_descriptors(tpi_sim_driver *self) {
    for (unsigned i = 0; i < self->table_room; i++) {
        if (self->table[i] != NULL) {
            self->table[i]->object = NULL;
            tpi_sim_socket_close(self->table[i]);
        }
    }
}

static void sim_destroy(tpi_driver *driver) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    driver->ending = true;
    tpi_sim_forget_jobs(self, true);
    close_descriptors(self);
    free_memory(self);
}

static void abandon_object(tpi_object *object) {
    if (object->up->abandoned != NULL) {
        object->up->abandoned(object); /* its memory goes */
    }
}

/* The network was copied with everything else, and goes with this process. */
static void sim_abandon(tpi_driver *driver) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    driver->ending = true;
    tpi_sim_forget_jobs(self, false);
    while (self->first != NULL) {
        tpi_sim_socket *socket = tpi_sim_take_first(self);
        tpi_object *object = socket->object;
        if (object != NULL && tpi_sim_is_gone(socket)) {
            socket->object = NULL;
            abandon_object(object); /* the others are in the table as well */
        }
        tpi_sim_socket_unref(socket);
    }
    for (unsigned i = 0; i < self->table_room; i++) {
        tpi_object *object = self->table[i] == NULL ? NULL : self->table[i]->object;
        if (object != NULL) {
            self->table[i]->object = NULL;
            abandon_object(object);
        }
    }
    close_descriptors(self);
    free_memory(self);
}

static int sim_after_fork(tpi_driver *driver) {
    (void)driver; /* a copy of the whole world goes on in the child */
    return 0;
}

const tpi_driver_ops tpi_sim_driver_ops = {
    .name = "sim",
    .simulated = true,
    .create = sim_create,
    .destroy = sim_destroy,
    .abandon = sim_abandon,
    .after_fork = sim_after_fork,
    .now = sim_now,
    .random = sim_random,
    .offload = tpi_sim_offload,
    .offload_cancel = tpi_sim_offload_cancel,
    .resolve = tpi_sim_resolve,
    .resolve_cancel = tpi_sim_resolve_cancel,
    .open = sim_open,
    .adopt = sim_adopt,
    .release = sim_release,
    .close = sim_close,
    .discard = sim_discard,
    .bind = sim_bind,
    .listen = sim_listen,
    .refuse = sim_refuse,
    .accept_start = sim_accept_start,
    .accept_stop = sim_accept_stop,
    .connect = sim_connect,
    .read_start = sim_read_start,
    .read_stop = sim_read_stop,
    .offer = sim_offer,
    .offer_pieces = offer_pieces,
    .send = sim_send,
    .flush = sim_flush,
    .shutdown = sim_shutdown,
    .watch = sim_watch,
    .unwatch = sim_unwatch,
    .query = sim_query,
    .set = sim_set,
    .wait = sim_wait,
    .dispatch = tpi_sim_dispatch,
    .wake = sim_wake,
    .poll_fd = sim_poll_fd,
    .each = sim_each,
};
