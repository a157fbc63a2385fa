/*
 * Every allocation of a loop fails in turn. Whatever the scenario, and whichever call it hits: nothing crashes, no
 * invariant breaks, every connection that was made is lost once, every future gets done, what is delivered is a prefix
 * of what was sent, and after the loop's end no memory and no descriptor is left. Where nothing fails, everything works.
 */
#include "torture/allocations.h"
#include "conformance/plumbing.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_ALLOCATIONS = 1000, CLIENT = 1, SERVER = 2 };

/* ---- What follows from a failure, and what does not ---- */

bool trial_worked(const char *file, int at, const char *call, intmax_t code) {
    if (code >= 0) {
        return true;
    }
    if (!test_alloc_has_failed()) {
        test_check_ok(file, at, call, code);
    }
    if (code != TEPAL_ENOMEM && code != TEPAL_ECLOSED && code != TEPAL_EPIPE && code != TEPAL_ECANCELED &&
        code != TEPAL_SYSTEM(ECONNRESET) && code != TEPAL_ETRUNCATED &&
        code != TEPAL_ETLS_ENDED) { /* the other end had none */
        test_fail(file, at, "%s gave %s, which does not follow from want of memory", call, tepal_error_name((int)code));
    }
    return false;
}

static void report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    trial *self = argument;

    CHECK(loop == self->loop);
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD) {
        test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
    }
    self->reports += !self->expects_report;
    self->expects_report = false;
}

void trial_refused(void *argument, const tepal_error *error) {
    CHECK_EQ(error->code, TEPAL_ENOMEM);
    ((trial *)argument)->refused++;
}

void trial_keep(trial *self, tepal_future *future) {
    CHECK_LT(self->future_count, TRIAL_FUTURES);
    self->futures[self->future_count++] = future;
}

void trial_settle(trial *self) {
    for (int turns = 0, idle = 0; idle < 3; turns++) {
        const int more = tepal_loop_step(self->loop, 0);
        CHECK_OK(more);
        idle = more ? 0 : idle + 1;
        CHECK_LT(turns, 10000);
    }
}

/* ---- Parties ---- */

static int party_made(tepal_protocol *protocol, tepal_transport *transport) {
    party *self = (party *)protocol;

    CHECK_EQ(self->made++, 0);
    if (self->transport == NULL) {
        self->transport = tepal_transport_ref(transport);
    }
    CHECK(self->transport == transport);
    return 0;
}

static int party_received(tepal_protocol *protocol, const void *data, size_t length) {
    party *self = (party *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->eofs, 0);
    CHECK_EQ(self->lost, 0);
    stream_check(self->incoming, self->received, data, length);
    self->received += length;
    if (self->pauses) {
        (void)WORKED(tepal_transport_pause_reading(self->transport));
    }
    if (self->answers) {
        party_write(self, length);
    }
    return 0;
}

static int party_eof(tepal_protocol *protocol) {
    party *self = (party *)protocol;

    CHECK_EQ(self->eofs++, 0);
    CHECK_EQ(self->lost, 0);
    if (self->is_tcp) { /* where an end that is not clean can be told from one that is */
        CHECK_EQ(self->received, self->peer->sent);
    }
    return self->answers ? 0 : TEPAL_KEEP_OPEN;
}

static void party_lost(tepal_protocol *protocol, const tepal_error *error) {
    party *self = (party *)protocol;

    (void)error;
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost++, 0);
}

static const tepal_protocol_type party_type = {
    .size = sizeof party_type,
    .connection_made = party_made,
    .data_received = party_received,
    .eof_received = party_eof,
    .connection_lost = party_lost,
};

party *party_new(trial *self, bool is_client) {
    party *made = calloc(1, sizeof *made);

    CHECK(made != NULL);
    made->protocol.type = &party_type;
    made->trial = self;
    made->incoming = is_client ? SERVER : CLIENT;
    made->outgoing = is_client ? CLIENT : SERVER;
    made->next = self->newest;
    self->newest = made;
    return made;
}

int party_client(void *argument, tepal_protocol **protocol) {
    trial *self = argument;

    self->client = party_new(self, true);
    self->client->is_adopted = true;
    *protocol = &self->client->protocol;
    return 0;
}

int party_server(void *argument, tepal_protocol **protocol) {
    party *made = party_new(argument, false);

    made->is_adopted = true;
    made->answers = true;
    *protocol = &made->protocol;
    return 0;
}

static bool adopt(party *self, int fd) {
    tepal_transport *transport;
    const int code = tepal_loop_adopt(self->trial->loop, fd, &self->protocol, NULL, &transport);

    if (!WORKED(code)) {
        close(fd);
        return false;
    }
    self->is_adopted = true;
    self->transport = tepal_transport_ref(transport);
    return true;
}

bool party_pair(trial *self, bool is_tcp, party **client, party **server) {
    int fds[2];

    *client = party_new(self, true);
    *server = party_new(self, false);
    (*client)->peer = *server;
    (*server)->peer = *client;
    (*client)->is_tcp = (*server)->is_tcp = is_tcp;
    if (is_tcp) {
        test_tcp_pair(fds);
    } else {
        test_socketpair(fds);
    }
    const bool first = adopt(*client, fds[0]);
    const bool second = adopt(*server, fds[1]);
    TRIAL_UNTIL(self, (*client)->made == first && (*server)->made == second);
    return first && second;
}

void party_fill(const party *self, void *data, size_t length) {
    stream_fill(self->outgoing, self->sent, data, length);
}

void party_write(party *self, size_t length) {
    static uint8_t data[300000];

    CHECK_LE(length, sizeof data);
    party_fill(self, data, length);
    if (WORKED(tepal_transport_write(self->transport, data, length))) {
        self->sent += length;
    } else {
        self->trial->unwritten++;
    }
}

bool party_has_all(const party *self) {
    return self->received == self->peer->sent || self->lost == 1 || self->peer->lost == 1 || self->eofs == 1;
}

/* ---- A trial ---- */

static void take_numbers(trial *self) {
    for (int i = 0; i < TRIAL_CROWD; i++) {
        self->crowd[i] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
        CHECK_GE(self->crowd[i], 0);
    }
}

static void give_numbers_back(const trial *self) {
    for (int i = 0; i < TRIAL_CROWD; i++) {
        close(self->crowd[i]);
    }
}

/* The loop is closed: nothing may be under way any more. */
static void check_parties(const trial *self) {
    for (const party *each = self->newest; each != NULL; each = each->next) {
        CHECK_EQ(each->made, each->is_adopted);
        CHECK_EQ(each->lost, each->made);
        if (each->peer != NULL) {
            CHECK_LE(each->received, each->peer->sent);
        }
    }
}

static void end_trial(trial *self) {
    CHECK_OK(tepal_loop_close(self->loop));
    check_parties(self);
    while (self->newest != NULL) {
        party *gone = self->newest;
        self->newest = gone->next;
        tepal_transport_unref(gone->transport);
        free(gone);
    }
    while (self->future_count > 0) {
        tepal_future *future = self->futures[--self->future_count];
        CHECK(tepal_future_is_done(future));
        (void)tepal_future_error(future);
        tepal_future_unref(future);
    }
    tepal_loop_unref(self->loop);
}

/* Whether an allocation failed. */
static bool try_once(allocation_scenario scenario, bool debug, size_t n, bool onwards) {
    const int descriptors = test_fd_count();
    trial self = {.loop = NULL};

    test_alloc_fail_at(n, onwards);
    const int code = tepal_loop_new(&self.loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(),
                                                              .debug = debug, .slow_callback_ns = -1,
                                                              .executor_threads = 2, .realloc = test_counting_alloc));
    if (WORKED(code)) {
        tepal_loop_set_exception_handler(self.loop, report, &self);
        take_numbers(&self);
        scenario(&self);
        end_trial(&self);
        give_numbers_back(&self);
    }
    const bool has_failed = test_alloc_has_failed() || self.failed_in_child;
    test_alloc_fail_at(0, false);
    CHECK_EQ(test_alloc_live(), 0);
    CHECK_EQ(test_fd_count(), descriptors);
    if (!has_failed) {
        CHECK(self.is_finished);
        CHECK_EQ(self.reports, 0);
        CHECK_EQ(self.refused, 0);
    }
    return has_failed;
}

void allocations_fail_in_turn(allocation_scenario scenario, bool debug) {
    test_set_timeout(60);
    for (int onwards = 0; onwards < 2; onwards++) {
        size_t n = 1;

        while (try_once(scenario, debug, n, onwards == 1)) {
            CHECK_LT(n, MOST_ALLOCATIONS);
            n++;
        }
        CHECK_GT(n, 3); /* those of the loop itself */
    }
}
