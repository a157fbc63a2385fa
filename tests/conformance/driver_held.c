/* The driver contract: bytes that a reader has left, which come first when it reads again. */
#include "conformance/objects.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static void close_both(thing *self, int peer) {
    thing_close(self);
    close(peer);
    driver_close(self->driver);
}

TEST_DRIVERS(driver_stream, what_is_held_comes_first_though_reading_starts_again_in_the_same_upcall) {
    for (int round = 0; round < 2; round++) {
        thing self;
        tpi_driver *driver = driver_open(0, 0);
        const int peer = thing_adopt(&self, driver, true);
        thing_read_start(&self);
        self.use = 10;
        self.start_again = true;
        write_numbers(peer, 0, round == 0 ? 100 : 10000); /* with and without a full buffer */
        DRIVER_UNTIL(driver, self.received > 10);
        write_numbers(peer, round == 0 ? 100 : 10000, 100);
        DRIVER_UNTIL(driver, self.received == (round == 0 ? 200 : 10100));
        close_both(&self, peer);
    }
}

TEST_DRIVERS(driver_stream, what_is_held_is_freed_when_the_stream_is_closed) {
    tpi_driver *driver = driver_open(0, 0);
    size_t before = 0;
    for (int round = 0; round < 3; round++) {
        thing self;
        const int peer = thing_adopt(&self, driver, true);
        before = round == 0 ? test_alloc_live() : before; /* with the table of descriptors */
        self.use = 5;
        thing_read_start(&self);
        write_numbers(peer, 0, 10);
        DRIVER_UNTIL(driver, self.received == 5);
        if (strcmp(test_driver(), "uring") != 0) { /* there it stays in its buffer */
            CHECK_GT(test_alloc_live(), before);
        }
        thing_close(&self);
        CHECK_EQ(test_alloc_live(), before);
        close(peer);
    }
    driver_close(driver);
}

/* A reader that has used 10 bytes of 200 and stopped, with the rest in pieces of 64 on a ring. */
static int pause_in_pieces(thing *self, tpi_driver *driver) {
    const int peer = thing_adopt(self, driver, true);
    self->use = 10;
    thing_read_start(self);
    driver_settle(driver); /* the ring receives before they come, so that they come together */
    write_numbers(peer, 0, 200);
    DRIVER_UNTIL(driver, self->received == 10);
    driver_settle(driver);
    return peer;
}

static void close_at_data(thing *self, char what) {
    if (what == 'd') {
        self->driver->ops->close(self->driver, &self->object);
    }
}

TEST_DRIVERS(driver_stream, closing_while_what_is_held_is_delivered_leaves_nothing_to_who_gets_the_number) {
    tpi_driver *driver = driver_open(0, 64);
    thing first, second;
    const int peer = pause_in_pieces(&first, driver);
    const int number = first.object.fd;
    first.use = 20;
    first.then = close_at_data;
    thing_read_start(&first);
    DRIVER_UNTIL(driver, strchr(first.log, 'C') != NULL);
    CHECK_STR(first.log, "ddC");
    char byte;
    CHECK_EQ(recv(peer, &byte, 1, 0), -1);
    CHECK_EQ(errno, ECONNRESET); /* bytes were dropped, and the peer is told */
    close(peer);

    int fds[2];
    test_tcp_pair(fds);
    if (fds[1] == number) {
        const int other = fds[0];
        fds[0] = fds[1];
        fds[1] = other;
    }
    CHECK_EQ(fds[0], number);
    thing_init(&second, driver);
    CHECK_OK(driver->ops->adopt(driver, &second.object, fds[0], TPI_STREAM, false));
    second.use = 10; /* so that something is held again */
    second.start_again = true;
    thing_read_start(&second);
    write_numbers(fds[1], 0, 50);
    DRIVER_UNTIL(driver, second.received == 50);
    driver_settle(driver);
    CHECK_EQ(second.received, 50);
    close_both(&second, fds[1]);
}

static thing high;

/* Another descriptor with a number so high that the table of descriptors moves. */
static void adopt_high(thing *self, char what) {
    if (what == 'd') {
        int fds[2];
        test_tcp_pair(fds);
        const int fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 700);
        CHECK_GE(fd, 700);
        close(fds[0]);
        close(fds[1]);
        self->then = NULL;
        thing_init(&high, self->driver);
        CHECK_OK(self->driver->ops->adopt(self->driver, &high.object, fd, TPI_STREAM, false));
    }
}

TEST_DRIVERS(driver_stream, the_table_may_grow_while_what_is_held_is_delivered) {
    tpi_driver *driver = driver_open(0, 64);
    thing self;
    const int peer = pause_in_pieces(&self, driver);
    self.use = 20;
    self.then = adopt_high;
    thing_read_start(&self);
    DRIVER_UNTIL(driver, self.received == 20);
    driver_settle(driver);
    self.use = 0;
    thing_read_start(&self);
    DRIVER_UNTIL(driver, self.received == 200);
    thing_close(&high);
    close_both(&self, peer);
}
