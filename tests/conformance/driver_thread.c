/*
 * A driver that goes from one thread to another after the first has fetched what has come, and before it is delivered.
 * A ring is given up then, and what it had completed is delivered without it, when nothing of the kernel's holds a
 * number back any more: generations alone keep it from whoever has the number by then.
 */
#include "conformance/loops.h"
#include "conformance/objects.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { COUNT = 3, LENGTH = 10 };

static thing things[COUNT], strangers[COUNT - 1];
static int peers[COUNT];
static uint16_t port;

static void *fetch_bytes(void *argument) {
    tpi_driver *driver = argument;
    driver_settle(driver);
    for (int i = 0; i < COUNT; i++) {
        write_numbers(peers[i], 0, LENGTH);
    }
    CHECK_OK(driver->ops->wait(driver, -1));
    return NULL;
}

static void *fetch_connections(void *argument) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    tpi_driver *driver = argument;
    driver_settle(driver);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(peers[i], (const struct sockaddr *)&address, sizeof address), 0);
    }
    CHECK_OK(driver->ops->wait(driver, -1));
    return NULL;
}

static bool is_on_ring(void) {
    return strcmp(test_driver(), "uring") == 0;
}

/* `fetch` runs in another thread. `other` gives a ring something to submit, by which it learns that it is another's. */
static void fetch_elsewhere(tpi_driver *driver, void *(*fetch)(void *), thing *other) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fetch, driver), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    (void)thing_listen(other, driver);
    driver->ops->accept_start(driver, &other->object);
    if (is_on_ring()) {
        CHECK_OK(driver->ops->wait(driver, -1));
    }
}

/* What it leaves is delivered in this one. */
static void deliver_elsewhere(tpi_driver *driver, void *(*fetch)(void *)) {
    thing other;
    fetch_elsewhere(driver, fetch, &other);
    (void)driver->ops->dispatch(driver);
    driver_settle(driver);
    thing_close(&other);
}

/* The first to be told closes the others, which have been sent something too, and has strangers take their numbers. */
static void replace_others(thing *self, char what) {
    tpi_driver *driver = self->driver;
    int fds[COUNT - 1];
    CHECK_EQ(what, 'd');
    for (int i = 0; i < COUNT; i++) {
        things[i].then = NULL;
        if (&things[i] != self) {
            driver->ops->close(driver, &things[i].object);
        }
    }
    test_socketpair(fds);
    for (int i = 0; i < COUNT - 1; i++) {
        thing_init(&strangers[i], driver);
        CHECK_OK(driver->ops->adopt(driver, &strangers[i].object, fds[i], TPI_STREAM, false));
        thing_read_start(&strangers[i]);
    }
}

TEST_DRIVERS(driver_thread, what_had_come_for_a_closed_object_does_not_reach_who_has_its_number_in_another_thread) {
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = thing_adopt(&things[i], driver, true);
        thing_read_start(&things[i]);
        things[i].then = replace_others;
    }
    deliver_elsewhere(driver, fetch_bytes);
    CHECK_EQ(things[0].received + things[1].received + things[2].received, LENGTH);
    for (int i = 0; i < COUNT - 1; i++) {
        CHECK_STR(strangers[i].log, "");
        write_numbers(strangers[1 - i].object.fd, 0, 1); /* what is meant for them they hear */
        DRIVER_UNTIL(driver, strangers[i].received == 1);
    }
    thing_close(&strangers[0]);
    thing_close(&strangers[1]);
    for (int i = 0; i < COUNT; i++) {
        if (things[i].object.kind != 0) {
            thing_close(&things[i]);
        }
        close(peers[i]);
    }
    driver_close(driver);
}

static void close_it(thing *self, char what) {
    CHECK_EQ(what, 'a');
    self->then = NULL;
    self->driver->ops->close(self->driver, &self->object);
}

TEST_DRIVERS(driver_thread, connections_that_had_come_for_a_closed_listener_are_closed_in_another_thread) {
    thing listener;
    tpi_driver *driver = driver_open(0, 0);
    port = thing_listen(&listener, driver);
    driver->ops->accept_start(driver, &listener.object);
    listener.then = close_it;
    const int before = test_fd_count();
    deliver_elsewhere(driver, fetch_connections);
    CHECK_EQ(listener.accepted, 1);
    if (strcmp(test_driver(), "sim") != 0) {               /* whose descriptors the kernel does not know */
        CHECK_EQ(test_fd_count(), before - 1 + 1 + COUNT); /* without the listener, with what it accepted and our own */
    }
    close(listener.fd);
    for (int i = 0; i < COUNT; i++) {
        close(peers[i]);
    }
    driver_close(driver);
}

TEST_DRIVERS(driver_thread, a_child_does_not_hear_what_another_thread_had_taken_for_its_parent) {
    thing other;
    if (!is_on_ring()) {
        return; /* the others leave it with the kernel, for both */
    }
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = thing_adopt(&things[i], driver, true);
        thing_read_start(&things[i]);
    }
    fetch_elsewhere(driver, fetch_bytes, &other);
    const int child = fork();
    if (child == 0) {
        CHECK_OK(driver->ops->after_fork(driver));
        driver_settle(driver);
        for (int i = 0; i < COUNT; i++) {
            CHECK_STR(things[i].log, "");
            write_numbers(peers[i], 0, 1);
            DRIVER_UNTIL(driver, things[i].received == 1);
        }
        _exit(0);
    }
    wait_for_child(child);
    for (int i = 0; i < COUNT; i++) {
        DRIVER_UNTIL(driver, things[i].received == LENGTH);
        thing_close(&things[i]);
        close(peers[i]);
    }
    thing_close(&other);
    driver_close(driver);
}

static thing *stopped;

static void *fetch_bytes_and_stop(void *argument) {
    tpi_driver *driver = argument;
    driver_settle(driver);
    write_numbers(peers[0], 0, LENGTH);
    driver->ops->accept_stop(driver, &stopped->object);
    CHECK_OK(driver->ops->wait(driver, -1));
    return NULL;
}

static void start_again(thing *self, char what) {
    CHECK_EQ(what, 'd');
    self->then = NULL;
    self->driver->ops->accept_start(self->driver, &stopped->object);
}

/* conformance/ring.c fails the test if a ring gets two accepts of one listener. */
TEST_DRIVERS(driver_thread, a_listener_that_starts_before_it_has_stopped_in_another_thread_accepts_once) {
    thing listener;
    tpi_driver *driver = driver_open(0, 0);
    (void)thing_listen(&listener, driver);
    driver->ops->accept_start(driver, &listener.object);
    stopped = &listener;
    peers[0] = thing_adopt(&things[0], driver, true);
    thing_read_start(&things[0]);
    things[0].then = start_again;
    deliver_elsewhere(driver, fetch_bytes_and_stop);
    CHECK_STR(listener.log, "S");
    thing_close(&listener);
    thing_close(&things[0]);
    close(peers[0]);
    driver_close(driver);
}

static void *pause_and_hold(void *argument) {
    tpi_driver *driver = argument;
    driver_settle(driver);
    for (int i = 0; i < COUNT; i += 2) { /* the one between holds nothing */
        driver->ops->read_stop(driver, &things[i].object);
        write_numbers(peers[i], 0, LENGTH);
    }
    driver_settle(driver);
    return NULL;
}

TEST_DRIVERS(driver_thread, what_is_held_for_a_paused_reader_it_gets_in_another_thread) {
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = thing_adopt(&things[i], driver, true);
        thing_read_start(&things[i]);
    }
    deliver_elsewhere(driver, pause_and_hold);
    for (int i = 0; i < COUNT; i++) {
        CHECK_STR(things[i].log, "");
        if (i % 2 == 0) {
            write_numbers(peers[i], LENGTH, LENGTH);
            thing_read_start(&things[i]);
            DRIVER_UNTIL(driver, things[i].received == 2 * (size_t)LENGTH);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        thing_close(&things[i]);
        close(peers[i]);
    }
    driver_close(driver);
}
