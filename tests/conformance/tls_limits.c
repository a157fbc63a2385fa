/*
 * Limits of time, and connections that are still in their handshake when something ends: the server, the loop, the wish for
 * it, the process. FIELD rows 19 and 26.
 */
#include "conformance/peers.h"
#include "conformance/tls_pair.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHORT_NS TEPAL_MS(30)

/* ---- Silent peers ---- */

SCRIPT_TEST(tls_limits, a_handshake_with_a_silent_peer_ends_at_its_limit) {
    for (int server = 0; server < 2; server++) {
        for (int is_late = 0; is_late < 2; is_late++) {
            tls_pair self = {.way = TLS_OVER_WIRE, .is_plain = is_late};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            self.client_options.handshake_limit_ns = server ? -1 : SHORT_NS;
            self.server_options.handshake_limit_ns = server ? SHORT_NS : -1;
            if (is_late) {
                tls_open(&self);
                CHECK_OK(tls_upgrade(own, NULL, 0));
            } else {
                tls_start(&self);
            }
            const int64_t began_ns = tepal_loop_time(self.loop);
            self.wire.up.limit = self.wire.down.limit = 0;
            if (is_late) {
                TLS_UNTIL(&self, own->losts == 1);
                CHECK_EQ(own->lost_code, TEPAL_ETIMEDOUT);
                CHECK_EQ(tepal_future_result(own->upgraded, NULL), TEPAL_ETIMEDOUT);
            } else {
                TLS_UNTIL(&self, tepal_future_is_done(own->future));
                CHECK_EQ(tepal_future_result(own->future, NULL), TEPAL_ETIMEDOUT);
                CHECK_EQ(own->built, 0);
                CHECK(!tepal_future_is_done(other->future)); /* it has no limit, and has heard nothing */
            }
            CHECK_GE(tepal_loop_time(self.loop) - began_ns, SHORT_NS);
            tls_close(&self);
        }
    }
}

/* The limit is for the whole of it, not for silence. */
SCRIPT_TEST(tls_limits, a_handshake_with_a_slow_peer_ends_at_its_limit_too) {
    tls_pair self = {.way = TLS_OVER_WIRE, .server_options.handshake_limit_ns = SHORT_NS};

    tls_start(&self);
    self.wire.up.limit = 1;
    const int64_t began_ns = tepal_loop_time(self.loop);
    while (!tepal_future_is_done(self.server.future)) {
        self.wire.up.limit += self.wire.up.limit < 100; /* a byte a turn, and never all */
        tls_turn(&self);
        CHECK_LT(tepal_loop_time(self.loop) - began_ns, TEPAL_SEC(5));
    }
    CHECK_EQ(tepal_future_result(self.server.future, NULL), TEPAL_ETIMEDOUT);
    tls_close(&self);
}

SCRIPT_TEST(tls_limits, the_limits_are_ten_seconds_and_none_if_none_is_wanted) {
    for (int is_endless = 0; is_endless < 2; is_endless++) {
        tls_pair self = {.way = TLS_OVER_WIRE};
        int64_t timeout_ns;

        self.client_options.handshake_limit_ns = self.server_options.handshake_limit_ns = is_endless ? -1 : 0;
        tls_start(&self);
        self.wire.up.limit = self.wire.down.limit = 0;
        tls_settle(&self);
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        if (is_endless) {
            CHECK_LT(timeout_ns, 0);
        } else {
            CHECK_GT(timeout_ns, TEPAL_SEC(5));
            CHECK_LE(timeout_ns, TEPAL_SEC(10));
        }
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_limits, the_timer_goes_with_the_handshake) {
    tls_pair self = {.client_options.handshake_limit_ns = SHORT_NS, .server_options.handshake_limit_ns = SHORT_NS};
    int64_t timeout_ns;

    self.client_options.handshake_limit_ns = self.server_options.handshake_limit_ns = TEPAL_SEC(5);
    tls_open(&self);
    CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
    CHECK_LT(timeout_ns, 0);
    tls_close(&self);
}

SCRIPT_TEST(tls_limits, the_limit_of_connecting_covers_the_handshake) {
    tls_pair self = {.client.pair = &self, .loop = script_loop()};
    tepal_tls_context *context = tls_usual_context(false, 0);
    int fds[2];

    test_tcp_pair(fds);
    CHECK_OK(tepal_loop_create_connection(
        self.loop, tls_factory, &self.client,
        TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .limit_ns = SHORT_NS,
                      .tls = TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost")),
        &self.client.future));
    TLS_UNTIL(&self, tepal_future_is_done(self.client.future));
    CHECK_EQ(tepal_future_result(self.client.future, NULL), TEPAL_ETIMEDOUT);
    tls_settle(&self);
    tls_close(&self);
    close(fds[1]);
    tepal_tls_context_unref(context);
}

/* ---- Servers ---- */

typedef struct crowd {
    peers all;
    tepal_server *server;
    tepal_tls_context *context;
    int *fds, count;
} crowd;

static void crowd_open(crowd *self, int count, int64_t limit_ns) {
    const char *const hosts[] = {"127.0.0.1"};

    self->context = tls_usual_context(true, 0);
    peers_open(&self->all);
    CHECK_OK(tepal_loop_listen(
        self->all.loop, peers_factory, &self->all,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .accept_failed = peers_accept_failed,
                      .tls =
                          TEPAL_OPTIONS(tepal_tls_options, .context = self->context, .handshake_limit_ns = limit_ns)),
        &self->server));
    self->fds = calloc((size_t)count, sizeof *self->fds);
    CHECK(self->fds != NULL);
    for (self->count = 0; self->count < count; self->count++) {
        self->fds[self->count] = plain_dial("127.0.0.1", server_port(self->server, 0));
        CHECK_GE(self->fds[self->count], 0);
    }
}

static void crowd_close(crowd *self) {
    CHECK_STR(self->all.log, "");
    for (int i = 0; i < self->count; i++) {
        close(self->fds[i]);
    }
    free(self->fds);
    tepal_server_close(self->server);
    tepal_server_unref(self->server);
    peers_close(&self->all);
    tepal_tls_context_unref(self->context);
}

/* FIELD row 19, as many as a test may have descriptors for. */
TEST_DRIVERS(tls_limits, of_many_silent_dials_none_is_left_after_the_limit) {
    const int count = (int)test_rounds(400, 200);
    crowd self = {.all = {0}};

    crowd_open(&self, count, TEPAL_MS(400));
    PEERS_UNTIL(&self.all, self.all.failures == count);
    CHECK_EQ(self.all.failure.code, TEPAL_ETIMEDOUT);
    PEERS_UNTIL(&self.all, tepal_server_connection_count(self.server) == 0);
    crowd_close(&self);
}

TEST_DRIVERS(tls_limits, a_server_that_ends_its_clients_ends_those_in_their_handshake_too) {
    for (int aborts = 0; aborts < 2; aborts++) {
        crowd self = {.all = {0}};
        tepal_future *closed;

        crowd_open(&self, 5, -1);
        PEERS_UNTIL(&self.all, tepal_server_connection_count(self.server) == 5);
        tepal_server_close(self.server);
        CHECK_EQ(tepal_server_connection_count(self.server), 5);
        CHECK_OK(tepal_server_wait_closed(self.server, &closed));
        peers_settle(&self.all);
        CHECK(!tepal_future_is_done(closed));
        if (aborts) {
            tepal_server_abort_clients(self.server);
        } else {
            tepal_server_close_clients(self.server);
        }
        PEERS_UNTIL(&self.all, tepal_future_is_done(closed));
        CHECK_EQ(tepal_server_connection_count(self.server), 0);
        CHECK_EQ(self.all.failures, 5);
        CHECK_EQ(self.all.failure.code, TEPAL_ECLOSED);
        tepal_future_unref(closed);
        crowd_close(&self);
    }
}

TEST_DRIVERS(tls_limits, a_server_that_is_closed_serves_who_had_come_before) {
    crowd all = {.all = {0}};
    tepal_tls_context *client = tls_usual_context(false, 0);
    tepal_future *future;
    crowd_open(&all, 0, 0);
    CHECK_OK(tepal_loop_create_connection(all.all.loop, peers_factory, &all.all,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1",
                                                        .port = server_port(all.server, 0),
                                                        .tls = TEPAL_OPTIONS(tepal_tls_options, .context = client)),
                                          &future));
    PEERS_UNTIL(&all.all, tepal_server_connection_count(all.server) == 1);
    tepal_server_close(all.server);
    CHECK_OK(peers_wait(&all.all, future));
    PEERS_UNTIL(&all.all, all.all.made == 2);
    tepal_future_unref(future);
    memset(all.all.log, 0, sizeof all.all.log);
    tepal_server_abort_clients(all.server);
    peers_settle(&all.all);
    memset(all.all.log, 0, sizeof all.all.log);
    crowd_close(&all);
    tepal_tls_context_unref(client);
}

TEST_DRIVERS(tls_limits, a_loop_that_closes_ends_those_in_their_handshake) {
    crowd self = {.all = {0}};

    crowd_open(&self, 5, 0);
    PEERS_UNTIL(&self.all, tepal_server_connection_count(self.server) == 5);
    CHECK_OK(tepal_loop_close(self.all.loop));
    CHECK_EQ(self.all.made, 0);
    crowd_close(&self);
}

/* ---- Moments of a handshake ---- */

/*
 * Stop a handshake at each number of bytes that have gone through, in steps, and do something. The connection may stand by
 * then, which the answer tells.
 */
typedef void (*interruption)(tls_pair *self);

static void at_each_moment(interruption interrupt) {
    test_set_timeout(60);
    EACH_VERSION(version) {
        for (int direction = 0; direction < 2; direction++) {
            for (size_t after = 0; after < 1500; after += test_is_slow_build() ? 331 : 97) {
                tls_pair self = {.way = TLS_OVER_WIRE, .version = version};

                tls_start(&self);
                (direction ? &self.wire.up : &self.wire.down)->limit = after;
                tls_settle(&self);
                interrupt(&self);
                CHECK_EQ(self.client.made, self.client.losts);
                CHECK_EQ(self.server.made, self.server.losts);
                tls_close(&self);
            }
        }
    }
}

static void close_loop(tls_pair *self) {
    CHECK_OK(tepal_loop_close(self->loop));
    for (int server = 0; server < 2; server++) {
        tls_end *const each = tls_side(self, server);
        CHECK(tepal_future_is_done(each->future));
        CHECK(each->made == 1 || tepal_future_result(each->future, NULL) == TEPAL_ECLOSED);
    }
}

SCRIPT_TEST(tls_limits, a_loop_may_close_at_every_moment_of_a_handshake) {
    at_each_moment(close_loop);
}

static void cancel_both(tls_pair *self) {
    for (int server = 0; server < 2; server++) {
        tls_end *const each = tls_side(self, server);
        const bool was_done = tepal_future_is_done(each->future);
        CHECK_EQ(tepal_future_cancel(each->future), !was_done);
        if (was_done && each->made == 1) {
            tepal_transport_abort(each->transport, TEPAL_ECANCELED);
        }
    }
    TLS_UNTIL(self, self->client.made == self->client.losts && self->server.made == self->server.losts);
    tls_settle(self);
    tepal_loop_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_loop_get_stats(self->loop, &stats));
    CHECK_EQ(stats.transports, 0);
}

SCRIPT_TEST(tls_limits, connecting_may_be_cancelled_at_every_moment_of_a_handshake) {
    at_each_moment(cancel_both);
}

/* The other end hears of it. */
static void cancel_one(tls_pair *self) {
    if (!tepal_future_is_done(self->client.future)) {
        CHECK(tepal_future_cancel(self->client.future));
        self->wire.up.limit = self->wire.down.limit = SIZE_MAX;
        TLS_UNTIL(self, tepal_future_is_done(self->server.future));
        if (tepal_future_result(self->server.future, NULL) == 0) { /* it may have thought that all was well */
            TLS_UNTIL(self, self->server.losts == 1);
            CHECK_NE(self->server.lost_code, 0);
        }
        CHECK_EQ(self->client.built, 0);
    } else {
        close_loop(self);
    }
}

SCRIPT_TEST(tls_limits, a_client_that_gives_up_is_noticed_by_the_server) {
    at_each_moment(cancel_one);
}

static void fork_now(tls_pair *self) {
    const int made = self->client.made + self->server.made;
    const pid_t child = fork();
    int status;

    if (child == 0) {
        CHECK_OK(tepal_loop_close(self->loop));
        CHECK_EQ(self->client.made + self->server.made, made);
        CHECK_EQ(self->client.losts + self->server.losts, 0);
        for (int server = 0; server < 2; server++) {
            tls_end *const each = tls_side(self, server);
            (void)tepal_future_error(each->future);
            tepal_future_unref(each->future);
            tepal_transport_unref(each->transport);
        }
        tepal_loop_unref(self->loop);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    CHECK_GT(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    self->wire.up.limit = self->wire.down.limit = SIZE_MAX;
    tls_shake(self);
    tls_exchange(self, 10000); /* the parent goes on */
    close_loop(self);
}

SCRIPT_TEST(tls_limits, a_child_may_close_the_loop_at_every_moment_of_a_handshake) {
    at_each_moment(fork_now);
}

/* ---- The end ---- */

SCRIPT_TEST(tls_limits, closing_waits_for_a_peer_that_takes_nothing_no_longer_than_its_limit) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.version = version, .way = TLS_OVER_UNIX};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            self.client_options.shutdown_limit_ns = self.server_options.shutdown_limit_ns = SHORT_NS;
            tls_open(&self);
            tls_end_pause(other);
            tls_end_write(own, 10 << 20);
            tls_settle(&self);
            const int64_t began_ns = tepal_loop_time(self.loop);
            tepal_transport_close(own->transport);
            TLS_UNTIL(&self, own->losts == 1);
            CHECK_EQ(own->lost_code, TEPAL_ETIMEDOUT);
            CHECK_GE(tepal_loop_time(self.loop) - began_ns, SHORT_NS);
            tls_end_resume(other);
            TLS_UNTIL(&self, other->losts == 1);
            CHECK_NE(other->lost_code, 0); /* it has not got all, and must know */
            CHECK_EQ(other->eofs, 0);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_limits, closing_waits_for_a_peer_as_long_as_it_takes_some) {
    tls_pair self = {.way = TLS_OVER_WIRE, .client_options.shutdown_limit_ns = TEPAL_MS(200)};

    self.server.closes_at_eof = true;
    tls_open(&self);
    self.wire.up.portion = 400000;
    tls_end_write(&self.client, 15 << 20);
    const int64_t began_ns = tepal_loop_time(self.loop);
    int64_t next_ns = began_ns;
    tepal_transport_close(self.client.transport);
    while (self.client.losts == 0) { /* a portion each 20 ms: about 40 of them */
        if (tepal_loop_time(self.loop) >= next_ns) {
            (void)wire_move(&self.wire);
            next_ns += TEPAL_MS(20);
        }
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        CHECK_LT(tepal_loop_time(self.loop) - began_ns, TEPAL_SEC(30));
    }
    CHECK_EQ(self.client.lost_code, 0);
    TLS_UNTIL(&self, self.server.losts == 1);
    CHECK(tls_end_has_all(&self.server));
    CHECK_EQ(self.server.lost_code, 0);
    tls_close(&self);
}

SCRIPT_TEST(tls_limits, a_peer_that_says_nothing_back_keeps_no_closing_end_waiting) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .way = TLS_OVER_WIRE};

        tls_open(&self);
        self.wire.up.limit = self.wire.up.length; /* its close_notify never gets there, nor does an answer come */
        tls_end_write(&self.client, 1000);
        tepal_transport_close(self.client.transport);
        const int64_t began_ns = tepal_loop_time(self.loop);
        TLS_UNTIL(&self, self.client.losts == 1);
        CHECK_LT(tepal_loop_time(self.loop) - began_ns, TEPAL_SEC(4));
        CHECK_EQ(self.client.lost_code, 0);
        tls_close(&self);
    }
}
