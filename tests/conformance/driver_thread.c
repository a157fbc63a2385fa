/*
 * A driver that goes from one thread to another after the first has fetched what has come, and before it is delivered.
 * A ring is given up then, and what it had completed is delivered without it, when nothing of the kernel's holds a
 * number back any more: generations alone keep it from whoever has the number by then.
 */
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

/* `fetch` runs in another thread, and what it leaves is delivered in this one. */
static void deliver_elsewhere(tpi_driver *driver, void *(*fetch)(void *)) {
    thing listener;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fetch, driver), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    (void)thing_listen(&listener, driver);
    driver->ops->accept_start(driver, &listener.object);
    if (strcmp(test_driver(), "uring") == 0) {
        CHECK_OK(driver->ops->wait(driver, -1)); /* it has something to submit, and learns that the ring is another's */
    }
    (void)driver->ops->dispatch(driver);
    driver_settle(driver);
    thing_close(&listener);
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
