/* TLS on a connection that is up already, and TLS inside TLS. FIELD row 24 is here, and in torture/tls_bytes.c byte by byte. */
#include "conformance/tls_pair.h"

#include <stdlib.h>
#include <sys/socket.h>

SCRIPT_TEST(tls_start, what_was_written_before_goes_before_and_what_is_written_after_is_encrypted) {
    for (tls_way way = TLS_OVER_TCP; way <= TLS_OVER_WIRE; way++) {
        EACH_VERSION(version) {
            tls_pair self = {.way = way, .version = version, .is_plain = true};

            tls_open(&self);
            tls_exchange(&self, 5000);
            tls_upgrade_both(&self);
            CHECK_EQ(tls_info(&self.client).version, version);
            CHECK(tls_info(&self.client).verified);
            tls_exchange(&self, 300000);
            CHECK_MEM(self.server.log, "FMCD", 4);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_start, what_is_written_before_the_handshake_is_done_waits_for_it_and_is_counted) {
    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE, .version = version, .is_plain = true};

        tls_open(&self);
        self.wire.up.limit = self.wire.down.limit = 0; /* nothing gets through */
        for (int server = 0; server < 2; server++) {
            tls_end *const each = tls_side(&self, server);
            CHECK_OK(tls_upgrade(each, NULL, 0));
            CHECK(!tepal_transport_can_write_eof(each->transport));
            CHECK_EQ(tepal_transport_write_eof(each->transport), TEPAL_ENOTSUP);
            tls_end_write(each, 50000);
            CHECK(!each->is_paused);
            tls_settle(&self);
            CHECK_GE(tepal_transport_write_buffer_size(each->transport), 50000);
            tls_end_write(each, 50000);
            CHECK(each->is_paused);
            CHECK(!tepal_future_is_done(each->upgraded));
        }
        self.wire.up.limit = self.wire.down.limit = SIZE_MAX;
        TLS_UNTIL(&self, tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
        CHECK_OK(tepal_future_result(self.client.upgraded, NULL));
        CHECK_OK(tepal_future_result(self.server.upgraded, NULL));
        TLS_UNTIL(&self, !self.client.is_paused && !self.server.is_paused);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_start, writes_before_the_handshake_stop_at_the_cap) {
    tls_pair self = {.way = TLS_OVER_WIRE, .is_plain = true};

    tls_open(&self);
    self.wire.up.limit = 0;
    CHECK_OK(tepal_transport_set_write_limits(self.client.transport, 20000, 5000, 100000));
    CHECK_OK(tls_upgrade(&self.client, NULL, 0));
    tls_settle(&self);
    tls_end_write(&self.client, 90000);
    CHECK_EQ(tepal_transport_write(self.client.transport, self.wire.up.bytes, 20000), TEPAL_ENOBUFS);
    tls_settle(&self);
    CHECK_EQ(tepal_transport_write(self.client.transport, self.wire.up.bytes, 20000), TEPAL_ENOBUFS);
    CHECK_OK(tls_upgrade(&self.server, NULL, 0));
    self.wire.up.limit = SIZE_MAX;
    TLS_UNTIL(&self, tls_end_has_all(&self.server));
    tls_close(&self);
}

/* ---- Bytes that belong to TLS ---- */

static void consent(tls_end *self) {
    CHECK_OK(tls_upgrade(self, NULL, 0));
}

/* The upcall holds a command of ten bytes, and then what belongs to TLS. */
static void take_command(tls_end *self) {
    CHECK_GE(self->received, 10);
    self->on_data = NULL;
    self->is_raw = false;
    CHECK_OK(tls_upgrade(self, self->raw + 10, (size_t)self->received - 10));
    self->received = 10;
}

SCRIPT_TEST(tls_start, the_clients_first_words_may_come_with_its_command) {
    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE,
                         .version = version,
                         .is_plain = true,
                         .server.is_raw = true,
                         .server.on_data = take_command};

        tls_open(&self);
        self.wire.up.limit = 0;
        tls_end_write(&self.client, 10);
        CHECK_OK(tls_upgrade(&self.client, NULL, 0)); /* it does not wait for consent */
        TLS_UNTIL(&self, self.wire.up.length > 100);
        self.wire.up.limit = SIZE_MAX;
        TLS_UNTIL(&self, tepal_future_is_done(self.client.upgraded));
        CHECK_OK(tepal_future_result(self.client.upgraded, NULL));
        tls_exchange(&self, 20000);
        CHECK_OK(tepal_future_result(self.server.upgraded, NULL));
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_start, the_servers_consent_may_come_before_anybody_is_ready) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .is_plain = true, .client.on_data = NULL};

        tls_open(&self);
        tls_end_write(&self.server, 10);
        CHECK_OK(tls_upgrade(&self.server, NULL, 0));
        tls_end_write(&self.server, 100); /* under TLS already */
        self.client.on_data = consent;
        TLS_UNTIL(&self, self.client.upgraded != NULL);
        self.client.on_data = NULL;
        TLS_UNTIL(&self, tepal_future_is_done(self.client.upgraded) && tls_end_has_all(&self.client));
        CHECK_OK(tepal_future_result(self.client.upgraded, NULL));
        tls_exchange(&self, 1000);
        tls_close(&self);
    }
}

/* Begin TLS at one end, and have the other say this in plain text; the code of both the future and the end. */
static int be_told(bool server, bool is_unread, bool ends) {
    static const char evil[] = "DELE 1\r\nQUIT\r\n";
    tls_pair self = {.is_plain = true};
    tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

    tls_open(&self);
    own->wants_no_data = true; /* not a byte of it */
    CHECK_OK(tls_upgrade(own, is_unread ? evil : NULL, is_unread ? sizeof evil - 1 : 0));
    other->is_raw = true;
    if (!is_unread) {
        CHECK_OK(tepal_transport_write(other->transport, evil, sizeof evil - 1));
    }
    if (ends) {
        CHECK_OK(tepal_transport_write_eof(other->transport));
    }
    TLS_UNTIL(&self, own->losts == 1);
    CHECK_EQ(own->received, 0);
    CHECK_EQ(own->eofs, 0);
    const int code = tepal_future_result(own->upgraded, NULL);
    CHECK_EQ(own->lost_code, code);
    tls_close(&self);
    return code;
}

/* CVE-2014-3556, CVE-2023-40217. */
SCRIPT_TEST(tls_start, plain_text_after_the_beginning_is_never_the_protocols) {
    for (int server = 0; server < 2; server++) {
        for (int ends = 0; ends < 2; ends++) {
            CHECK_EQ(be_told(server, true, ends), TEPAL_ETLS_NOT_TLS);
            CHECK_EQ(be_told(server, false, ends), TEPAL_ETLS_NOT_TLS);
        }
    }
}

SCRIPT_TEST(tls_start, an_end_before_the_handshake_is_told_to_future_and_protocol) {
    for (int server = 0; server < 2; server++) {
        tls_pair self = {.is_plain = true};
        tls_end *const own = tls_side(&self, server);

        tls_open(&self);
        CHECK_OK(tls_upgrade(own, NULL, 0));
        tls_end_write(own, 5000);
        tls_side(&self, !server)->is_raw = true;
        CHECK_OK(tepal_transport_write_eof(tls_side(&self, !server)->transport));
        TLS_UNTIL(&self, own->losts == 1);
        CHECK_EQ(tepal_future_result(own->upgraded, NULL), TEPAL_ETLS_ENDED);
        CHECK_EQ(own->lost_code, TEPAL_ETLS_ENDED);
        CHECK_EQ(own->eofs, 0);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_start, who_has_paused_reading_stays_so_and_the_handshake_goes_on) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {.version = version, .is_plain = true};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            tls_open(&self);
            tls_end_pause(own);
            tls_upgrade_both(&self);
            tls_end_write(other, 100000);
            tls_settle(&self);
            CHECK_EQ(own->received, 0);
            tls_end_resume(own);
            TLS_UNTIL(&self, tls_end_has_all(own));
            tls_exchange(&self, 1000);
            tls_close(&self);
        }
    }
}

SCRIPT_TEST(tls_start, wrong_options_change_nothing) {
    tls_pair self = {.is_plain = true};
    tepal_future *future = (tepal_future *)&self;

    tls_open(&self);
    const tepal_tls_options wrong[] = {
        {.size = sizeof wrong[0], .context = self.client_context},
        {.size = sizeof wrong[0], .context = self.client_context, .server_name = ""},
        {.size = sizeof wrong[0], .context = self.server_context, .server_name = "localhost"},
        {.size = sizeof wrong[0], .context = self.server_context, .unread_length = 1},
        {.size = sizeof wrong[0], .context = self.server_context, .session = "a", .session_length = 1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQ(tepal_transport_start_tls(self.client.transport, &wrong[i], &future), TEPAL_EINVAL);
    }
    CHECK_EQ(tepal_transport_start_tls(self.client.transport, NULL, &future), TEPAL_EINVAL);
    CHECK(future == (tepal_future *)&self);
    tls_exchange(&self, 1000);
    CHECK_OK(tepal_transport_write_eof(self.client.transport));
    CHECK_EQ(tls_upgrade(&self.client, NULL, 0), TEPAL_ECLOSED);
    tls_close(&self);
}

SCRIPT_TEST(tls_start, a_second_layer_waits_for_the_futures_of_the_first) {
    tls_pair self = {.is_plain = true};
    tepal_future *second;

    tls_open(&self);
    CHECK_OK(tls_upgrade(&self.client, NULL, 0));
    CHECK_EQ(tepal_transport_start_tls(self.client.transport, &self.client_options, &second), TEPAL_EBUSY);
    CHECK_OK(tls_upgrade(&self.server, NULL, 0));
    TLS_UNTIL(&self, tepal_future_is_done(self.client.upgraded) && tepal_future_is_done(self.server.upgraded));
    tls_exchange(&self, 1000);
    tls_close(&self);
}

SCRIPT_TEST(tls_start, closing_meanwhile_sends_what_was_written_once_the_handshake_is_done) {
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            tls_pair self = {
                .version = version, .is_plain = true, .client.closes_at_eof = true, .server.closes_at_eof = true};
            tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

            tls_open(&self);
            CHECK_OK(tls_upgrade(own, NULL, 0));
            tls_end_write(own, 200000);
            tepal_transport_close(own->transport);
            CHECK_OK(tls_upgrade(other, NULL, 0));
            TLS_UNTIL(&self, own->losts == 1 && other->losts == 1);
            CHECK_EQ(own->lost_code, 0);
            CHECK_EQ(other->lost_code, 0);
            CHECK_EQ(other->eofs, 1);
            CHECK(tls_end_has_all(other));
            tls_close(&self);
        }
    }
}

/* ---- Layers ---- */

SCRIPT_TEST(tls_start, tls_runs_inside_tls) {
    EACH_VERSION(outer) {
        EACH_VERSION(inner) {
            tls_pair self = {.version = outer};
            tepal_tls_context *const contexts[] = {tls_usual_context(false, inner), tls_usual_context(true, inner)};
            uint8_t binding[2][64];

            tls_open(&self);
            tls_exchange(&self, 1000);
            CHECK_EQ(tepal_transport_tls_binding(self.client.transport, "tls-exporter", binding[0], 64), 32);
            self.client_options.context = contexts[0];
            self.server_options.context = contexts[1];
            tls_upgrade_both(&self);
            CHECK_EQ(tls_info(&self.client).version, inner);
            CHECK_EQ(tls_info(&self.server).version, inner);
            CHECK_EQ(tepal_transport_tls_binding(self.client.transport, "tls-exporter", binding[1], 64), 32);
            CHECK(memcmp(binding[0], binding[1], 32) != 0);
            tls_exchange(&self, 300000);
            tls_end_pause(&self.client);
            tls_end_write(&self.server, 300000);
            tls_settle(&self);
            tls_end_resume(&self.client);
            TLS_UNTIL(&self, tls_end_has_all(&self.client));
            tls_end_write(&self.client, 100000);
            tepal_transport_close(self.client.transport);
            TLS_UNTIL(&self, self.server.eofs == 1);
            CHECK(tls_end_has_all(&self.server));
            tls_close(&self);
            tepal_tls_context_unref(contexts[0]);
            tepal_tls_context_unref(contexts[1]);
        }
    }
}

/* The inner handshake begins while the outer one is still under way. */
SCRIPT_TEST(tls_start, a_layer_may_be_put_on_a_layer_that_is_not_ready) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .is_plain = true};

        tls_open(&self);
        CHECK_OK(tepal_transport_start_tls(self.client.transport, &self.client_options, NULL));
        CHECK_OK(tepal_transport_start_tls(self.server.transport, &self.server_options, NULL));
        tls_upgrade_both(&self);
        tls_exchange(&self, 100000);
        tls_close(&self);
    }
}
