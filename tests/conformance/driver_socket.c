/* The driver contract, sentence by sentence: listeners, connecting, closing, releasing, interrupting. */
#include "conformance/objects.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int dial(uint16_t port) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fd, 0);
    CHECK_EQ(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Accepting */

TEST_DRIVERS(driver_socket, accepts_between_start_and_stop_only) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const uint16_t port = thing_listen(&self, driver);
    const int first = dial(port);
    driver_settle(driver);
    CHECK_STR(self.log, "");
    self.is_busy = true;
    driver->ops->accept_start(driver, &self.object);
    driver->ops->accept_start(driver, &self.object);
    self.is_busy = false;
    DRIVER_UNTIL(driver, self.accepted == 1);
    CHECK_EQ(fcntl(self.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(fcntl(self.fd, F_GETFD), FD_CLOEXEC);

    self.is_busy = true;
    driver->ops->accept_stop(driver, &self.object);
    self.is_busy = false;
    const int second = dial(port);
    driver_settle(driver);
    CHECK_STR(self.log, "aS");
    driver->ops->accept_start(driver, &self.object);
    DRIVER_UNTIL(driver, self.accepted == 2);
    close(first);
    close(second);
    close(self.fd);
    thing_close(&self);
    driver_close(driver);
}

TEST_DRIVERS(driver_socket, a_listener_out_of_descriptors_says_so_once_and_stops) {
    thing self;
    struct rlimit before, low;
    tpi_driver *driver = driver_open(0, 0);
    const uint16_t port = thing_listen(&self, driver);
    const int client = dial(port);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    low.rlim_cur = (rlim_t)client + 1;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    driver->ops->accept_start(driver, &self.object);
    DRIVER_UNTIL(driver, self.log[0] != '\0');
    driver_settle(driver);
    CHECK_STR(self.log, "A");
    CHECK_EQ(self.code, TEPAL_SYSTEM(EMFILE));
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    driver_settle(driver);
    CHECK_STR(self.log, "A");
    driver->ops->accept_start(driver, &self.object);
    DRIVER_UNTIL(driver, self.accepted == 1);
    close(self.fd);
    close(client);
    thing_close(&self);
    driver_close(driver);
}

TEST(driver_socket, a_listener_that_cannot_be_registered_says_so_from_dispatch) {
    const tpi_driver_options options = {
        .realloc = test_counting_alloc, .read_budget = 4, .read_bytes = 4096, .threads = 1};
    enum { MANY = 64 }; /* as many descriptors as make the poll driver's tables grow */
    static thing many[MANY];
    static int peers[MANY];
    tpi_driver *driver;
    thing self;
    CHECK_OK(tpi_driver_new(&driver, "poll", &options));
    for (int i = 0; i < MANY - 1; i++) {
        peers[i] = thing_adopt(&many[i], driver, false);
    }
    thing_listen(&self, driver);
    self.is_busy = true;
    test_alloc_fail_at(1, true);
    driver->ops->accept_start(driver, &self.object);
    self.is_busy = false;
    const bool has_failed = test_alloc_has_failed();
    driver_turn(driver, 0);
    test_alloc_fail_at(0, false);
    CHECK(has_failed);
    CHECK_STR(self.log, "A");
    CHECK_EQ(self.code, TEPAL_ENOMEM);
    driver->ops->accept_start(driver, &self.object);
    driver_settle(driver);
    CHECK_STR(self.log, "A");
    thing_close(&self);
    for (int i = 0; i < MANY - 1; i++) {
        thing_close(&many[i]);
        close(peers[i]);
    }
    driver_close(driver);
}

/* Connecting */

TEST_DRIVERS(driver_socket, a_connect_ends_in_connected_with_success_or_a_reason) {
    for (int refused = 0; refused < 2; refused++) {
        thing listener, self;
        tepal_address address;
        tpi_driver *driver = driver_open(0, 0);
        const uint16_t port = thing_listen(&listener, driver);
        if (refused) {
            thing_close(&listener);
        }
        thing_init(&self, driver);
        CHECK_OK(tepal_address_parse(&address, "127.0.0.1", port));
        CHECK_OK(driver->ops->open(driver, &self.object, TPI_STREAM, AF_INET));
        self.is_busy = true;
        int code = driver->ops->connect(driver, &self.object, &address);
        self.is_busy = false;
        if (code == TPI_PENDING) {
            DRIVER_UNTIL(driver, self.log[0] != '\0');
            CHECK_STR(self.log, "c");
            code = self.code;
        }
        CHECK_EQ(code, refused ? TEPAL_SYSTEM(ECONNREFUSED) : 0);
        driver_settle(driver);
        if (!refused) {
            tepal_address peer;
            CHECK_OK(driver->ops->query(driver, &self.object, TPI_QUERY_PEER, &peer));
            CHECK_EQ(tepal_address_port(&peer), port);
            thing_close(&listener);
        }
        thing_close(&self);
        driver_close(driver);
    }
}

TEST_DRIVERS(driver_socket, closing_cancels_a_connect_and_a_late_success_is_silent) {
    thing listener, self;
    tepal_address address;
    tpi_driver *driver = driver_open(0, 0);
    const uint16_t port = thing_listen(&listener, driver);
    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", port));
    for (int round = 0; round < 10; round++) {
        thing_init(&self, driver);
        CHECK_OK(driver->ops->open(driver, &self.object, TPI_STREAM, AF_INET));
        const int code = driver->ops->connect(driver, &self.object, &address);
        CHECK(code == 0 || code == TPI_PENDING);
        thing_close(&self); /* checks that closed() alone is heard */
    }
    thing_close(&listener);
    driver_close(driver);
}

/* The last word */

static void close_other(thing *self, char what);
static thing *other;

static void close_self(thing *self, char what) {
    if (what == 'd' || what == 'e' || what == 'f') {
        self->then = NULL;
        self->driver->ops->close(self->driver, &self->object);
    }
}

TEST_DRIVERS(driver_socket, nothing_but_closed_follows_a_close_in_any_upcall) {
    for (int kind = 0; kind < 3; kind++) {
        thing self;
        tpi_driver *driver = driver_open(0, 0);
        const int peer = thing_adopt(&self, driver, true);
        self.object.direct = kind == 1;
        self.lend = 10;
        self.then = close_self;
        thing_read_start(&self);
        if (kind < 2) {
            write_numbers(peer, 0, 20000);
        }
        shutdown(peer, SHUT_WR);
        DRIVER_UNTIL(driver, driver->objects == 0);
        CHECK_STR(self.log, kind == 0 ? "dC" : kind == 1 ? "fC" : "eC");
        close(peer);
        driver_close(driver);
    }
}

static void close_other(thing *self, char what) {
    self->then = NULL;
    if (what == 'd' && other->object.kind != 0) {
        other->then = NULL;
        self->driver->ops->close(self->driver, &other->object);
    }
}

TEST_DRIVERS(driver_socket, an_event_of_a_closed_object_does_not_reach_who_has_its_number_now) {
    thing pair[2], fresh;
    int peers[2], again[2];
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < 2; i++) {
        peers[i] = thing_adopt(&pair[i], driver, true);
        thing_read_start(&pair[i]);
        pair[i].then = close_other;
    }
    driver_settle(driver);
    for (int i = 0; i < 2; i++) {
        other = &pair[1 - i];
        pair[i].then = close_other;
        pair[1 - i].then = NULL;
        if (pair[0].object.kind == 0 || pair[1].object.kind == 0) {
            break;
        }
        write_numbers(peers[0], pair[0].received, 10);
        write_numbers(peers[1], pair[1].received, 10);
        CHECK_OK(driver->ops->wait(driver, -1)); /* both events are fetched; the first upcall closes the other */
        (void)driver->ops->dispatch(driver);
    }
    DRIVER_UNTIL(driver, driver->objects == 1);
    thing *left = pair[0].object.kind == 0 ? &pair[1] : &pair[0];
    /* The number that is free now is taken by a stranger, who must hear of nothing. */
    thing_init(&fresh, driver);
    test_tcp_pair(again);
    CHECK_OK(driver->ops->adopt(driver, &fresh.object, again[0], TPI_STREAM, 0));
    thing_read_start(&fresh);
    driver_settle(driver);
    CHECK_STR(fresh.log, "");
    thing_close(&fresh);
    thing_close(left);
    close(again[1]);
    close(peers[0]);
    close(peers[1]);
    driver_close(driver);
}

static thing *both, *stranger;
static int stranger_fds[2];

/*
 * The one whose event is first closes the other while that one's is on its way, and has the number taken by a watch,
 * which would hear of the event.
 */
static void replace_other(thing *self, char what) {
    thing *later = self == &both[0] ? &both[1] : &both[0];
    const int number = later->object.fd;
    CHECK_EQ(what, 'd');
    self->then = NULL;
    later->then = NULL;
    self->driver->ops->close(self->driver, &later->object);
    test_socketpair(stranger_fds);
    if (stranger_fds[1] == number) {
        const int swap = stranger_fds[0];
        stranger_fds[0] = number;
        stranger_fds[1] = swap;
    }
    CHECK_OK(self->driver->ops->watch(self->driver, &stranger->object, stranger_fds[0], TEPAL_READABLE));
}

TEST_DRIVERS(driver_socket, an_event_on_its_way_does_not_reach_a_watch_that_takes_the_number) {
    thing pair[2], watch;
    int peers[2];
    tpi_driver *driver = driver_open(0, 0);
    both = pair;
    stranger = &watch;
    thing_init(&watch, driver);
    for (int i = 0; i < 2; i++) {
        peers[i] = thing_adopt(&pair[i], driver, true);
        thing_read_start(&pair[i]);
    }
    driver_settle(driver);
    for (int i = 0; i < 2; i++) {
        pair[i].then = replace_other;
        write_numbers(peers[i], 0, 10);
    }
    CHECK_OK(driver->ops->wait(driver, -1)); /* both events are fetched */
    (void)driver->ops->dispatch(driver);
    driver_settle(driver);
    CHECK(pair[0].received + pair[1].received == 10);
    CHECK_STR(watch.log, "");
    write_numbers(stranger_fds[1], 0, 1); /* it is heard when it is meant */
    driver_turn(driver, -1);
    CHECK_EQ(watch.log[0], 'r');
    driver->ops->unwatch(driver, &watch.object);
    for (int i = 0; i < 2; i++) {
        if (pair[i].object.kind != 0) {
            thing_close(&pair[i]);
        }
        close(peers[i]);
        close(stranger_fds[i]);
    }
    driver_close(driver);
}

TEST_DRIVERS(driver_socket, numbers_are_reused_many_times_and_no_byte_goes_astray) {
    const int rounds = (int)test_rounds(1000000, 3000);
    tpi_driver *driver = driver_open(0, 0);
    test_set_timeout(3600);
    for (int round = 0; round < rounds; round++) {
        thing self;
        const uint8_t nonce[2] = {(uint8_t)(round % 251), (uint8_t)((round + 1) % 251)};
        const int peer = thing_adopt(&self, driver, false);
        self.received = (size_t)round % 251; /* what check_numbers() expects first */
        thing_read_start(&self);
        test_write_all(peer, nonce, 2);
        if (round % 3 != 0) {
            DRIVER_UNTIL(driver, self.received == (size_t)round % 251 + 2);
        } else if (round % 2 == 0) {
            (void)driver_turn(driver, 0);                                  /* too early for what an adopted one has */
            CHECK_OK(driver->ops->wait(driver, driver->backlog ? 0 : -1)); /* closed with its event fetched */
        }
        driver->ops->close(driver, &self.object);
        close(peer);
        DRIVER_UNTIL(driver, driver->objects == 0);
        CHECK_EQ(self.log[strlen(self.log) - 1], 'C');
    }
    driver_close(driver);
}

/* Releasing */

TEST_DRIVERS(driver_socket, a_released_descriptor_comes_with_what_was_read_of_it) {
    uint8_t rest[90];
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    const int fd = self.object.fd;
    thing_read_start(&self);
    self.use = 10;
    write_numbers(peer, 0, 50);
    DRIVER_UNTIL(driver, self.received == 10);
    write_numbers(peer, 50, 50);
    self.is_busy = true;
    driver->ops->release(driver, &self.object);
    self.is_busy = false;
    DRIVER_UNTIL(driver, driver->objects == 0);
    CHECK_STR(self.log, "dR");
    CHECK_EQ(self.fd, fd);
    CHECK_EQ(self.object.fd, -1);
    memcpy(rest, self.held, self.held_length);
    test_read_exactly(fd, rest + self.held_length, sizeof rest - self.held_length);
    check_numbers(rest, 10, 90);

    /* It may be adopted again. */
    thing_init(&self, driver);
    CHECK_OK(driver->ops->adopt(driver, &self.object, fd, TPI_STREAM, 0));
    thing_read_start(&self);
    write_numbers(peer, 0, 5);
    DRIVER_UNTIL(driver, self.received == 5);
    thing_close(&self);
    close(peer);
    driver_close(driver);
}

static void release_self(thing *self, char what) {
    if (what == 'd') {
        self->then = NULL;
        self->driver->ops->release(self->driver, &self->object);
    }
}

TEST_DRIVERS(driver_socket, releasing_in_the_data_upcall_gives_back_what_it_did_not_use) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    self.use = 10;
    self.then = release_self;
    thing_read_start(&self);
    write_numbers(peer, 0, 50);
    DRIVER_UNTIL(driver, driver->objects == 0);
    CHECK_STR(self.log, "dR");
    CHECK_EQ(self.held_length, 40);
    check_numbers(self.held, 10, 40);
    close(self.fd);
    close(peer);
    driver_close(driver);
}

TEST_DRIVERS(driver_socket, a_descriptor_has_one_object) {
    thing self, second;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    thing_init(&second, driver);
    CHECK_EQ(driver->ops->adopt(driver, &second.object, self.object.fd, TPI_STREAM, 0), TEPAL_EBUSY);
    CHECK_EQ(driver->ops->watch(driver, &second.object, self.object.fd, TEPAL_READABLE), TEPAL_EBUSY);
    CHECK_EQ(second.object.kind, 0);
    CHECK_EQ(driver->ops->adopt(driver, &second.object, 1000, TPI_STREAM, 0), TEPAL_EBADF);
    CHECK_EQ(driver->objects, 1);
    thing_close(&self);
    close(peer);
    driver_close(driver);
}

/* Interrupting */

static void interrupt(thing *self, char what) {
    if (what != 'C') {
        tpi_driver_interrupt(self->driver);
    }
}

TEST_DRIVERS(driver_socket, an_interrupted_dispatch_keeps_the_rest) {
    enum { COUNT = 6 };
    thing all[COUNT];
    int peers[COUNT];
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < COUNT; i++) {
        peers[i] = thing_adopt(&all[i], driver, i % 2 == 0);
        all[i].then = interrupt;
        all[i].use = i < 2 ? 10 : 0;
        thing_read_start(&all[i]);
    }
    driver_settle(driver);
    for (int i = 0; i < COUNT; i++) {
        write_numbers(peers[i], 0, 100);
    }
    for (int upcalls = 1; upcalls <= COUNT; upcalls++) {
        CHECK(driver_turn(driver, -1)); /* interrupted, so something may be left */
        int told = 0;
        for (int i = 0; i < COUNT; i++) {
            told += (int)strlen(all[i].log);
        }
        CHECK_EQ(told, upcalls);
    }
    for (int i = 0; i < 2; i++) {
        all[i].use = 0;
        thing_read_start(&all[i]); /* what is held, each in a dispatch of its own */
    }
    CHECK(driver_turn(driver, 0));
    CHECK_EQ(strlen(all[0].log) + strlen(all[1].log), 3);
    driver_settle(driver);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(all[i].received, 100);
        thing_close(&all[i]);
        close(peers[i]);
    }
    driver_close(driver);
}
