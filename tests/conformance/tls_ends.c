/* How a TLS connection ends: half-closed, closed, cut, reset. FIELD rows 25, 26 and 28. */
#include "conformance/tls_pair.h"

#include <signal.h>

/* ---- Half-close ---- */

static void answer_at_length(tls_end *self) {
    tls_end_write(self, 1 << 20);
    CHECK_OK(tepal_transport_write_eof(self->transport));
}

SCRIPT_TEST(tls_ends, on_1_3_each_side_ends_its_own_direction) {
    for (tls_way way = TLS_OVER_TCP; way <= TLS_OVER_WIRE; way++) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.way = way, .version = TEPAL_TLS_1_3};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            other->on_eof = answer_at_length;
            tls_open(&self);
            CHECK(tepal_transport_can_write_eof(own->transport));
            tls_end_write(own, 300000);
            CHECK_OK(tepal_transport_write_eof(own->transport));
            CHECK_OK(tepal_transport_write_eof(own->transport));
            CHECK_EQ(tepal_transport_write(own->transport, "x", 1), TEPAL_EPIPE);
            CHECK(!tepal_transport_is_closing(own->transport));
            TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
            CHECK(tls_end_has_all(own));
            CHECK(tls_end_has_all(other));
            CHECK_EQ(own->eofs, 1);
            CHECK_EQ(own->lost_code | other->lost_code, 0);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_ends, keys_may_be_changed_for_who_has_ended_its_own_direction) {
    for (int server = 0; server < 2; server++) {
        tls_pair self = {.version = TEPAL_TLS_1_3};
        tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

        tls_open(&self);
        CHECK_OK(tepal_transport_write_eof(own->transport));
        TLS_UNTIL(&self, other->eofs == 1);
        for (int i = 0; i < 3; i++) {
            tls_end_write(other, 50000);
            CHECK_OK(tepal_transport_tls_update_keys(other->transport)); /* which asks for what cannot be answered */
            TLS_UNTIL(&self, tls_end_has_all(own));
        }
        CHECK_OK(tepal_transport_write_eof(other->transport));
        TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
        CHECK_EQ(own->lost_code | other->lost_code, 0);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_ends, on_1_2_there_is_no_half_close_and_asking_for_it_loses_nothing) {
    for (int server = 0; server < 2; server++) {
        tls_pair self = {.version = TEPAL_TLS_1_2};
        tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

        tls_open(&self);
        CHECK(!tepal_transport_can_write_eof(own->transport));
        tls_end_write(own, 100000);
        CHECK_EQ(tepal_transport_write_eof(own->transport), TEPAL_ENOTSUP);
        tls_exchange(&self, 100000);
        CHECK_EQ(other->eofs, 0);
        tls_end_write(own, 5000);
        tepal_transport_close(own->transport);
        TLS_UNTIL(&self, own->losts == 1 && other->losts == 1); /* other would keep open, but cannot */
        CHECK_EQ(other->eofs, 1);
        CHECK(tls_end_has_all(other));
        CHECK_EQ(own->lost_code | other->lost_code, 0);
        tls_close(&self);
    }
}

/* ---- Close ---- */

static void close_now(tls_end *self) {
    tepal_transport_close(self->transport);
}

SCRIPT_TEST(tls_ends, close_sends_everything_and_says_that_it_was_all) {
    for (tls_way way = TLS_OVER_TCP; way <= TLS_OVER_WIRE; way++) {
        EACH_VERSION(version) {
            for (int server = 0; server < 2; server++) {
                tls_pair self = {
                    .way = way, .version = version, .client.closes_at_eof = true, .server.closes_at_eof = true};
                tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

                tls_open(&self);
                tls_end_write(own, 1 << 20);
                tepal_transport_close(own->transport);
                tepal_transport_close(own->transport);
                CHECK_EQ(tepal_transport_write(own->transport, "x", 1), TEPAL_ECLOSED);
                TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
                CHECK_EQ(other->eofs, 1);
                CHECK(tls_end_has_all(other));
                CHECK_EQ(own->lost_code | other->lost_code, 0);
                tls_close(&self);
            }
        }
    }
}

SCRIPT_TEST(tls_ends, one_that_closes_as_soon_as_it_is_made_has_ended_cleanly) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.version = version, .client.closes_at_eof = true, .server.closes_at_eof = true};

            tls_side(&self, server)->on_made = close_now;
            tls_start(&self);
            TLS_UNTIL(&self, self.client.losts == 1 && self.server.losts == 1);
            CHECK_EQ(self.client.lost_code | self.server.lost_code, 0);
            CHECK_EQ(tls_side(&self, !server)->eofs, 1);
            tls_close(&self);
        }
    }
}

/* FIELD row 26: what the peer still sends must not have our reply reset away. */
SCRIPT_TEST(tls_ends, a_long_reply_arrives_though_input_is_left_unread) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.version = version, .client.closes_at_eof = true, .server.closes_at_eof = true};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            tls_open(&self);
            tls_end_pause(own);
            tls_end_write(other, 100000);
            tls_settle(&self);
            tls_end_write(own, 1 << 20);
            tepal_transport_close(own->transport);
            own->wants_no_data = true;
            TLS_UNTIL(&self, other->losts == 1 && own->losts == 1);
            CHECK(tls_end_has_all(other));
            CHECK_EQ(other->eofs, 1);
            CHECK_EQ(own->lost_code, 0);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_ends, abort_is_never_taken_for_a_clean_end) {
    for (tls_way way = TLS_OVER_TCP; way <= TLS_OVER_WIRE; way++) {
        EACH_VERSION(version) {
            for (int server = 0; server < 2; server++) {
                tls_pair self = {.way = way, .version = version};
                tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

                tls_open(&self);
                tls_end_write(own, 100000);
                tepal_transport_abort(own->transport, TEPAL_ERROR(TEPAL_DOMAIN_USER, 3));
                TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
                CHECK_EQ(own->lost_code, TEPAL_ERROR(TEPAL_DOMAIN_USER, 3));
                CHECK(other->lost_code == TEPAL_ETRUNCATED || other->lost_code == TEPAL_SYSTEM(ECONNRESET));
                CHECK_EQ(other->eofs, 0);
                CHECK_LE(other->received, own->sent);
                tls_close(&self);
            }
        }
    }
}

/* ---- Cut short ---- */

/* What a record of no bytes, or close_notify, takes. */
static const uint64_t one_by_one[] = {1, 30, 7};

static void write_records(tls_pair *self, tls_end *own) {
    for (size_t i = 0; i < sizeof one_by_one / sizeof one_by_one[0]; i++) {
        tls_end_write(own, (size_t)one_by_one[i]);
        CHECK_OK(tepal_transport_flush(own->transport));
    }
    (void)self;
}

/*
 * The stream of one end is cut after this many bytes of what it sends from now on, of which all are there if it ends
 * cleanly. Returns whether that was all of them.
 */
static bool cut(tepal_tls_version version, bool server, size_t after, wire_end how) {
    tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
    tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);
    wire_way *const sent = server ? &self.wire.down : &self.wire.up;

    tls_open(&self);
    const size_t before = sent->length;
    sent->limit = before + after;
    sent->at_limit = how;
    write_records(&self, own);
    tepal_transport_close(own->transport);
    TLS_UNTIL(&self, other->losts == 1 || other->eofs == 1);
    TLS_UNTIL(&self, own->losts == 1);
    const bool is_all = how == WIRE_ENDS && sent->passed == sent->length;
    if (is_all) {
        CHECK_EQ(other->eofs, 1);
        CHECK_EQ(other->received, own->sent);
        CHECK_EQ(other->losts == 1 ? other->lost_code : 0, 0);
    } else if (how == WIRE_ENDS) {
        CHECK_EQ(other->eofs, 0);
        CHECK_EQ(other->lost_code, TEPAL_ETRUNCATED);
        CHECK_LE(other->received, own->sent);
    } else if (other->eofs == 0) {
        CHECK_EQ(other->lost_code, TEPAL_SYSTEM(ECONNRESET));
    }
    const bool has_everything = how == WIRE_RESETS ? self.wire.fds[0] >= 0 : sent->length <= before + after;
    tls_close(&self);
    return has_everything;
}

static void cut_everywhere(wire_end how, size_t step) {
    test_set_timeout(60);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            size_t after = 0;
            while (!cut(version, server, after, how)) {
                after += step;
                CHECK_LT(after, 1000);
            }
            CHECK_GT(after, 30);
        }
    }
}

/* FIELD row 25. */
SCRIPT_TEST(tls_ends, a_stream_that_is_cut_at_any_byte_is_truncated_and_only_a_whole_one_has_an_end) {
    cut_everywhere(WIRE_ENDS, test_is_slow_build() ? 7 : 1);
}

/* FIELD row 28: with SIGPIPE as it is by default. */
SCRIPT_TEST(tls_ends, a_reset_at_any_byte_is_an_error_and_kills_nobody) {
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    cut_everywhere(WIRE_RESETS, test_is_slow_build() ? 11 : 3);
}

SCRIPT_TEST(tls_ends, who_writes_to_a_peer_that_has_gone_is_told_and_not_killed) {
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
            tls_end *const own = tls_side(&self, server);

            tls_open(&self);
            wire_reset(&self.wire);
            tls_end_write(own, 100000);
            if (!tepal_transport_is_closing(own->transport)) {
                (void)tepal_transport_tls_update_keys(own->transport);
            }
            TLS_UNTIL(&self, self.client.losts == 1 && self.server.losts == 1);
            CHECK_NE(own->lost_code, 0);
            CHECK_EQ(self.client.eofs + self.server.eofs, 0);
            tls_close(&self);
        }
    }
}

/* What one end says in the handshake is cut: both must hear of it, and no factory is called at the other end. */
static bool cut_handshake(tepal_tls_version version, bool server, size_t after, wire_end how) {
    tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
    tls_end *const other = tls_side(&self, !server);
    wire_way *sent;

    tls_start(&self);
    sent = server ? &self.wire.down : &self.wire.up;
    sent->limit = after;
    sent->at_limit = how;
    tls_shake(&self);
    const int code = tepal_future_result(other->future, NULL);
    if (code < 0) {
        CHECK_EQ(other->built, 0);
        if (how == WIRE_ENDS) {
            CHECK(code == TEPAL_ETLS_ENDED || code == TEPAL_ETRUNCATED); /* it was done, but nobody there yet */
        } else {
            CHECK_EQ(code, TEPAL_SYSTEM(ECONNRESET));
        }
    }
    tls_close(&self);
    return code == 0;
}

static void cut_handshakes(wire_end how, size_t step) {
    test_set_timeout(60);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            size_t after = 0;
            while (!cut_handshake(version, server, after, how)) {
                after += step;
                CHECK_LT(after, 5000);
            }
            CHECK_GT(after, 50);
        }
    }
}

SCRIPT_TEST(tls_ends, a_handshake_that_is_cut_at_any_byte_has_ended_and_makes_nothing) {
    cut_handshakes(WIRE_ENDS, test_is_slow_build() ? 61 : 7);
}

SCRIPT_TEST(tls_ends, a_handshake_that_is_reset_at_any_byte_makes_nothing) {
    cut_handshakes(WIRE_RESETS, test_is_slow_build() ? 97 : 13);
}

/* A byte that was changed on its way. */
SCRIPT_TEST(tls_ends, a_record_that_was_changed_is_not_delivered) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);
            wire_way *const sent = server ? &self.wire.down : &self.wire.up;

            tls_open(&self);
            const size_t before = sent->length;
            sent->limit = before;
            tls_end_write(own, 1000);
            TLS_UNTIL(&self, sent->length >= before + 1000);
            sent->bytes[before + 500] ^= 1;
            sent->limit = SIZE_MAX;
            TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
            CHECK_EQ(other->lost_code, TEPAL_ETLS_DAMAGED);
            CHECK(tls_is_told(own->lost_code, TEPAL_ETLS_DAMAGED));
            CHECK_EQ(other->received, 0);
            tls_close(&self);
        }
    }
}
