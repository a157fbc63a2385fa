/* See objects.h. */
#include "conformance/objects.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

static void note(thing *self, char what) {
    const size_t length = strlen(self->log);

    CHECK(!self->is_busy);
    if (length + 1 < sizeof self->log) {
        self->log[length] = what;
    }
    if (self->then != NULL) {
        self->then(self, what);
    }
}

void check_numbers(const uint8_t *data, size_t from, size_t count) {
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(data[i], (from + i) % 251);
    }
}

static size_t on_data(tpi_object *object, const uint8_t *data, size_t length) {
    thing *self = (thing *)object;
    size_t used = length;

    CHECK_GT(length, 0);
    self->longest = length > self->longest ? length : self->longest;
    if (self->use > 0) {
        const size_t left = self->use - self->received;
        used = left < length ? left : length;
    }
    check_numbers(data, self->received, used);
    self->received += used;
    if (used < length) {
        self->driver->ops->read_stop(self->driver, object);
        if (self->start_again) {
            self->use = 0;
            self->driver->ops->read_start(self->driver, object);
        }
    }
    note(self, 'd');
    return used;
}

static void on_get_buffer(tpi_object *object, size_t hint, void **buffer, size_t *length) {
    thing *self = (thing *)object;

    CHECK_GT(hint, 0);
    self->asked++;
    *buffer = self->lent;
    *length = self->lend < hint ? self->lend : hint;
}

static void on_filled(tpi_object *object, size_t length) {
    thing *self = (thing *)object;

    CHECK_GT(length, 0);
    CHECK_LE(length, self->lend);
    check_numbers(self->lent, self->received, length);
    self->received += length;
    note(self, 'f');
}

static void on_eof(tpi_object *object) {
    note((thing *)object, 'e');
}

static void on_error(tpi_object *object, int code) {
    ((thing *)object)->code = code;
    note((thing *)object, 'x');
}

static void on_sent(tpi_object *object, int64_t result) {
    ((thing *)object)->sent = result;
    note((thing *)object, 's');
}

static void on_accepted(tpi_object *object, int fd, const tepal_address *peer) {
    thing *self = (thing *)object;

    CHECK_GT(peer->length, 0);
    self->accepted++;
    close(self->fd); /* only the last one is kept */
    self->fd = fd;
    note(self, 'a');
}

static void on_accept_failed(tpi_object *object, int code) {
    ((thing *)object)->code = code;
    note((thing *)object, 'A');
}

static void on_accept_stopped(tpi_object *object) {
    note((thing *)object, 'S');
}

static void on_connected(tpi_object *object, int code) {
    ((thing *)object)->code = code;
    note((thing *)object, 'c');
}

static void on_ready(tpi_object *object, unsigned events) {
    ((thing *)object)->events = events;
    note((thing *)object, 'r');
}

static void on_released(tpi_object *object, int fd, const uint8_t *held, size_t length) {
    thing *self = (thing *)object;

    CHECK_LE(length, sizeof self->held);
    if (length > 0) {
        memcpy(self->held, held, length);
    }
    self->held_length = length;
    self->fd = fd;
    note(self, 'R');
}

static void on_closed(tpi_object *object) {
    CHECK_EQ(object->fd, -1);
    note((thing *)object, 'C');
}

static const tpi_upcalls upcalls = {
    .data = on_data,
    .get_buffer = on_get_buffer,
    .filled = on_filled,
    .eof = on_eof,
    .error = on_error,
    .sent = on_sent,
    .accepted = on_accepted,
    .accept_failed = on_accept_failed,
    .accept_stopped = on_accept_stopped,
    .connected = on_connected,
    .ready = on_ready,
    .released = on_released,
    .closed = on_closed,
};

tpi_driver *driver_open(unsigned read_budget, unsigned read_bytes) {
    const tpi_driver_options options = {
        .realloc = test_counting_alloc,
        .read_budget = read_budget == 0 ? 4 : read_budget,
        .read_bytes = read_bytes == 0 ? 4096 : read_bytes,
        .threads = 1,
    };
    tpi_driver *driver;

    CHECK_OK(tpi_driver_new(&driver, test_driver(), &options));
    CHECK_STR(driver->ops->name, test_driver());
    return driver;
}

bool driver_turn(tpi_driver *driver, int64_t timeout_ns) {
    driver->interrupted = false;
    CHECK_OK(driver->ops->wait(driver, driver->backlog ? 0 : timeout_ns));
    const bool more = driver->ops->dispatch(driver);
    CHECK_EQ(more, driver->backlog);
    return more;
}

void driver_settle(tpi_driver *driver) {
    for (int idle = 0; idle < 3; idle++) {
        while (driver_turn(driver, 0)) {
            idle = 0;
        }
    }
}

void driver_close(tpi_driver *driver) {
    DRIVER_UNTIL(driver, driver->objects == 0);
    driver->ops->destroy(driver);
}

void thing_init(thing *self, tpi_driver *driver) {
    *self = (thing){.object.up = &upcalls, .driver = driver, .fd = -1};
}

int thing_adopt(thing *self, tpi_driver *driver, bool tcp) {
    int fds[2];

    thing_init(self, driver);
    if (tcp) {
        test_tcp_pair(fds);
    } else {
        test_socketpair(fds);
    }
    CHECK_OK(driver->ops->adopt(driver, &self->object, fds[0], TPI_STREAM, 0));
    CHECK_EQ(self->object.fd, fds[0]);
    return fds[1];
}

void thing_read_start(thing *self) {
    self->is_busy = true;
    self->driver->ops->read_start(self->driver, &self->object);
    self->is_busy = false;
}

void thing_close(thing *self) {
    self->then = NULL;
    memset(self->log, 0, sizeof self->log);
    self->is_busy = true;
    self->driver->ops->close(self->driver, &self->object);
    self->is_busy = false;
    DRIVER_UNTIL(self->driver, self->log[0] != '\0');
    CHECK_STR(self->log, "C");
}

uint16_t thing_listen(thing *self, tpi_driver *driver) {
    tepal_address address;

    thing_init(self, driver);
    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 0));
    CHECK_EQ(driver->ops->open(driver, &self->object, TPI_LISTENER, AF_INET), 0);
    CHECK_OK(driver->ops->bind(driver, &self->object, &address));
    CHECK_OK(driver->ops->listen(driver, &self->object, 64));
    CHECK_OK(driver->ops->query(driver, &self->object, TPI_QUERY_LOCAL, &address));
    const int port = tepal_address_port(&address);
    CHECK_GT(port, 0);
    return (uint16_t)port;
}

void write_numbers(int fd, size_t from, size_t count) {
    uint8_t block[1024];

    while (count > 0) {
        const size_t some = count < sizeof block ? count : sizeof block;
        for (size_t i = 0; i < some; i++) {
            block[i] = (uint8_t)((from + i) % 251);
        }
        test_write_all(fd, block, some);
        from += some;
        count -= some;
    }
}
