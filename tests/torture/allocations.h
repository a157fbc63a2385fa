/*
 * What the scenarios of failing allocations share. A scenario is a function over the public API that uses one trial's
 * loop. It is run with the first, second, third, ... allocation of that loop failing, until it makes none more; only
 * the loop's allocator fails, never libc's. allocations.c runs them and says what must hold after each.
 *
 * Every public function is called by some scenario: tests/checks/allocations.py compares.
 */
#ifndef TEPAL_TESTS_ALLOCATIONS_H
#define TEPAL_TESTS_ALLOCATIONS_H

#include "harness/test.h"
#include <tepal.h>

typedef struct party party;

enum { TRIAL_FUTURES = 32, TRIAL_CROWD = 70 };

typedef struct trial {
    tepal_loop *loop;
    party *newest; /* every protocol that was made; they live until the end of the trial */
    party *client; /* who sends what the next accepted connection receives */
    tepal_future *futures[TRIAL_FUTURES];
    size_t future_count;
    int refused;            /* accept_failed */
    int unwritten;          /* writes of parties that were refused */
    int reports;            /* to the exception handler, beside those that the scenario causes */
    bool expects_report;    /* the next one is the scenario's */
    bool is_finished;       /* the scenario has come to its last line */
    bool failed_in_child;   /* an allocation failed in a process that the scenario forked */
    int crowd[TRIAL_CROWD]; /* descriptors that only take numbers away, so that tables by number have to grow */
} trial;

/* One end of a connection. Clients and servers each send a stream of which every byte is known. */
struct party {
    tepal_protocol protocol; /* first */
    trial *trial;
    party *next;                 /* of the trial's */
    party *peer;                 /* whose stream comes here */
    tepal_transport *transport;  /* a reference; NULL: it was never made */
    uint64_t incoming, outgoing; /* the seeds of the streams */
    uint64_t received, sent;
    int made, lost, eofs;
    bool is_adopted; /* connection_made is sure to come, for the transport exists */
    bool is_tcp;
    bool pauses;  /* reading, in data_received */
    bool answers; /* sends as many bytes as came */
};

typedef void (*allocation_scenario)(trial *self);

/* Fail each allocation of the scenario in turn: once, and from then on. */
void allocations_fail_in_turn(allocation_scenario scenario, bool debug);

/*
 * A scenario on each driver, on a debug loop, where invariants are checked, and on a plain one, where the quick paths
 * are taken.
 */
#define ALLOCATION_TEST(name, scenario)                                                                                \
    TEST_DRIVERS(allocations, name) {                                                                                  \
        allocations_fail_in_turn(scenario, true);                                                                      \
    }                                                                                                                  \
    TEST_DRIVERS(allocations, name##_without_debug) {                                                                  \
        allocations_fail_in_turn(scenario, false);                                                                     \
    }

/*
 * Whether a call worked. It must, unless an allocation has failed before or in it; then its code has to be one that
 * follows from that.
 */
#define WORKED(call) trial_worked(__FILE__, __LINE__, #call, (intmax_t)(call))
bool trial_worked(const char *file, int at, const char *call, intmax_t code);

/* The trial's from here on: at its end it must be done. */
void trial_keep(trial *self, tepal_future *future);

/* Turn the loop until the condition holds, which it must whatever failed. */
#define TRIAL_UNTIL(self, condition)                                                                                   \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            CHECK_OK(tepal_loop_step((self)->loop, TEPAL_MS(100)));                                                    \
        }                                                                                                              \
    } while (0)

/* Turn the loop until it has nothing to do at once. */
void trial_settle(trial *self);

/* A protocol of this trial's, and as factories, whose argument is the trial. */
party *party_new(trial *self, bool is_client);
int party_client(void *argument, tepal_protocol **protocol);
int party_server(void *argument, tepal_protocol **protocol);

/* Two adopted ends of one connection, client and server; or false. Both are made. */
bool party_pair(trial *self, bool is_tcp, party **client, party **server);
/* Write the next bytes of its stream. */
void party_write(party *self, size_t length);
/* The same bytes for other ways to write: add to sent what was accepted. */
void party_fill(const party *self, void *data, size_t length);
/* Whether what was sent has come, or never will. */
bool party_has_all(const party *self);

/* For servers: counts what could not be accepted. */
void trial_refused(void *argument, const tepal_error *error);

#endif
