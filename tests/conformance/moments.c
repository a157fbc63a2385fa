/* Every moment at which connecting can be cancelled, run out of time, or see the loop closed or forked. FIELD row 7. */
#include "conformance/peers.h"
#include "unit/resolver_stub.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int dial(peers *all, const tepal_connect_options *options, tepal_future **future) {
    return tepal_loop_create_connection(all->loop, peers_factory, all, options, future);
}

/* A listener whose backlog is full: whoever connects now waits for an answer. Its sockets stay open. */
static uint16_t silent_port(int fds[8]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint16_t port;

    fds[0] = plain_bound(&port);
    CHECK_EQ(listen(fds[0], 0), 0);
    address.sin_port = htons(port);
    for (int i = 1; i < 8; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK_GE(fds[i], 0);
        CHECK_EQ(connect(fds[i], (const struct sockaddr *)&address, sizeof address), -1);
        CHECK_EQ(errno, EINPROGRESS);
    }
    return port;
}

static void close_all(const int fds[8]) {
    for (int i = 0; i < 8; i++) {
        close(fds[i]);
    }
}

TEST_DRIVERS(connect, the_limit_covers_a_peer_that_never_answers) {
    int fds[8];
    const uint16_t port = silent_port(fds);
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    const int64_t began_ns = test_now_ns();

    CHECK_OK(dial(&all,
                  TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port, .limit_ns = TEPAL_MS(60)),
                  &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_ETIMEDOUT);
    CHECK_GE(test_now_ns() - began_ns, TEPAL_MS(60));
    CHECK(tepal_future_error(future)->address != NULL);
    CHECK_EQ(tepal_address_port(tepal_future_error(future)->address), port);
    tepal_future_unref(future);
    close_all(fds);
    peers_close(&all);
}

/* The moments of a connection, in the order in which they come. */
enum moment { QUEUED, RESOLVING, CONNECTING, CONNECTED_UNSEEN, MOMENTS };

typedef struct stage {
    peers all;
    int fds[8];
    int listener;
    uint16_t port;
    tepal_future *future;
} stage;

static void stage_open(stage *self, enum moment moment) {
    const char *host = moment == RESOLVING ? "slow.stub" : "127.0.0.1";

    peers_open(&self->all);
    if (moment == CONNECTING) {
        self->port = silent_port(self->fds);
    } else {
        self->listener = plain_bound(&self->port);
        CHECK_EQ(listen(self->listener, 4), 0);
    }
    CHECK_OK(dial(&self->all,
                  TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = self->port, .limit_ns = TEPAL_SEC(30)),
                  &self->future));
    if (moment != QUEUED) {
        CHECK_OK(tepal_loop_step(self->all.loop, 0));
    }
    if (moment == RESOLVING) {
        resolver_stub_wait();
    }
    CHECK(!tepal_future_is_done(self->future));
}

/* Let a thread go that stands in the way of closing the loop. */
static void stage_release(enum moment moment) {
    if (moment == RESOLVING) {
        resolver_stub_release();
    }
}

static void stage_close(stage *self, enum moment moment) {
    CHECK_STR(self->all.log, "");
    tepal_future_unref(self->future);
    peers_free(&self->all);
    if (moment == CONNECTING) {
        close_all(self->fds);
        return;
    }
    if (moment == CONNECTED_UNSEEN) { /* closed without a word */
        char byte;
        const int accepted = accept(self->listener, NULL, NULL);
        CHECK_GE(accepted, 0);
        CHECK_EQ(read(accepted, &byte, 1), 0);
        close(accepted);
    }
    close(self->listener);
}

static void canceled_once(tepal_future *future, void *argument) {
    CHECK(tepal_future_is_canceled(future));
    (*(int *)argument)++;
}

TEST_DRIVERS(connect, can_be_cancelled_at_every_moment) {
    for (enum moment moment = QUEUED; moment < MOMENTS; moment++) {
        stage self = {0};
        int told = 0;
        stage_open(&self, moment);
        CHECK_OK(tepal_future_add_done_callback(self.future, canceled_once, &told));

        CHECK(tepal_future_cancel(self.future));
        CHECK(!tepal_future_cancel(self.future));
        stage_release(moment);
        peers_settle(&self.all);
        CHECK_EQ(told, 1);
        peers_close_loop(&self.all);
        stage_close(&self, moment);
    }
}

TEST_DRIVERS(connect, fails_once_when_the_loop_closes_at_any_moment) {
    for (enum moment moment = QUEUED; moment < MOMENTS; moment++) {
        stage self = {0};
        stage_open(&self, moment);
        stage_release(moment);
        peers_close_loop(&self.all);
        CHECK_EQ(tepal_future_result(self.future, NULL), TEPAL_ECLOSED);
        stage_close(&self, moment);
    }
}

TEST_DRIVERS(connect, goes_on_whatever_a_forked_child_does_with_the_loop) {
    for (enum moment moment = QUEUED; moment < MOMENTS; moment++) {
        stage self = {0};
        stage_open(&self, moment);
        const pid_t child = fork();
        if (child == 0) {
            CHECK_OK(tepal_loop_close(self.all.loop));
            CHECK_NE(tepal_future_result(self.future, NULL), TEPAL_EPENDING);
            tepal_future_unref(self.future);
            tepal_loop_unref(self.all.loop);
            CHECK_EQ(test_alloc_live(), 0);
            _exit(0);
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        stage_release(moment);
        if (moment != CONNECTING) {
            CHECK_EQ(peers_wait(&self.all, self.future), 0);
            CHECK_EQ(self.all.made, 1);
        }
        peers_close_loop(&self.all);
        memset(self.all.log, 0, sizeof self.all.log);
        stage_close(&self, moment);
    }
}

static void cancel_from_inside(peers *all) {
    CHECK(tepal_future_cancel(all->user));
}

static void cancel_when_made(peers *all, peer *self) {
    (void)self;
    cancel_from_inside(all);
}

TEST_DRIVERS(connect, cancelled_by_the_factory_or_connection_made_it_ends_through_connection_lost) {
    for (int round = 0; round < 2; round++) {
        uint16_t port;
        peers all = {0};
        peers_open(&all);
        const int listener = plain_bound(&port);
        CHECK_EQ(listen(listener, 1), 0);
        all.in_factory = round == 0 ? cancel_from_inside : NULL;
        all.when_made = round == 1 ? cancel_when_made : NULL;
        tepal_future *future = peers_dial(&all, port);
        all.user = future;

        PEERS_UNTIL(&all, all.lost == 1);
        CHECK_EQ(all.newest->lost_code, TEPAL_ECANCELED);
        CHECK(tepal_future_is_canceled(future));
        tepal_future_unref(future);
        peers_close(&all);
        close(listener);
    }
}

TEST_DRIVERS(connect, the_limit_covers_a_resolver_that_never_answers) {
    tepal_future *future;
    peers all = {0};
    peers_open(&all);

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "slow.stub", .port = 1, .limit_ns = TEPAL_MS(400)),
                  &future));
    CHECK_OK(tepal_loop_step(all.loop, 0)); /* asks the resolver, long before the limit ... */
    resolver_stub_wait();                   /* ... which has begun, however late: what has not begun never would */
    CHECK_EQ(peers_wait(&all, future), TEPAL_ETIMEDOUT);
    resolver_stub_release();
    tepal_future_unref(future);
    peers_close(&all);
}
