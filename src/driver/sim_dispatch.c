/*
 * One dispatch of a simulated host: what its objects are told, in an order of chance. A read may bring less than there
 * is, and what is late comes later; but each object hears what the contract promises, in the order it promises.
 */
#include "driver/sim.h"

#define ACCEPT_BUDGET 64
#define SHUFFLED 64 /* so many objects are told in an order of chance */

static void tell_last_word(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    socket->object = NULL;
    self->driver.objects--;
    if (socket->say_closed) {
        socket->say_closed = false;
        object->up->closed(object);
        return;
    }
    int fd = object->fd;
    size_t held = tpi_sim_stream_read(socket, self->scratch, socket->given_back);
    socket->given_back = 0;
    socket->say_released = false;
    socket->at_end = socket->fresh = false; /* who adopts it next starts anew */
    object->fd = -1;
    object->kind = 0;
    object->up->released(object, fd, self->scratch, held);
}

static void accept_one(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    tpi_sim_socket *waiting = socket->first_waiting;
    int fd = tpi_sim_chance(self->sim, TPI_RATE_ENOMEM) ? TEPAL_ENOMEM : tpi_sim_socket_open(waiting, self);
    self->upcalls++;
    if (fd < 0) {
        socket->accepting = false;
        object->up->accept_failed(object, fd);
        return;
    }
    socket->first_waiting = waiting->next;
    socket->waiting--;
    waiting->next = NULL;
    tpi_sim_socket_unref(waiting); /* the backlog's; the descriptor holds it */
    tepal_address peer = waiting->remote;
    tpi_sim_trace(self->sim, self->host, "accepts fd %d", tpi_sim_number(waiting));
    object->up->accepted(object, fd, &peer);
}

static void tell_listener(tpi_sim_driver *self, tpi_sim_socket *socket) {
    if (socket->say_stopped) {
        socket->say_stopped = false;
        self->upcalls++;
        socket->object->up->accept_stopped(socket->object);
        return;
    }
    for (int budget = ACCEPT_BUDGET; budget > 0 && socket->accepting && !tpi_sim_is_gone(socket) &&
                                     socket->waiting > 0 && !self->driver.interrupted;
         budget--) {
        accept_one(self, socket);
    }
    if (socket->accepting && socket->waiting > 0) {
        tpi_sim_list(socket);
    }
}

static void tell_connected(tpi_sim_driver *self, tpi_sim_socket *socket) {
    socket->say_connected = false;
    self->upcalls++;
    if (socket->connect_code == 0) {
        tpi_sim_keep_alive(socket);
    }
    socket->object->up->connected(socket->object, socket->connect_code);
}

static void tell_sent(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    const tpi_message *message = object->sending;
    int64_t result = socket->sent_result;
    if (tpi_sim_sum_of(message) != socket->message_sum) {
        (void)tpi_sim_broken(self, 5, "a message changed while its send was pending");
        return;
    }
    if (!socket->say_sent) {
        result = tpi_sim_stream_send(socket, message->pieces, message->count);
    }
    if (result == TPI_PENDING) {
        return;
    }
    socket->say_sent = false;
    object->sending = NULL;
    self->upcalls++;
    object->up->sent(object, result);
}

static size_t some_of(tpi_sim_driver *self, size_t size) {
    if (size > 1 && tpi_sim_chance(self->sim, TPI_RATE_SPLIT)) {
        self->sim->stats.faults++;
        return 1 + (size_t)tpi_sim_below(&self->sim->network, size - 1);
    }
    return size;
}

/* Into a buffer of the owner's. Whether it was asked for one and gave it, or changed its mind about reading. */
static bool tell_direct(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    void *buffer = NULL;
    size_t size = 0;
    self->upcalls++;
    object->up->get_buffer(object, self->read_bytes, &buffer, &size);
    if (tpi_sim_is_gone(socket) || !socket->reading) {
        return true;
    }
    if (size == 0) {
        return false;
    }
    size_t count = tpi_sim_stream_read(socket, buffer, some_of(self, size < socket->arrived ? size : socket->arrived));
    tpi_sim_trace(self->sim, self->host, "fd %d fills %zu", tpi_sim_number(socket), count);
    object->up->filled(object, count);
    return true;
}

/* A copy, so that who keeps what was lent finds rubbish there. */
static void tell_data(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    if (object->direct && tell_direct(self, socket)) {
        return;
    }
    size_t size = socket->arrived < self->read_bytes ? socket->arrived : self->read_bytes;
    size_t count = tpi_sim_stream_read(socket, self->scratch, some_of(self, size));
    tpi_sim_trace(self->sim, self->host, "fd %d reads %zu", tpi_sim_number(socket), count);
    self->upcalls++;
    socket->was_stopped = false;
    size_t used = object->up->data(object, self->scratch, count);
    socket->given_back = 0;
    if (used < count && !socket->say_closed) {
        if (!socket->was_stopped && !socket->say_released) {
            (void)tpi_sim_broken(self, 2, "data was left unused by who goes on reading");
        }
        tpi_sim_stream_put_back(socket, self->scratch + used, count - used);
        socket->given_back = count - used;
    }
    memset(self->scratch, 0xdb, count);
}

static void tell_end(tpi_sim_driver *self, tpi_sim_socket *socket) {
    tpi_object *object = socket->object;
    socket->reading = false;
    socket->at_end = true;
    self->upcalls++;
    if (socket->error != 0) {
        socket->error_told = true;
        object->up->error(object, TEPAL_SYSTEM(socket->error));
    } else {
        object->up->eof(object);
    }
}

/* One adopted in this turn is told of nothing yet; once that has been looked at, it is like all others. */
static bool is_too_early(const tpi_sim_driver *self, tpi_sim_socket *socket) {
    bool fresh = socket->fresh;
    socket->fresh = false;
    return fresh && self->dispatches < socket->reading_since + 2;
}

static void tell_reader(tpi_sim_driver *self, tpi_sim_socket *socket) {
    for (unsigned budget = self->read_budget; budget > 0; budget--) {
        if (tpi_sim_is_gone(socket) || self->driver.interrupted || !tpi_sim_stream_has_news(socket)) {
            break;
        }
        if (socket->arrived == 0) {
            tell_end(self, socket);
            break;
        }
        tell_data(self, socket);
        tpi_sim_stream_acknowledge(socket);
    }
    if (!tpi_sim_is_gone(socket) && tpi_sim_stream_has_news(socket)) {
        tpi_sim_list(socket);
    }
}

static void tell_stream(tpi_sim_driver *self, tpi_sim_socket *socket) {
    bool sends_first = tpi_sim_below(&self->sim->network, 2) == 0 && socket->arrived == 0;
    if (socket->say_connected) {
        tell_connected(self, socket);
        if (!tpi_sim_is_gone(socket) && tpi_sim_stream_has_news(socket)) {
            tpi_sim_list(socket); /* no data in the turn of connection_made */
        }
        return;
    }
    if (sends_first && socket->object->sending != NULL) {
        tell_sent(self, socket);
    }
    if (!tpi_sim_is_gone(socket) && tpi_sim_stream_has_news(socket)) {
        if (is_too_early(self, socket)) {
            tpi_sim_list(socket);
        } else {
            tell_reader(self, socket);
        }
    }
    if (!sends_first && !tpi_sim_is_gone(socket) && socket->object->sending != NULL) {
        if (self->driver.interrupted) {
            tpi_sim_list(socket);
        } else {
            tell_sent(self, socket);
        }
    }
}

static bool is_late(const tpi_sim_driver *self, const tpi_sim_socket *socket) {
    bool waits = tpi_sim_is_gone(socket) || socket->say_stopped || socket->say_connected ||
                 (socket->object->sending != NULL && !tpi_sim_stream_has_news(socket));
    return waits && self->dispatches < socket->not_before;
}

static void tell(tpi_sim_driver *self, tpi_sim_socket *socket) {
    if (socket->object == NULL) {
        return;
    }
    if (is_late(self, socket)) {
        tpi_sim_list(socket);
    } else if (tpi_sim_is_gone(socket)) {
        self->upcalls++;
        tell_last_word(self, socket);
    } else if (self->crashed) {
        return; /* in an upcall of this very dispatch: nobody is there to hear of more */
    } else if (socket->kind == TPI_LISTENER) {
        tell_listener(self, socket);
    } else {
        tell_stream(self, socket);
    }
}

tpi_sim_socket *tpi_sim_take_first(tpi_sim_driver *self) {
    tpi_sim_socket *socket = self->first;
    self->first = socket->next;
    socket->next = NULL;
    socket->listed = false;
    return socket;
}

/* One dispatch */

static void shuffle(tpi_sim_driver *self, tpi_sim_socket **sockets, size_t count) {
    for (size_t i = count; i > 1; i--) {
        size_t other = (size_t)tpi_sim_below(&self->sim->network, i);
        tpi_sim_socket *socket = sockets[i - 1];
        sockets[i - 1] = sockets[other];
        sockets[other] = socket;
    }
}

/* Tell up to SHUFFLED of the sockets that were listed before this dispatch; *left of them are. */
static void tell_some(tpi_sim_driver *self, size_t *left) {
    tpi_sim_socket *sockets[SHUFFLED];
    size_t count = 0;
    for (; count<SHUFFLED && * left> 0; (*left)--) {
        sockets[count++] = tpi_sim_take_first(self);
    }
    shuffle(self, sockets, count);
    for (size_t i = 0; i < count; i++) {
        if (self->driver.interrupted) {
            tpi_sim_list(sockets[i]);
        } else {
            tell(self, sockets[i]);
        }
        tpi_sim_socket_unref(sockets[i]); /* the list's */
    }
}

bool tpi_sim_dispatch(tpi_driver *driver) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    size_t left = 0;
    self->dispatches++;
    for (const tpi_sim_socket *socket = self->first; socket != NULL; socket = socket->next) {
        left++;
    }
    while (left > 0 && !driver->interrupted) {
        tell_some(self, &left);
    }
    if (!driver->interrupted && !self->crashed) {
        tpi_sim_tell_jobs(self);
    }
    driver->backlog = self->first != NULL || self->due != NULL || driver->interrupted;
    return driver->backlog;
}
