/* Relays: a pipe each way between two transports. */
#include "conformance/plumbing.h"

#include <stdlib.h>
#include <sys/resource.h>

/*
 *   client ---- front ==two pipes== back ---- server
 *
 * The server echoes. Client and server expect the same stream.
 */
typedef struct relay {
    end client, front, back, server;
    tepal_future *there, *back_again;
} relay;

static void echo(end *self);

static void relay_open(tepal_loop *loop, relay *self, uint64_t seed, bool over_tcp) {
    self->client.seed = self->server.seed = seed;
    if (over_tcp) {
        end_tcp_pair(loop, &self->client, &self->front);
        end_tcp_pair(loop, &self->back, &self->server);
    } else {
        end_pair(loop, &self->client, &self->front);
        end_pair(loop, &self->back, &self->server);
    }
    self->server.on_data = echo;
    CHECK_OK(tepal_pipe(self->front.transport, self->back.transport, NULL, &self->there));
    CHECK_OK(tepal_pipe(self->back.transport, self->front.transport, NULL, &self->back_again));
}

/* The server writes what has come, which the stream's seed tells. */
static void echo(end *self) {
    end_write(self, self, (size_t)(self->received - self->sent));
}

static bool is_over(const relay *self) {
    return self->client.losts && self->front.losts && self->back.losts && self->server.losts;
}

static void check_clean(const relay *self) {
    CHECK_EQ(self->client.lost_code, 0);
    CHECK_EQ(self->front.lost_code, 0);
    CHECK_EQ(self->back.lost_code, 0);
    CHECK_EQ(self->server.lost_code, 0);
    CHECK_OK(tepal_future_result(self->there, NULL));
    CHECK_OK(tepal_future_result(self->back_again, NULL));
}

static void relay_free(relay *self) {
    tepal_future_unref(self->there);
    tepal_future_unref(self->back_again);
    end_free(&self->client);
    end_free(&self->front);
    end_free(&self->back);
    end_free(&self->server);
}

TEST_DRIVERS(relay, closes_by_itself_when_both_directions_have_ended_in_either_order) {
    for (int over_tcp = 0; over_tcp < 2; over_tcp++) {
        for (int server_first = 0; server_first < 2; server_first++) {
            tepal_loop *loop = plumbing_loop();
            relay all = {.there = NULL};
            relay_open(loop, &all, 1, over_tcp);
            end *first = server_first ? &all.server : &all.client;
            end *second = server_first ? &all.client : &all.server;

            end_write(&all.client, &all.server, 50000);
            RUN_UNTIL(loop, all.client.received == 50000);
            CHECK_OK(tepal_transport_write_eof(first->transport));
            RUN_UNTIL(loop, second->eofs == 1);
            settle(loop);
            CHECK_EQ(all.front.losts + all.back.losts + first->losts + second->losts, 0);

            all.server.on_data = NULL;
            end_write(second, first, 70000); /* the other direction is still whole */
            RUN_UNTIL(loop, first->received == 120000);
            CHECK_OK(tepal_transport_write_eof(second->transport));
            RUN_UNTIL(loop, is_over(&all));
            check_clean(&all);
            CHECK_EQ(tepal_pipe_bytes(all.there), server_first ? 120000 : 50000);
            CHECK_EQ(tepal_pipe_bytes(all.back_again), server_first ? 50000 : 120000);
            plumbing_close(loop);
            relay_free(&all);
        }
    }
}

TEST_DRIVERS(relay, a_reset_on_one_side_resets_the_other) {
    for (int server = 0; server < 2; server++) {
        tepal_loop *loop = plumbing_loop();
        relay all = {.there = NULL};
        relay_open(loop, &all, 1, true);
        end *lost = server ? &all.client : &all.server;

        end_write(&all.client, &all.server, 5000);
        RUN_UNTIL(loop, all.client.received == 5000);
        tepal_transport_abort(server ? all.server.transport : all.client.transport, 0);
        RUN_UNTIL(loop, is_over(&all));
        CHECK_EQ(lost->lost_code, TEPAL_SYSTEM(ECONNRESET));
        CHECK_EQ(tepal_future_result(all.there, NULL), TEPAL_SYSTEM(ECONNRESET));
        CHECK_EQ(tepal_future_result(all.back_again, NULL), TEPAL_SYSTEM(ECONNRESET));
        plumbing_close(loop);
        relay_free(&all);
    }
}

TEST_DRIVERS(relay, closing_either_transport_closes_the_other) {
    for (int back = 0; back < 2; back++) {
        tepal_loop *loop = plumbing_loop();
        relay all = {.client.close_at_eof = true, .server.close_at_eof = true};
        relay_open(loop, &all, 1, true);

        end_write(&all.client, &all.server, 5000);
        RUN_UNTIL(loop, all.client.received == 5000);
        tepal_transport_close(back ? all.back.transport : all.front.transport);
        RUN_UNTIL(loop, is_over(&all));
        check_clean(&all);
        plumbing_close(loop);
        relay_free(&all);
    }
}

TEST_DRIVERS(relay, both_directions_hold_little_when_nobody_reads) {
    tepal_loop *loop = plumbing_loop();
    relay all = {.there = NULL};
    feed there = {.keep_open = true};
    feed back_again = {.keep_open = true};
    const uint64_t total = 4 << 20;
    relay_open(loop, &all, 1, false);

    all.server.on_data = NULL;
    end_narrow(&all.front, 50000);
    end_narrow(&all.back, 50000);
    CHECK_OK(tepal_transport_pause_reading(all.client.transport));
    CHECK_OK(tepal_transport_pause_reading(all.server.transport));
    feed_start(&there, &all.client, all.server.seed, total);
    feed_start(&back_again, &all.server, all.client.seed, total);
    settle(loop);
    CHECK_LE(tepal_transport_write_buffer_size(all.front.transport), 50000 + 73728);
    CHECK_LE(tepal_transport_write_buffer_size(all.back.transport), 50000 + 73728);
    CHECK_LT(tepal_pipe_bytes(all.there), total);
    CHECK_LT(tepal_pipe_bytes(all.back_again), total);

    CHECK_OK(tepal_transport_resume_reading(all.client.transport));
    RUN_UNTIL(loop, all.client.received == total); /* one direction does not wait for the other */
    CHECK_OK(tepal_transport_resume_reading(all.server.transport));
    RUN_UNTIL(loop, all.server.received == total);
    plumbing_close(loop);
    relay_free(&all);
}

/* ---- Many ---- */

enum { MANY = 1000, MANY_BYTES = 40000 };

TEST_DRIVERS_ALONE(relay, a_thousand_connections_lose_no_byte) {
    const struct rlimit descriptors = {.rlim_cur = 5000, .rlim_max = 20000};
    struct rlimit now;
    const size_t count = test_is_slow_build() ? MANY / 10 : MANY;
    size_t over = 0;

    test_set_timeout(120);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
    if (now.rlim_cur < descriptors.rlim_cur) {
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &descriptors), 0);
    }
    tepal_loop *loop = plumbing_loop();
    relay *all = calloc(count, sizeof *all);
    feed *feeds = calloc(count, sizeof *feeds);
    for (size_t i = 0; i < count; i++) {
        relay_open(loop, &all[i], i, i % 2 == 0);
        all[i].server.close_at_eof = true;
        all[i].client.close_at_eof = true;
    }
    for (size_t i = 0; i < count; i++) {
        feeds[i].portion = 1 + i * 37 % 9000;
        feed_start(&feeds[i], &all[i].client, i, MANY_BYTES + i);
    }
    while (over < count) {
        RUN_UNTIL(loop, is_over(&all[over]));
        over++;
    }
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(all[i].client.received, MANY_BYTES + i);
        CHECK_EQ(all[i].server.received, MANY_BYTES + i);
        CHECK_EQ(tepal_pipe_bytes(all[i].there), MANY_BYTES + i);
        CHECK_EQ(tepal_pipe_bytes(all[i].back_again), MANY_BYTES + i);
        check_clean(&all[i]);
    }
    plumbing_close(loop);
    for (size_t i = 0; i < count; i++) {
        relay_free(&all[i]);
    }
    free(feeds);
    free(all);
}
