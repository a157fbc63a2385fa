/*
 * Ends of TLS that come at once or late, in the middle of something, or in a forked child; and contexts that threads share.
 */
#include "conformance/tls_peer.h"

#include <openssl/err.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Ends ---- */

/* All in one segment: the end of the handshake, data, close_notify, FIN. */
static void say_all_and_leave(bool is_tcp) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(true);
        one_end self = {0};
        stranger other = {.fd = -1, .is_tcp = is_tcp};

        stranger_open(&other, false, version);
        other.holds_tickets = version == TLS1_3_VERSION; /* the client's last words are the last of all */
        if (version == TLS1_3_VERSION) {
            begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context));
            UNTIL(&self, &other, other.is_holding);
        } else {
            join(&self, &other, context, NULL);
            UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
        }
        CHECK_EQ(SSL_write(other.ssl, "all of it", 9), 9);
        CHECK_EQ(SSL_shutdown(other.ssl), 0);
        (void)stranger_give(&other, SIZE_MAX);
        close(other.fd);
        other.fd = -1;
        const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(5);
        while (self.losts == 0 && self.eofs == 0 && test_now_ns() < give_up_ns) {
            CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        }
        CHECK_EQ(self.received, 9);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_corners, a_client_that_says_all_at_once_and_leaves_is_heard) {
    say_all_and_leave(true);
    say_all_and_leave(false);
}

static void pause_now(one_end *self) {
    CHECK_OK(tepal_transport_pause_reading(self->transport));
}

/* An end that comes while there is more than was taken: all of it first. */
SCRIPT_TEST(tls_corners, an_end_that_comes_while_paused_waits_for_what_was_kept) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {.on_data = pause_now};
        stranger other = {.fd = -1};
        static char data[16384];

        stranger_open(&other, true, version);
        join(&self, &other, context, "localhost");
        let_settle(&self, &other);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(SSL_write(other.ssl, data, sizeof data), sizeof data);
        }
        CHECK_EQ(SSL_shutdown(other.ssl), 0);
        (void)stranger_give(&other, SIZE_MAX);
        CHECK_EQ(shutdown(other.fd, SHUT_WR), 0);
        for (int i = 0; i < 20 && self.eofs == 0; i++) {
            let_settle(&self, &other);
            CHECK_OK(self.eofs == 1 ? 0 : tepal_transport_resume_reading(self.transport));
        }
        CHECK_EQ(self.received, 3 * sizeof data);
        CHECK_EQ(self.eofs, 1);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

/* What somebody else has left in OpenSSL's queue of errors is not ours. */
SCRIPT_TEST(tls_corners, errors_that_the_program_left_are_no_errors_here) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, 0);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"));
    for (int i = 0; i < 20; i++) {
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        stranger_move(&other);
    }
    CHECK_EQ(self.made, 1);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    CHECK_OK(tepal_transport_write(self.transport, "data", 4));
    CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
    let_settle(&self, &other);
    CHECK_STR(stranger_reads(&other), "data");
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    CHECK_EQ(SSL_shutdown(other.ssl), 0);
    (void)stranger_give(&other, SIZE_MAX);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    while (tepal_loop_step(self.loop, TEPAL_MS(1)) == 1 || self.eofs == 0) {
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    }
    CHECK_EQ(self.received, 4);
    ERR_clear_error();
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* ---- Forked children ---- */

enum fork_state { FORK_SHAKING, FORK_EARLY, FORK_WAITING, FORK_PAUSED, FORK_STATES };

static void bring_to(one_end *self, stranger *other, tepal_tls_context *context, enum fork_state state) {
    tepal_tls_options options = {.size = sizeof options, .context = context, .server_name = "localhost"};

    if (state == FORK_SHAKING) {
        begin(self, other, &options);
        CHECK_OK(tepal_loop_step(self->loop, 0));
    } else if (state == FORK_PAUSED) {
        self->on_data = pause_now;
        join(self, other, context, "localhost");
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(SSL_write(other->ssl, "data", 4), 4);
            let_settle(self, other);
        }
        CHECK_EQ(self->received, 4);
        CHECK_OK(tepal_transport_resume_reading(self->transport));
    } else {
        begin(self, other, NULL);
        UNTIL(self, other, self->made == 1);
        options.unread = "\x16\x03";
        options.unread_length = state == FORK_EARLY ? 2 : 0;
        CHECK_OK(tepal_transport_start_tls(self->transport, &options, &self->upgraded));
        if (state == FORK_WAITING) {
            CHECK_OK(tepal_transport_write(self->transport, "data", 4));
            CHECK_OK(tepal_loop_step(self->loop, 0));
        }
    }
}

static void let_futures_go(one_end *self) {
    tepal_future *futures[] = {self->future, self->upgraded};
    for (int i = 0; i < 2; i++) {
        if (futures[i] != NULL) {
            (void)tepal_future_error(futures[i]);
            tepal_future_unref(futures[i]);
        }
    }
    tepal_transport_unref(self->transport);
}

SCRIPT_TEST(tls_corners, a_forked_child_may_close_the_loop_in_any_state) {
    for (enum fork_state state = 0; state < FORK_STATES; state++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};
        int status;

        stranger_open(&other, true, 0);
        const intmax_t before = (intmax_t)test_alloc_live(); /* the context's */
        bring_to(&self, &other, context, state);
        const pid_t child = fork();
        if (child == 0) {
            const int made = self.made;
            CHECK_OK(tepal_loop_close(self.loop));
            CHECK_EQ(self.made, made);
            CHECK_EQ(self.losts, 0);
            let_futures_go(&self);
            tepal_loop_unref(self.loop);
            CHECK_EQ(test_alloc_live(), before);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK_OK(tepal_loop_close(self.loop));
        CHECK_EQ(self.losts, self.made);
        let_futures_go(&self);
        tepal_loop_unref(self.loop);
        stranger_close(&other);
        CHECK_EQ(test_alloc_live(), before);
        tepal_tls_context_unref(context);
    }
}

/* ---- Threads ---- */

typedef struct thread_work {
    pthread_t thread;
    tepal_tls_context *client, *server;
    int rounds;
} thread_work;

static void *connect_often(void *argument) {
    thread_work *work = argument;
    for (int i = 0; i < work->rounds; i++) {
        tepal_loop *loop;
        one_end ends[2] = {0};
        int fds[2];
        CHECK_OK(tepal_loop_new(&loop, NULL));
        test_socketpair(fds);
        for (int side = 0; side < 2; side++) {
            ends[side].protocol.type = &one_end_type;
            ends[side].loop = loop;
            CHECK_OK(tepal_loop_create_connection(
                loop, one_end_factory, &ends[side],
                TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[side],
                              .tls =
                                  TEPAL_OPTIONS(tepal_tls_options, .context = side == 0 ? work->client : work->server,
                                                .server_name = side == 0 ? "www.example.org" : NULL)),
                &ends[side].future));
        }
        while (!tepal_future_is_done(ends[0].future) || !tepal_future_is_done(ends[1].future)) {
            CHECK_OK(tepal_loop_step(loop, TEPAL_MS(10)));
        }
        for (int side = 0; side < 2; side++) {
            CHECK_OK(tepal_future_result(ends[side].future, NULL));
            CHECK_OK(tepal_transport_write(ends[side].transport, "data", 4));
        }
        while (ends[0].received < 4 || ends[1].received < 4) {
            CHECK_OK(tepal_loop_step(loop, TEPAL_MS(10)));
        }
        CHECK_OK(tepal_loop_close(loop));
        for (int side = 0; side < 2; side++) {
            let_futures_go(&ends[side]);
        }
        tepal_loop_unref(loop);
    }
    return NULL;
}

TEST(tls_corners, contexts_are_shared_by_threads_and_reloaded_meanwhile) {
    tepal_tls_context *client = usual_context(false), *server = usual_context(true), *named = usual_context(true);
    thread_work works[3];

    CHECK_OK(tepal_tls_context_add_name(server, "*.example.org", named));
    for (int i = 0; i < 3; i++) {
        works[i] = (thread_work){.client = client, .server = server, .rounds = 20};
        CHECK_EQ(pthread_create(&works[i].thread, NULL, connect_often, &works[i]), 0);
    }
    for (int i = 0; i < 40; i++) {
        CHECK_OK(tepal_tls_context_reload(i % 2 == 0 ? client : named, NULL, NULL, 0));
        CHECK_OK(tepal_tls_context_add_name(server, "www.example.org", i % 4 == 0 ? NULL : named));
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(works[i].thread, NULL), 0);
    }
    tepal_tls_context_unref(client);
    tepal_tls_context_unref(server);
    tepal_tls_context_unref(named);
}
