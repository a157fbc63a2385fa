/* Flow control through TLS: pauses, marks, caps, records, and how much a connection does that has nothing to do. */
#include "conformance/tls_pair.h"

#include <stdlib.h>

static const size_t record_sizes[] = {1, 2, 100, 1329, 1330, 1331, 5000, 16383, 16384, 16385, 40000};
enum { RECORD_SIZES = sizeof record_sizes / sizeof record_sizes[0] };

/* ---- Reading ---- */

static void pause_now(tls_end *self) {
    tls_end_pause(self);
}

static void write_portions(tls_end *self, size_t size, int count) {
    for (int i = 0; i < count; i++) {
        tls_end_write(self, size);
        CHECK_OK(tepal_transport_flush(self->transport)); /* so that each is a record, or several, of its own */
    }
}

/* FIELD row 23. */
SCRIPT_TEST(tls_flow, a_protocol_that_pauses_in_every_upcall_gets_nothing_more_and_then_everything) {
    for (int at = 0; at < RECORD_SIZES; at++) {
        EACH_VERSION(version) {
            for (int server = 0; server < 2; server++) {
                tls_pair self = {.version = version};
                tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

                own->on_data = pause_now; /* came() checks that nothing comes before tls_end_resume() */
                tls_open(&self);
                write_portions(other, record_sizes[at],
                               record_sizes[at] <= 5000 ? 40 : 10); /* more than is read at once */
                while (!tls_end_has_all(own)) {
                    const uint64_t portions = own->portions;
                    TLS_UNTIL(&self, own->wants_no_data);
                    CHECK_EQ(own->portions, portions + 1);
                    tls_settle(&self);
                    CHECK_EQ(own->portions, portions + 1);
                    tls_end_resume(own);
                    CHECK_EQ(own->portions, portions + 1); /* not inside the call */
                }
                tls_close(&self);
            }
        }
    }
}

SCRIPT_TEST(tls_flow, a_lender_that_pauses_in_every_upcall_gets_nothing_more_and_then_everything) {
    for (int at = 0; at < RECORD_SIZES; at++) {
        tls_pair self = {.client.protocol.type = &tls_lending_type, .client.on_data = pause_now};

        tls_open(&self);
        write_portions(&self.server, record_sizes[at], 4);
        while (!tls_end_has_all(&self.client)) {
            TLS_UNTIL(&self, self.client.wants_no_data);
            tls_settle(&self);
            tls_end_resume(&self.client);
        }
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_flow, the_end_waits_behind_what_a_paused_protocol_has_not_taken) {
    for (int at = 0; at < RECORD_SIZES; at += 2) {
        EACH_VERSION(version) {
            tls_pair self = {.version = version, .client.closes_at_eof = true};

            tls_open(&self);
            tls_end_pause(&self.client);
            write_portions(&self.server, record_sizes[at], 5);
            tepal_transport_close(self.server.transport);
            tls_settle(&self);
            CHECK_EQ(self.client.received, 0);
            CHECK_EQ(self.client.eofs, 0);
            self.client.on_data = pause_now;
            while (self.client.eofs == 0) {
                tls_end_resume(&self.client);
                TLS_UNTIL(&self, self.client.wants_no_data || self.client.eofs == 1);
            }
            TLS_UNTIL(&self, self.client.losts == 1 && self.server.losts == 1);
            CHECK_EQ(self.client.lost_code | self.server.lost_code, 0);
            CHECK(tls_end_has_all(&self.client));
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_flow, pausing_and_resuming_at_random_moments_loses_and_repeats_nothing) {
    test_prng prng = test_prng_start(1);

    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE, .version = version};

        tls_open(&self);
        for (int round = 0; round < 300; round++) {
            for (int server = 0; server < 2; server++) {
                tls_end *const each = tls_side(&self, server);
                if (test_prng_below(&prng, 3) == 0 && !each->is_paused) {
                    tls_end_write(each, test_prng_below(&prng, 20000));
                }
                if (test_prng_below(&prng, 2) == 0) {
                    each->wants_no_data ? tls_end_resume(each) : tls_end_pause(each);
                }
                self.wire.up.portion = self.wire.down.portion = 1 + test_prng_below(&prng, 9000);
            }
            tls_turn(&self);
        }
        self.wire.up.portion = self.wire.down.portion = SIZE_MAX;
        for (int server = 0; server < 2; server++) {
            if (tls_side(&self, server)->wants_no_data) {
                tls_end_resume(tls_side(&self, server));
            }
        }
        TLS_UNTIL(&self, tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
        tls_close(&self);
    }
}

/* ---- Writing ---- */

SCRIPT_TEST(tls_flow, a_peer_that_never_reads_is_owed_no_more_than_the_cap) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            static uint8_t data[65536];
            tls_pair self = {.version = version, .way = TLS_OVER_UNIX};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);
            int code = 0;

            tls_open(&self);
            CHECK_OK(tepal_transport_set_write_limits(own->transport, 100000, 20000, 500000));
            tls_end_pause(other);
            for (int i = 0; code == 0; i++) {
                stream_fill(own->seed, own->sent, data, sizeof data);
                code = tepal_transport_write(own->transport, data, sizeof data);
                own->sent += code == 0 ? sizeof data : 0;
                CHECK_LE(tepal_transport_write_buffer_size(own->transport), 520000); /* and what TLS adds */
                CHECK_LT(i, 2000);
                tls_settle(&self);
            }
            CHECK_EQ(code, TEPAL_ENOBUFS);
            CHECK(own->is_paused);
            CHECK_EQ(own->pauses, 1);
            CHECK_GT(tepal_transport_write_buffer_size(own->transport), 400000);
            tls_end_resume(other);
            TLS_UNTIL(&self, tls_end_has_all(other));
            TLS_UNTIL(&self, !own->is_paused);
            CHECK_EQ(tepal_transport_write_buffer_size(own->transport), 0);
            tls_close(&self);
        }
    }
}

static void write_more(tls_end *self) {
    uint64_t *const left = self->user;

    while (!self->is_paused && *left > 0) {
        *left -= 10000;
        tls_end_write(self, 10000);
    }
}

SCRIPT_TEST(tls_flow, pause_and_resume_alternate_while_much_is_sent_both_ways) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .client.on_resume = write_more, .server.on_resume = write_more};
        uint64_t left[2] = {10000000, 10000000};

        tls_open(&self);
        for (int server = 0; server < 2; server++) {
            tls_side(&self, server)->user = &left[server];
            CHECK_OK(tepal_transport_set_write_limits(tls_side(&self, server)->transport, 50000, 10000, UINT64_MAX));
            write_more(tls_side(&self, server));
        }
        TLS_UNTIL(&self, left[0] + left[1] == 0 && tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
        tls_close(&self);
    }
}

/* ---- Records ---- */

/* From this offset on: how many records of data there are, and how much the shortest and the longest but the last hold. */
typedef struct records {
    size_t count, shortest, longest, first;
} records;

static records look_at(const wire_way *way, size_t offset) {
    records seen = {.shortest = SIZE_MAX};
    size_t length;
    int type;

    while (wire_record(way, &offset, &type, &length)) {
        CHECK_EQ(type, 23);
        CHECK_LE(length, 16384 + 256);
        seen.first = seen.count == 0 ? length : seen.first;
        seen.count++;
        seen.longest = length > seen.longest ? length : seen.longest;
        if (offset < way->length) {
            seen.shortest = length < seen.shortest ? length : seen.shortest;
        }
    }
    CHECK_EQ(offset, way->length);
    return seen;
}

SCRIPT_TEST(tls_flow, records_are_small_at_first_large_in_bulk_and_small_again_after_a_rest) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);
            wire_way *const sent = server ? &self.wire.down : &self.wire.up;

            tls_open(&self);
            size_t at = sent->length;
            tls_end_write(own, 20000);
            TLS_UNTIL(&self, tls_end_has_all(other));
            CHECK_LE(look_at(sent, at).longest, 1400);
            CHECK_GE(look_at(sent, at).shortest, 1300);
            at = sent->length;
            tls_end_write(own, 500000);
            TLS_UNTIL(&self, tls_end_has_all(other));
            CHECK_GE(look_at(sent, at).longest, 16384);
            CHECK_LT(look_at(sent, at).count, 60);
            at = sent->length;
            tls_end_write(own, 100000);
            TLS_UNTIL(&self, tls_end_has_all(other));
            CHECK_GE(look_at(sent, at).shortest, 16384);
            const int64_t rested_ns = tepal_loop_time(self.loop) + TEPAL_MS(1050);
            while (tepal_loop_time(self.loop) < rested_ns) {
                CHECK_OK(tepal_loop_step(self.loop, rested_ns - tepal_loop_time(self.loop)));
            }
            at = sent->length;
            tls_end_write(own, 20000);
            TLS_UNTIL(&self, tls_end_has_all(other));
            CHECK_LE(look_at(sent, at).longest, 1400);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_flow, what_one_callback_writes_in_small_pieces_is_one_record) {
    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
        struct iovec pieces[20];
        uint8_t data[1000];

        tls_open(&self);
        const size_t at = self.wire.up.length;
        for (int i = 0; i < 50; i++) {
            tls_end_write(&self.client, 20);
        }
        TLS_UNTIL(&self, tls_end_has_all(&self.server));
        CHECK_EQ(look_at(&self.wire.up, at).count, 1);
        const size_t then = self.wire.up.length;
        stream_fill(self.client.seed, self.client.sent, data, sizeof data);
        for (size_t i = 0; i < 20; i++) {
            pieces[i] = (struct iovec){.iov_base = data + 50 * i, .iov_len = 50};
        }
        CHECK_OK(tepal_transport_writev(self.client.transport, pieces, 20));
        self.client.sent += sizeof data;
        TLS_UNTIL(&self, tls_end_has_all(&self.server));
        CHECK_EQ(look_at(&self.wire.up, then).count, 1);
        tls_close(&self);
    }
}

static void released(void *argument, int status) {
    CHECK_EQ(status, 0);
    ++*(int *)argument;
}

SCRIPT_TEST(tls_flow, an_owned_write_is_released_once_and_its_bytes_arrive) {
    static uint8_t data[300000];
    tls_pair self = {0};
    int releases = 0;

    tls_open(&self);
    stream_fill(self.client.seed, 0, data, sizeof data);
    const struct iovec pieces[] = {{.iov_base = data, .iov_len = 100},
                                   {.iov_base = data + 100, .iov_len = sizeof data - 100}};
    self.client.sent = sizeof data;
    CHECK_OK(tepal_transport_write_owned(self.client.transport, pieces, 2, released, &releases));
    TLS_UNTIL(&self, tls_end_has_all(&self.server));
    CHECK_EQ(releases, 1);
    tls_close(&self);
}

/* ---- Keys ---- */

SCRIPT_TEST(tls_flow, keys_change_in_both_directions_under_load) {
    tls_pair self = {.version = TEPAL_TLS_1_3};

    tls_open(&self);
    for (int round = 0; round < 40; round++) {
        for (int server = 0; server < 2; server++) {
            tls_end *const each = tls_side(&self, server);
            if (!each->is_paused) {
                tls_end_write(each, 30000);
            }
            CHECK_OK(tepal_transport_tls_update_keys(each->transport));
            tls_end_write(each, 10);
        }
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    TLS_UNTIL(&self, tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
    tls_close(&self);
}

SCRIPT_TEST(tls_flow, a_change_of_keys_comes_after_what_was_written_before_it) {
    tls_pair self = {.version = TEPAL_TLS_1_3, .way = TLS_OVER_WIRE};

    tls_open(&self);
    self.wire.up.limit = self.wire.down.limit = 0; /* hold everything, as far as it will go */
    for (int i = 0; i < 20; i++) {
        tls_end_write(&self.client, 777);
        CHECK_OK(tepal_transport_tls_update_keys(self.client.transport));
    }
    self.wire.up.limit = self.wire.down.limit = SIZE_MAX;
    TLS_UNTIL(&self, tls_end_has_all(&self.server));
    tls_exchange(&self, 1000);
    tls_close(&self);
}

SCRIPT_TEST(tls_flow, on_1_2_keys_do_not_change_and_asking_for_it_does_no_harm) {
    tls_pair self = {.version = TEPAL_TLS_1_2};

    tls_open(&self);
    CHECK_EQ(tepal_transport_tls_update_keys(self.client.transport), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_transport_tls_update_keys(self.server.transport), TEPAL_ENOTSUP);
    tls_exchange(&self, 100000);
    tls_close(&self);
}

/* ---- Doing nothing ---- */

static uint64_t turns(tls_pair *self) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_get_stats(self->loop, &stats));
    return stats.turns;
}

/* FIELD row 27. */
SCRIPT_TEST(tls_flow, an_idle_connection_wakes_nobody) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        int64_t timeout_ns;

        tls_open(&self);
        tls_exchange(&self, 50000);
        tls_settle(&self);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(tepal_loop_step(self.loop, 0), 0);
        }
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        CHECK_LT(timeout_ns, 0); /* there is no timer, and nothing to do */
        tls_end_pause(&self.client);
        tls_end_write(&self.server, 50000); /* nor while bytes wait for a paused protocol */
        tls_settle(&self);
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        CHECK_LT(timeout_ns, 0);
        const int64_t began_ns = tepal_loop_time(self.loop);
        CHECK_EQ(tepal_loop_step(self.loop, TEPAL_MS(30)), 0);
        CHECK_GE(tepal_loop_time(self.loop) - began_ns, TEPAL_MS(29));
        tls_end_resume(&self.client);
        TLS_UNTIL(&self, tls_end_has_all(&self.client));
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_flow, a_transport_that_gives_one_byte_at_a_time_does_not_make_it_spin) {
    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE, .version = version};

        tls_start(&self);
        self.wire.up.portion = self.wire.down.portion = 1;
        tls_shake(&self);
        CHECK_OK(tepal_future_result(self.client.future, NULL));
        tls_end_write(&self.client, 500);
        TLS_UNTIL(&self, tls_end_has_all(&self.server) && self.wire.down.passed == self.wire.down.length);
        const uint64_t moves = self.wire.up.passed + self.wire.down.passed;
        CHECK_LT(turns(&self), 3 * moves + 100);
        tls_close(&self);
    }
}
