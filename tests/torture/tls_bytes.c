/*
 * A handshake, and a change to TLS in the middle of a conversation, that stop at each of their bytes and go on a while later;
 * and the same one byte at a time. FIELD rows 24 and 27.
 */
#include "conformance/tls_pair.h"

/* ---- Handshakes ---- */

/* Let this many bytes of one direction through, wait until nothing moves, and then the rest. Whether there was a rest. */
static bool split_handshake(tepal_tls_version version, bool server, size_t after) {
    tls_pair self = {.way = TLS_OVER_WIRE, .version = version};
    wire_way *const sent = server ? &self.wire.down : &self.wire.up;

    tls_start(&self);
    sent->limit = after;
    tls_settle(&self);
    const bool has_more = sent->passed == after;
    sent->limit = SIZE_MAX;
    tls_shake(&self);
    CHECK_OK(tepal_future_result(self.client.future, NULL));
    CHECK_OK(tepal_future_result(self.server.future, NULL));
    tls_exchange(&self, 100);
    CHECK_STR(self.client.log, "FMCD");
    CHECK_STR(self.server.log, "FMCD");
    tls_close(&self);
    return has_more;
}

static size_t step(void) {
    return test_rounds(1, 0) == 1 ? 1 : test_is_slow_build() ? 61 : 2;
}

TEST_DRIVERS(tls_bytes, a_handshake_may_stop_at_every_byte) {
    test_set_timeout(120);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            size_t after = 0;
            while (split_handshake(version, server, after)) {
                after += step();
                CHECK_LT(after, 5000);
            }
            CHECK_GT(after, 100);
        }
    }
}

/* ---- A change to TLS ---- */

static const char command[] = "STARTTLS\r\n", consent[] = "+OK begin\r\n";

/* The client reads the consent and begins; there is nothing behind it, as the server waits. */
static void read_consent(tls_end *self) {
    if (self->received < sizeof consent - 1) {
        return;
    }
    CHECK_EQ(self->received, sizeof consent - 1);
    CHECK_MEM(self->raw, consent, sizeof consent - 1);
    self->on_data = NULL;
    self->is_raw = false;
    self->received = 0;
    CHECK_OK(tls_upgrade(self, NULL, 0));
    tls_end_write(self, 100);
}

/* The server reads the command, which the client's first words under TLS may be glued to. */
static void read_command(tls_end *self) {
    if (self->received < sizeof command - 1) {
        return;
    }
    CHECK_MEM(self->raw, command, sizeof command - 1);
    CHECK_LE(self->received, sizeof self->raw);
    self->on_data = NULL;
    self->is_raw = false;
    CHECK_OK(tepal_transport_write(self->transport, consent, sizeof consent - 1));
    CHECK_OK(tls_upgrade(self, self->raw + sizeof command - 1, (size_t)self->received - (sizeof command - 1)));
    self->received = 0;
    tls_end_write(self, 100);
}

static void begin(tls_pair *pair) {
    pair->way = TLS_OVER_WIRE;
    pair->is_plain = true;
    pair->server.is_raw = true;
    pair->server.on_data = read_command;
    pair->client.is_raw = true;
    pair->client.on_data = read_consent;
    tls_open(pair);
    CHECK_OK(tepal_transport_write(pair->client.transport, command, sizeof command - 1));
}

static void finish(tls_pair *pair) {
    TLS_UNTIL(pair, pair->client.upgraded != NULL && pair->server.upgraded != NULL);
    TLS_UNTIL(pair, tepal_future_is_done(pair->client.upgraded) && tepal_future_is_done(pair->server.upgraded));
    CHECK_OK(tepal_future_result(pair->client.upgraded, NULL));
    CHECK_OK(tepal_future_result(pair->server.upgraded, NULL));
    TLS_UNTIL(pair, tls_end_has_all(&pair->client) && tls_end_has_all(&pair->server));
    CHECK_EQ(pair->client.received, 100);
    CHECK_EQ(pair->server.received, 100);
    tls_close(pair);
}

static bool split_conversation(tepal_tls_version version, bool server, size_t after) {
    tls_pair self = {.version = version};
    wire_way *const sent = server ? &self.wire.down : &self.wire.up;

    begin(&self);
    sent->limit = after;
    tls_settle(&self);
    const bool has_more = sent->passed == after;
    sent->limit = SIZE_MAX;
    finish(&self);
    return has_more;
}

TEST_DRIVERS(tls_bytes, a_change_to_tls_may_stop_at_every_byte) {
    test_set_timeout(120);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            size_t after = 0;
            while (split_conversation(version, server, after)) {
                after += after < 40 ? 1 : step();
                CHECK_LT(after, 20000);
            }
            CHECK_GT(after, 300);
        }
    }
}

/*
 * The command, and the client's first words under TLS, in one portion that is cut anywhere: what the upcall that holds the
 * command has beyond it is named as unread, whatever that is. The answer is TLS as well.
 */
static void answer_in_tls(tls_end *self) {
    if (self->received < sizeof command - 1) {
        return;
    }
    self->on_data = NULL;
    self->is_raw = false;
    CHECK_OK(tls_upgrade(self, self->raw + sizeof command - 1, (size_t)self->received - (sizeof command - 1)));
    self->received = 0;
    tls_end_write(self, 100);
}

TEST_DRIVERS(tls_bytes, the_first_words_may_be_glued_to_the_command_as_far_as_you_like) {
    test_set_timeout(120);
    EACH_VERSION(version) {
        for (size_t after = 0; after < 400; after += test_is_slow_build() ? 37 : 1) {
            tls_pair self = {.way = TLS_OVER_WIRE,
                             .version = version,
                             .is_plain = true,
                             .server.is_raw = true,
                             .server.on_data = answer_in_tls};

            tls_open(&self);
            self.wire.up.limit = 0;
            CHECK_OK(tepal_transport_write(self.client.transport, command, sizeof command - 1));
            CHECK_OK(tls_upgrade(&self.client, NULL, 0));
            tls_end_write(&self.client, 100);
            tls_settle(&self);
            self.wire.up.limit = after;
            tls_settle(&self);
            self.wire.up.limit = SIZE_MAX;
            TLS_UNTIL(&self, tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
            CHECK_EQ(self.server.received, 100);
            CHECK_OK(tepal_future_result(self.client.upgraded, NULL));
            CHECK_OK(tepal_future_result(self.server.upgraded, NULL));
            tls_close(&self);
        }
    }
}

/* ---- One byte at a time ---- */

TEST_DRIVERS(tls_bytes, everything_goes_well_one_byte_at_a_time) {
    test_set_timeout(120);
    EACH_VERSION(version) {
        tls_pair self = {.version = version};

        begin(&self);
        self.wire.up.portion = self.wire.down.portion = 1;
        finish(&self);

        tls_pair whole = {.way = TLS_OVER_WIRE, .version = version};
        tls_start(&whole);
        whole.wire.up.portion = whole.wire.down.portion = 1;
        tls_shake(&whole);
        CHECK_OK(tepal_future_result(whole.client.future, NULL));
        CHECK_OK(tepal_future_result(whole.server.future, NULL));
        tls_exchange(&whole, 3000);
        tepal_transport_close(whole.client.transport);
        TLS_UNTIL(&whole, whole.server.eofs == 1);
        tls_close(&whole);
    }
}
