/* The driver contract, sentence by sentence: waiting, waking, paused streams, the end of a driver. */
#include "conformance/objects.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* How often a wait that could sleep comes back within this time. */
static int wake_ups(tpi_driver *driver, int64_t during_ns) {
    const int64_t end_ns = test_now_ns() + during_ns;
    int count = 0;
    for (int64_t left_ns; (left_ns = end_ns - test_now_ns()) > 0; count++) {
        driver_turn(driver, left_ns);
    }
    return count;
}

TEST_DRIVERS(driver_wait, a_paused_stream_does_not_spin_whatever_happens_to_it) {
    for (int how = 0; how < 4; how++) {
        thing self;
        const struct linger linger = {.l_onoff = 1};
        tpi_driver *driver = driver_open(0, 0);
        const int peer = thing_adopt(&self, driver, how != 3);
        thing_read_start(&self);
        driver_settle(driver);
        driver->ops->read_stop(driver, &self.object);
        driver->ops->read_stop(driver, &self.object);
        write_numbers(peer, 0, 100);
        if (how == 1) {
            shutdown(peer, SHUT_WR);
        } else if (how == 2) {
            CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
        }
        if (how >= 2) {
            close(peer); /* by a reset, or as a Unix socket: a hang-up */
        }
        CHECK_LE(wake_ups(driver, TEPAL_MS(30)), 10);
        CHECK_STR(self.log, "");
        thing_read_start(&self);
        DRIVER_UNTIL(driver, self.received == 100 || strchr(self.log, 'x') != NULL);
        thing_close(&self);
        if (how < 2) {
            close(peer);
        }
        driver_close(driver);
    }
}

TEST_DRIVERS(driver_wait, an_idle_stream_and_one_at_its_end_do_not_spin) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    thing_read_start(&self);
    CHECK_LE(wake_ups(driver, TEPAL_MS(20)), 5);
    shutdown(peer, SHUT_WR);
    DRIVER_UNTIL(driver, self.log[0] == 'e');
    CHECK_LE(wake_ups(driver, TEPAL_MS(20)), 5);
    CHECK_OK(driver->ops->shutdown(driver, &self.object)); /* now a hang-up stands in both directions */
    CHECK_LE(wake_ups(driver, TEPAL_MS(20)), 5);
    CHECK_STR(self.log, "e");
    thing_close(&self);
    close(peer);
    driver_close(driver);
}

/* Waking */

static void *wake_it(void *driver) {
    ((tpi_driver *)driver)->ops->wake(driver);
    return NULL;
}

static tpi_driver *for_handler;

static void wake_in_handler(int signal) {
    (void)signal;
    for_handler->ops->wake(for_handler);
}

TEST_DRIVERS(driver_wait, a_wake_ends_a_wait_now_or_the_next_one) {
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, wake_it, driver), 0);
        driver_turn(driver, -1); /* else it sleeps for ever */
        pthread_join(thread, NULL);
    }
    driver_close(driver);
}

TEST_DRIVERS(driver_wait, a_signal_handler_may_wake_it) {
    const struct sigaction action = {.sa_handler = wake_in_handler, .sa_flags = SA_RESTART};
    tpi_driver *driver = driver_open(0, 0);
    for_handler = driver;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int i = 0; i < 100; i++) {
        raise(SIGUSR1); /* before the wait: the next one ends */
        driver_turn(driver, -1);
    }
    driver_close(driver);
}

/* FIELD 14: what is written to the wake-up descriptor means "look", and nothing else. */

static int find_eventfd(void) {
    char link[64], target[64];
    for (int fd = 3; fd < 64; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        const ssize_t length = readlink(link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        if (strstr(target, "eventfd") != NULL) {
            return fd;
        }
    }
    return -1;
}

TEST_DRIVERS(driver_wait, random_bytes_in_the_wake_up_descriptor_do_nothing) {
    test_prng prng = test_prng_start(14);
    tpi_driver *driver = driver_open(0, 0);
    thing self;
    const int peer = thing_adopt(&self, driver, true);
    const int fd = find_eventfd();
    size_t written = 0;
    CHECK_GE(fd, 0);
    thing_read_start(&self);
    driver_settle(driver);
    for (int round = 0; round < 300; round++) {
        uint64_t bytes = test_prng_next(&prng);
        if (round % 3 == 0) {
            bytes = UINT64_MAX - 1; /* as much as the counter holds */
        }
        ssize_t count = write(fd, &bytes, sizeof bytes);
        (void)count; /* it may be full */
        driver_turn(driver, 0);
        driver_settle(driver);
        /* Nothing is heard, and the next wake-up and the next bytes are not missed. */
        CHECK_EQ(self.received, written);
        driver->ops->wake(driver);
        driver_turn(driver, -1);
        write_numbers(peer, written, 3);
        written += 3;
        DRIVER_UNTIL(driver, self.received == written);
    }
    thing_close(&self);
    close(peer);
    driver_close(driver);
}

TEST_DRIVERS(driver_wait, a_time_limit_is_not_cut_short) {
    tpi_driver *driver = driver_open(0, 0);
    driver_settle(driver);
    for (int64_t limit_ns = 1; limit_ns < TEPAL_MS(20); limit_ns = limit_ns * 7 + 1) {
        const int64_t start_ns = driver->ops->now(driver);
        driver_turn(driver, limit_ns);
        CHECK_GE(driver->ops->now(driver) - start_ns, limit_ns);
    }
    driver_close(driver);
}

/* Watches, as far as the loop does not show them */

TEST_DRIVERS(driver_wait, its_own_descriptors_cannot_be_watched) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    thing_init(&self, driver);
    CHECK_EQ(driver->ops->watch(driver, &self.object, find_eventfd(), TEPAL_READABLE), TEPAL_EBUSY);
    CHECK_EQ(self.object.kind, 0);
    driver->ops->unwatch(driver, &self.object); /* harmless */
    driver_close(driver);
}

TEST_DRIVERS(driver_wait, a_watched_number_that_comes_back_as_our_own_socket_is_forgotten) {
    thing watch, self;
    int fds[2], again[2];
    tpi_driver *driver = driver_open(0, 0);
    thing_init(&watch, driver);
    thing_init(&self, driver);
    test_socketpair(fds);
    CHECK_OK(driver->ops->watch(driver, &watch.object, fds[0], TEPAL_READABLE));
    close(fds[0]);
    test_socketpair(again);
    CHECK_EQ(again[0], fds[0]);
    CHECK_OK(driver->ops->adopt(driver, &self.object, again[0], TPI_STREAM, 0));
    thing_read_start(&self);
    write_numbers(again[1], 0, 10);
    DRIVER_UNTIL(driver, self.received == 10);
    driver_settle(driver);
    CHECK_STR(watch.log, "");
    CHECK_EQ(watch.object.kind, 0);
    driver->ops->unwatch(driver, &watch.object);
    thing_close(&self);
    close(fds[1]);
    close(again[1]);
    driver_close(driver);
}

/* The end */

static void close_each(tpi_object *object, void *argument) {
    thing *self = (thing *)object;
    ++*(int *)argument;
    self->driver->ops->close(self->driver, object);
}

TEST_DRIVERS(driver_wait, each_visits_what_is_open_once_and_what_is_closed_never) {
    thing all[5], watch;
    int peers[5], fds[2], count = 0;
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < 5; i++) {
        peers[i] = thing_adopt(&all[i], driver, i % 2 == 0);
    }
    test_socketpair(fds);
    thing_init(&watch, driver);
    CHECK_OK(driver->ops->watch(driver, &watch.object, fds[0], TEPAL_READABLE));
    driver->ops->close(driver, &all[0].object);
    driver->ops->each(driver, close_each, &count);
    CHECK_EQ(count, 4);
    driver->ops->each(driver, close_each, &count);
    CHECK_EQ(count, 4);
    DRIVER_UNTIL(driver, driver->objects == 0);
    for (int i = 0; i < 5; i++) {
        CHECK_STR(all[i].log, "C");
        close(peers[i]);
    }
    driver_close(driver);
    CHECK_EQ(watch.object.kind, 0); /* it has ended with the driver */
    CHECK_EQ(watch.object.fd, -1);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(driver_wait, random_numbers_differ) {
    tpi_driver *driver = driver_open(0, 0);
    uint64_t numbers[100];
    for (int i = 0; i < 100; i++) {
        numbers[i] = driver->ops->random(driver);
        for (int before = 0; before < i; before++) {
            CHECK(numbers[i] != numbers[before]);
        }
    }
    driver_close(driver);
}
