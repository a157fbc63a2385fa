/*
 * TLS with peers that are not well-bred: messages in pieces, key after key, and the beginning on a live connection.
 */
#include "conformance/tls_peer.h"
#include "tls/tls.h"

#include <sys/socket.h>

/* ---- Messages after the handshake ---- */

static int fat_ticket(SSL *ssl, void *argument) {
    static const char ballast[2500];
    (void)argument;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), ballast, sizeof ballast);
}

static SSL_TICKET_RETURN thin_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t length,
                                     SSL_TICKET_STATUS status, void *argument) {
    (void)ssl;
    (void)session;
    (void)name;
    (void)length;
    (void)status;
    (void)argument;
    return SSL_TICKET_RETURN_IGNORE;
}

/* A server whose first ticket comes in several records, of which the client has the first when this returns. */
static void join_in_the_middle_of_a_ticket(one_end *self, stranger *other, tepal_tls_context *context) {
    other->ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_max_send_fragment(other->ctx, 512);
    CHECK_EQ(SSL_CTX_set_session_ticket_cb(other->ctx, fat_ticket, thin_ticket, NULL), 1);
    stranger_open(other, true, TLS1_3_VERSION);
    other->holds_tickets = true;
    join(self, other, context, "localhost");
    let_settle(self, other);
    stranger_give_record(other);
    let_settle(self, other);
    CHECK_EQ(self->made, 1);
}

SCRIPT_TEST(tls_corners, what_is_written_while_half_a_ticket_is_here_is_not_lost) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    join_in_the_middle_of_a_ticket(&self, &other, context);
    CHECK_OK(tepal_transport_write(self.transport, "early", 5));
    let_settle(&self, &other);
    CHECK_EQ(self.losts, 0);
    CHECK_OK(tepal_transport_write(self.transport, " bird", 5));
    other.is_holding = false;
    let_settle(&self, &other);
    CHECK_EQ(self.losts, 0);
    CHECK_STR(stranger_reads(&other), "early bird"); /* joined in one record */
    part(&self, &other);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_corners, half_a_ticket_does_not_stand_in_the_way_of_an_end) {
    for (int how = 0; how < 3; how++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};

        join_in_the_middle_of_a_ticket(&self, &other, context);
        CHECK_OK(tepal_transport_write(self.transport, "last", 4));
        if (how == 0) {
            tepal_transport_close(self.transport);
        } else {
            CHECK_OK(tepal_transport_write_eof(self.transport));
        }
        let_settle(&self, &other);
        if (how == 2) {
            tepal_transport_close(self.transport);
            let_settle(&self, &other);
        }
        other.is_holding = false;
        let_settle(&self, &other);
        CHECK_STR(stranger_reads(&other), "last");
        CHECK_STR(stranger_reads(&other), "");
        CHECK_EQ(SSL_get_shutdown(other.ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
        CHECK_EQ(self.losts, how != 1);
        CHECK_EQ(self.lost_code, 0);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_corners, who_pauses_until_its_words_have_left_does_not_wait_for_ever_for_half_a_ticket) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};
    tepal_tls_info info = {.size = sizeof info};

    join_in_the_middle_of_a_ticket(&self, &other, context);
    CHECK_OK(tepal_transport_tls_info(self.transport, &info));
    CHECK_EQ(info.version, TEPAL_TLS_1_3);
    CHECK_OK(tepal_transport_tls_update_keys(self.transport));
    CHECK_OK(tepal_transport_pause_reading(self.transport));
    CHECK_OK(tepal_transport_write(self.transport, "early", 5));
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 5);
    other.is_holding = false;
    UNTIL(&self, &other, tepal_transport_write_buffer_size(self.transport) == 0);
    let_settle(&self, &other);
    CHECK_STR(stranger_reads(&other), "early");
    CHECK_EQ(self.received, 0);
    CHECK_EQ(SSL_write(other.ssl, "more", 4), 4);
    let_settle(&self, &other);
    CHECK_EQ(self.received, 0);
    CHECK_OK(tepal_transport_resume_reading(self.transport));
    let_settle(&self, &other);
    CHECK_EQ(self.received, 8);
    CHECK_MEM(self.data, "datamore", 8);
    CHECK_EQ(self.losts, 0);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_corners, new_keys_are_not_for_who_has_ended) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, TLS1_3_VERSION);
    join(&self, &other, context, "localhost");
    CHECK_OK(tepal_transport_tls_update_keys(self.transport));
    CHECK_OK(tepal_transport_write_eof(self.transport));
    CHECK_EQ(tepal_transport_tls_update_keys(self.transport), TEPAL_ECLOSED);
    let_settle(&self, &other);
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    let_settle(&self, &other);
    CHECK_EQ(self.received, 4);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

static void count_updates(int is_sent, int version, int type, const void *message, size_t length, SSL *ssl,
                          void *count) {
    (void)version;
    (void)ssl;
    if (!is_sent && type == SSL3_RT_HANDSHAKE && length > 0 && *(const uint8_t *)message == SSL3_MT_KEY_UPDATE) {
        ++*(int *)count;
    }
}

SCRIPT_TEST(tls_corners, a_key_that_has_sealed_many_records_is_replaced) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(true);
        one_end self = {0};
        stranger other = {.fd = -1};
        const void *filter;
        int count = 0;

        stranger_open(&other, false, version);
        SSL_set_msg_callback(other.ssl, count_updates);
        SSL_set_msg_callback_arg(other.ssl, &count);
        join(&self, &other, context, NULL);
        UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
        CHECK_OK(tepal_transport_info(self.transport, "tls", &filter));
        for (int times = 1; times <= 2; times++) {
            ((tpi_tls_filter *)(uintptr_t)filter)->records = TPI_TLS_RECORDS_OF_KEY - 2;
            for (int i = 0; i < 4; i++) {
                CHECK_OK(tepal_transport_write(self.transport, "x", 1));
                let_settle(&self, &other);
                CHECK_STR(stranger_reads(&other), "x");
            }
            CHECK_EQ(SSL_read(other.ssl, &(char){0}, 1), -1);
            CHECK_EQ(count, version == TLS1_3_VERSION ? times : 0);
            CHECK_EQ(SSL_write(other.ssl, "y", 1), 1);
            let_settle(&self, &other);
            CHECK_EQ(self.received, times);
        }
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

/* A peer that asks for new keys again and again, and takes none of the answers. */
SCRIPT_TEST(tls_corners, answers_that_nobody_takes_do_not_fill_the_memory) {
    tepal_tls_context *context = usual_context(true);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, false, TLS1_3_VERSION);
    join(&self, &other, context, NULL);
    let_settle(&self, &other);
    const int little = 1; /* room in the socket; the simulator's has enough for all */
    (void)setsockopt(tepal_transport_fd(self.transport), SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    for (int i = 0; i < 6000 && self.losts == 0; i++) {
        CHECK_EQ(SSL_key_update(other.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        CHECK_EQ(SSL_do_handshake(other.ssl), 1);
        if (i % 50 == 49) {
            (void)stranger_give(&other, SIZE_MAX);
            while (tepal_loop_step(self.loop, 0) == 1) {
            }
        }
        CHECK_LT(tepal_transport_write_buffer_size(self.transport), 100000);
    }
    if (strcmp(test_driver(), "sim") == 0) {
        CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 0);
    } else {
        CHECK_EQ(self.losts, 1);
        CHECK_EQ(self.lost_code, TEPAL_ENOBUFS);
    }
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* ---- The end of a handshake on a live connection ---- */

static one_end successor;

static void hand_over(tepal_future *future, void *argument) {
    one_end *self = argument;
    (void)future;
    successor.protocol.type = &one_end_type;
    CHECK_OK(tepal_transport_set_protocol(self->transport, &successor.protocol, NULL));
}

SCRIPT_TEST(tls_corners, who_waits_for_start_tls_is_told_before_data_comes) {
    for (int paused = 0; paused < 2; paused++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};

        successor = (one_end){0};
        stranger_open(&other, true, TLS1_2_VERSION);
        begin(&self, &other, NULL);
        UNTIL(&self, &other, self.made == 1);
        other.holds_tickets = true;
        CHECK_OK(tepal_transport_start_tls(
            self.transport, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"),
            &self.upgraded));
        CHECK_OK(tepal_future_add_done_callback(self.upgraded, hand_over, &self));
        if (paused) {
            CHECK_OK(tepal_transport_pause_reading(self.transport));
        }
        UNTIL(&self, &other, other.is_holding);
        CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
        other.is_holding = false;
        let_settle(&self, &other);
        CHECK(tepal_future_is_done(self.upgraded));
        CHECK_EQ(self.received, 0);
        if (paused) {
            CHECK_EQ(successor.received, 0);
            CHECK_OK(tepal_transport_resume_reading(self.transport));
            let_settle(&self, &other);
        }
        CHECK_EQ(successor.received, 4);
        tepal_future_unref(self.upgraded);
        CHECK_OK(tepal_loop_close(self.loop));
        CHECK_EQ(successor.losts, 1);
        self.losts = 1;
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_corners, an_outer_handshake_is_not_taken_for_the_inner_one) {
    tepal_tls_context *context = usual_context(false);
    const tepal_tls_options options = {.size = sizeof options, .context = context, .server_name = "localhost"};
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, 0);
    begin(&self, &other, NULL);
    UNTIL(&self, &other, self.made == 1);
    CHECK_OK(tepal_transport_start_tls(self.transport, &options, NULL));
    CHECK_OK(tepal_transport_start_tls(self.transport, &options, &self.upgraded));
    UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
    let_settle(&self, &other);
    CHECK(!tepal_future_is_done(self.upgraded));
    CHECK_EQ(stranger_reads(&other)[0], SSL3_RT_HANDSHAKE);
    part(&self, &other);
    (void)tepal_future_error(self.upgraded);
    tepal_future_unref(self.upgraded);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_corners, nothing_is_encrypted_for_who_has_ended_already) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};
    tepal_future *future;

    stranger_open(&other, true, 0);
    begin(&self, &other, NULL);
    UNTIL(&self, &other, self.made == 1);
    CHECK_EQ(shutdown(other.fd, SHUT_WR), 0);
    let_settle(&self, &other);
    CHECK_EQ(self.eofs, 1);
    CHECK_EQ(tepal_transport_start_tls(self.transport,
                                       TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"),
                                       &future),
             TEPAL_ECLOSED);
    part(&self, &other);
    tepal_tls_context_unref(context);
}
