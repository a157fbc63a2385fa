/* The driver contract, sentence by sentence: streams. */
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

/* Reading */

TEST_DRIVERS(driver_stream, nothing_is_read_before_read_start) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    write_numbers(peer, 0, 100);
    driver_settle(driver);
    CHECK_STR(self.log, "");
    thing_read_start(&self);
    thing_read_start(&self);
    DRIVER_UNTIL(driver, self.received == 100);
    CHECK_STR(self.log, "d");
    close_both(&self, peer);
}

TEST_DRIVERS(driver_stream, after_read_stop_no_data_comes_whatever_the_driver_holds) {
    for (int tcp = 0; tcp < 2; tcp++) {
        thing self;
        tpi_driver *driver = driver_open(0, 0);
        const int peer = thing_adopt(&self, driver, tcp == 1);
        thing_read_start(&self);
        self.use = 10;
        write_numbers(peer, 0, 100);
        DRIVER_UNTIL(driver, self.received == 10);
        write_numbers(peer, 100, 100);
        shutdown(peer, SHUT_WR);
        driver_settle(driver);
        CHECK_STR(self.log, "d");
        size_t unread = 0;
        CHECK_OK(driver->ops->query(driver, &self.object, TPI_QUERY_UNREAD, &unread));
        CHECK_EQ(unread, 190);

        /* What is held comes first; part of that may be kept again. */
        self.use = 60;
        thing_read_start(&self);
        DRIVER_UNTIL(driver, self.received == 60);
        driver_settle(driver);
        CHECK_EQ(self.received, 60);
        self.use = 0;
        thing_read_start(&self);
        DRIVER_UNTIL(driver, strchr(self.log, 'e') != NULL);
        CHECK_EQ(self.received, 200);
        thing_read_start(&self); /* at the end there is nothing more to start */
        driver_settle(driver);
        CHECK(strchr(self.log, 'e') == strrchr(self.log, 'e'));
        close_both(&self, peer);
    }
}

TEST_DRIVERS(driver_stream, a_busy_peer_leaves_others_their_turn) {
    enum { BUDGET = 3, BYTES = 4096 };
    thing busy, modest;
    tpi_driver *driver = driver_open(BUDGET, BYTES);
    const int busy_peer = thing_adopt(&busy, driver, false);
    const int modest_peer = thing_adopt(&modest, driver, false);
    write_numbers(busy_peer, 0, 20 * BYTES);
    write_numbers(modest_peer, 0, 100);
    thing_read_start(&busy);
    thing_read_start(&modest);
    DRIVER_UNTIL(driver, busy.received == 20 * BYTES && modest.received == 100);
    CHECK_LE(busy.longest, BYTES);

    /* Its rest waits for the next turn. */
    memset(busy.log, 0, sizeof busy.log);
    write_numbers(busy_peer, busy.received, 20 * BYTES);
    const bool more = driver_turn(driver, -1);
    if (strcmp(test_driver(), "uring") != 0) { /* the kernel has received already, and nobody waits for what it gives */
        CHECK(more);
        CHECK_LE(strlen(busy.log), BUDGET);
    }
    DRIVER_UNTIL(driver, busy.received == 40 * BYTES);
    thing_close(&modest);
    close(modest_peer);
    close_both(&busy, busy_peer);
}

TEST_DRIVERS(driver_stream, data_and_eof_in_one_edge_are_both_delivered) {
    for (int tcp = 0; tcp < 2; tcp++) {
        for (size_t size = 1; size <= 20000; size *= 7) {
            thing self;
            tpi_driver *driver = driver_open(0, 0);
            const int peer = thing_adopt(&self, driver, tcp == 1);
            thing_read_start(&self);
            driver_settle(driver);
            write_numbers(peer, 0, size);
            shutdown(peer, SHUT_WR);
            DRIVER_UNTIL(driver, strchr(self.log, 'e') != NULL);
            CHECK_EQ(self.received, size);
            CHECK_EQ(self.log[strlen(self.log) - 1], 'e');
            close_both(&self, peer);
        }
    }
}

TEST_DRIVERS(driver_stream, data_that_is_there_when_it_is_adopted_is_delivered) {
    thing self;
    int fds[2];
    tpi_driver *driver = driver_open(0, 0);
    thing_init(&self, driver);
    test_tcp_pair(fds);
    write_numbers(fds[1], 0, 50);
    shutdown(fds[1], SHUT_WR);
    CHECK_OK(driver->ops->adopt(driver, &self.object, fds[0], TPI_STREAM, 0));
    thing_read_start(&self);
    DRIVER_UNTIL(driver, strchr(self.log, 'e') != NULL);
    CHECK_EQ(self.received, 50);
    close_both(&self, fds[1]);
}

TEST_DRIVERS(driver_stream, what_came_before_a_reset_is_delivered_before_the_error) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    const struct linger linger = {.l_onoff = 1};
    thing_read_start(&self);
    write_numbers(peer, 0, 50);
    DRIVER_UNTIL(driver, self.received == 50);
    CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    close(peer);
    DRIVER_UNTIL(driver, strchr(self.log, 'x') != NULL);
    CHECK_EQ(self.code, TEPAL_SYSTEM(ECONNRESET));
    thing_read_start(&self);
    driver_settle(driver);
    CHECK_STR(self.log, "dx");
    thing_close(&self);
    driver_close(driver);
}

/* Bytes that a short read leaves behind */

TEST_DRIVERS(driver_stream, bytes_behind_urgent_data_do_not_get_stuck) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    size_t written = 0;
    thing_read_start(&self);
    driver_settle(driver);
    for (int round = 0; round < 50; round++) {
        write_numbers(peer, written, 7);
        written += 7;
        CHECK_EQ(send(peer, "!", 1, MSG_OOB), 1);
        write_numbers(peer, written, 5);
        written += 5;
        DRIVER_UNTIL(driver, self.received == written);
    }
    write_numbers(peer, written, 3); /* and later ones neither */
    DRIVER_UNTIL(driver, self.received == written + 3);
    close_both(&self, peer);
}

static void pass_descriptor(int socket, size_t number) {
    uint8_t byte = (uint8_t)(number % 251);
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.header), &socket, sizeof socket);
    CHECK_EQ(sendmsg(socket, &message, 0), 1);
}

TEST_DRIVERS(driver_stream, bytes_behind_a_passed_descriptor_do_not_get_stuck) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, false);
    size_t written = 0;
    thing_read_start(&self);
    driver_settle(driver);
    for (int round = 0; round < 50; round++) {
        write_numbers(peer, written, 7);
        pass_descriptor(peer, written + 7);
        write_numbers(peer, written + 8, 5);
        written += 13;
        DRIVER_UNTIL(driver, self.received == written);
    }
    close_both(&self, peer);
}

/* Reading into the owner's buffers */

TEST_DRIVERS(driver_stream, get_buffer_is_asked_only_when_bytes_wait_and_may_decline) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    self.object.direct = true;
    thing_read_start(&self);
    driver_settle(driver);
    const int asked_idle = self.asked; /* the first edge says writable alone, or nothing */
    CHECK_EQ(asked_idle, 0);
    self.lend = sizeof self.lent;
    write_numbers(peer, 0, 100);
    DRIVER_UNTIL(driver, self.received == 100);
    CHECK_STR(self.log, "f");

    self.lend = 0; /* declined: it comes as data */
    write_numbers(peer, 100, 100);
    DRIVER_UNTIL(driver, self.received == 200);
    CHECK_EQ(self.log[1], 'd');

    self.lend = 10; /* smaller than what waits: asked again and again */
    write_numbers(peer, 200, 1000);
    DRIVER_UNTIL(driver, self.received == 1200);
    memset(self.log, 0, sizeof self.log);
    shutdown(peer, SHUT_WR);
    DRIVER_UNTIL(driver, strchr(self.log, 'e') != NULL);
    close_both(&self, peer);
}

static void close_it(thing *self, char what) {
    self->then = NULL;
    CHECK_EQ(what, 'd');
    self->driver->ops->close(self->driver, &self->object);
}

/* A ring holds bytes in a part of its buffers, and in memory if those are taken: neither must be lost. */
TEST_DRIVERS(driver_stream, who_closes_while_it_gets_what_was_held_gives_its_place_back) {
    enum { ROUNDS = 100 };
    tpi_driver *driver = driver_open(0, 0);
    for (int round = 0; round < ROUNDS; round++) {
        thing self;
        const int peer = thing_adopt(&self, driver, false);
        thing_read_start(&self);
        driver_settle(driver);
        driver->ops->read_stop(driver, &self.object);
        write_numbers(peer, 0, 10);
        driver_settle(driver);
        self.then = close_it;
        thing_read_start(&self);
        DRIVER_UNTIL(driver, strchr(self.log, 'C') != NULL);
        CHECK_EQ(self.received, 10);
        close(peer);
    }
    driver_close(driver);
}

/* Sending */

static void fill(thing *self, tpi_message *message) {
    /* Until a send is pending. */
    for (;;) {
        const int64_t sent = self->driver->ops->send(self->driver, &self->object, message);
        if (sent == TPI_PENDING) {
            return;
        }
        CHECK_GT(sent, 0);
    }
}

static void drain_peer(int peer, int64_t bytes) {
    static uint8_t block[65536];
    while (bytes > 0) {
        const ssize_t count = recv(peer, block, sizeof block, 0);
        if (count < 0) {
            CHECK_EQ(errno, EAGAIN);
            return;
        }
        bytes -= count;
    }
}

TEST_DRIVERS(driver_stream, a_pending_send_is_reported_once_and_another_may_follow) {
    static uint8_t block[100000];
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    tpi_message message = {.pieces = &piece, .count = 1};
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    thing_read_start(&self);
    for (int round = 0; round < 5; round++) {
        memset(self.log, 0, sizeof self.log);
        fill(&self, &message);
        CHECK(self.object.sending == &message);
        while (self.log[0] == '\0') {
            drain_peer(peer, INT64_MAX);
            driver_turn(driver, TEPAL_MS(1));
        }
        CHECK_STR(self.log, "s");
        CHECK_GE(self.sent, 1);
        CHECK_LE(self.sent, sizeof block);
        CHECK(self.object.sending == NULL);
        drain_peer(peer, INT64_MAX);
        driver_settle(driver);
        CHECK_STR(self.log, "s");
    }
    close_both(&self, peer);
}

static void fill_up(thing *self, tpi_message *message) {
    const bool is_late = strcmp(test_driver(), "late") == 0; /* it takes turns to say anything */
    do {                                                     /* until nothing is sent any more */
        memset(self->log, 0, sizeof self->log);
        fill(self, message);
        for (int turn = 0; turn < 5 && self->log[0] == '\0'; turn++) {
            CHECK(!driver_turn(self->driver, 0) || is_late);
        }
    } while (self->log[0] != '\0');
}

TEST_DRIVERS(driver_stream, a_pending_send_costs_no_turn) {
    static uint8_t block[100000];
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    tpi_message message = {.pieces = &piece, .count = 1};
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    driver_settle(driver);
    fill_up(&self, &message);
    close_both(&self, peer);
}

/* A program may have closed its standard input, and then anything that is opened may be number 0. */
TEST_DRIVERS(driver_stream, number_zero_is_as_good_as_any) {
    static uint8_t block[100000];
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    tpi_message message = {.pieces = &piece, .count = 1};
    thing listener, self;
    const int saved = fcntl(0, F_DUPFD_CLOEXEC, 100);
    CHECK_GE(saved, 0);
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    driver_settle(driver);
    close(0);
    thing_listen(&listener, driver);
    CHECK_EQ(listener.object.fd, 0);
    thing_close(&listener);
    CHECK_EQ(fcntl(0, F_GETFD), -1);
    fill_up(&self, &message); /* for which a ring may open something */
    close_both(&self, peer);
    CHECK_EQ(fcntl(0, F_GETFD), -1);
    CHECK_EQ(dup2(saved, 0), 0);
    close(saved);
}

TEST_DRIVERS(driver_stream, an_offer_that_is_not_taken_keeps_nothing_and_tells_nothing) {
    static uint8_t block[100000];
    const struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    int64_t sent, taken = 0;
    while ((sent = driver->ops->offer_pieces(driver, &self.object, &piece, 1)) != TPI_PENDING) {
        CHECK_GT(sent, 0);
        taken += sent;
    }
    CHECK_EQ(driver->ops->offer(driver, &self.object, block, 1), TPI_PENDING);
    CHECK(self.object.sending == NULL);
    drain_peer(peer, taken);
    driver_settle(driver);
    drain_peer(peer, taken);
    driver_settle(driver);
    CHECK_STR(self.log, "");
    close_both(&self, peer);
}

TEST_DRIVERS(driver_stream, a_send_to_a_peer_that_has_gone_fails_without_a_signal) {
    static uint8_t block[1000];
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    tpi_message message = {.pieces = &piece, .count = 1};
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, false);
    close(peer);
    int64_t sent = driver->ops->send(driver, &self.object, &message);
    if (sent == TPI_PENDING) {
        DRIVER_UNTIL(driver, self.log[0] == 's');
        sent = self.sent;
    }
    CHECK_EQ(sent, TEPAL_SYSTEM(EPIPE));
    thing_close(&self);
    driver_close(driver);
}

TEST_DRIVERS(driver_stream, a_pending_send_fails_when_the_peer_resets) {
    static uint8_t block[1000000];
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    tpi_message message = {.pieces = &piece, .count = 1};
    const struct linger linger = {.l_onoff = 1};
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    CHECK_EQ(setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    while (self.object.sending == NULL || driver->backlog) { /* until the kernel really takes no more */
        if (self.object.sending == NULL) {
            fill(&self, &message);
        }
        driver_turn(driver, 0);
    }
    close(peer);
    do {
        memset(self.log, 0, sizeof self.log);
        DRIVER_UNTIL(driver, self.log[0] == 's');
        if (self.sent > 0) {
            fill(&self, &message);
        }
    } while (self.sent > 0);
    CHECK(self.sent == TEPAL_SYSTEM(ECONNRESET) || self.sent == TEPAL_SYSTEM(EPIPE));
    thing_close(&self);
    driver_close(driver);
}

TEST_DRIVERS(driver_stream, thousands_of_pieces_arrive_in_order) {
    enum { PIECES = 5000 }; /* FIELD 34: more than IOV_MAX */
    static uint8_t bytes[PIECES];
    static struct iovec pieces[PIECES];
    thing self, other;
    int fds[2];
    tpi_driver *driver = driver_open(0, 0);
    thing_init(&self, driver);
    thing_init(&other, driver);
    test_tcp_pair(fds);
    CHECK_OK(driver->ops->adopt(driver, &self.object, fds[0], TPI_STREAM, 0));
    CHECK_OK(driver->ops->adopt(driver, &other.object, fds[1], TPI_STREAM, 0));
    thing_read_start(&other);
    for (size_t i = 0; i < PIECES; i++) {
        bytes[i] = (uint8_t)(i % 251);
        pieces[i] = (struct iovec){.iov_base = &bytes[i], .iov_len = 1};
    }
    for (size_t from = 0; from < PIECES;) {
        tpi_message message = {.pieces = pieces + from, .count = PIECES - from};
        int64_t sent = driver->ops->send(driver, &self.object, &message);
        if (sent == TPI_PENDING) {
            memset(self.log, 0, sizeof self.log);
            DRIVER_UNTIL(driver, self.log[0] == 's');
            sent = self.sent;
        }
        CHECK_GT(sent, 0);
        from += (size_t)sent;
    }
    CHECK_OK(driver->ops->shutdown(driver, &self.object));
    DRIVER_UNTIL(driver, strchr(other.log, 'e') != NULL);
    CHECK_EQ(other.received, PIECES);
    thing_close(&other);
    thing_close(&self);
    driver_close(driver);
}

/* What a message may carry beside its pieces */

static int receive_descriptor(int peer) {
    uint8_t byte;
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int fd;
    CHECK_EQ(recvmsg(peer, &message, MSG_CMSG_CLOEXEC), 1);
    CHECK_EQ(byte, 'd');
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header != NULL);
    CHECK_EQ(header->cmsg_type, SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

TEST_DRIVERS(driver_stream, a_message_may_pass_a_descriptor) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, false);
    int ends[2];
    const struct iovec piece = {.iov_base = "d", .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    const tpi_message message = {.pieces = &piece, .count = 1, .control = &control, .control_length = sizeof control};
    test_socketpair(ends);
    memcpy(CMSG_DATA(&control.header), &ends[0], sizeof ends[0]);
    driver_settle(driver);
    const int64_t sent = driver->ops->send(driver, &self.object, &message);
    DRIVER_UNTIL(driver, sent == 1 || self.sent == 1);
    const int passed = receive_descriptor(peer);
    test_write_all(passed, "x", 1);
    char byte;
    test_read_exactly(ends[1], &byte, 1);
    CHECK_EQ(byte, 'x');
    close(passed);
    close(ends[0]);
    close(ends[1]);
    close_both(&self, peer);
}
