/*
 * Every system call of every driver fails in turn with each errno that its manual page lists, and reads, sends and waits
 * are short in turn, at every occurrence in the scenes of scenes_*.c. Whatever fails, no invariant breaks, connections
 * that were made are lost once, futures are done, streams are prefixes, and the loop gives back all it had. What a
 * program need not notice (EINTR, EAGAIN, short counts, an accept of a connection that is gone ...) changes nothing.
 *
 * One run after the other: TEST_SOAK=1 makes all, otherwise every STRIDE-th and the first of each call and errno.
 * TEST_FAULT="echo tcp: recv 3" makes only those whose description begins so; TEST_FAULTS_LOG names a file to which the
 * figures are added.
 */
#include "torture/stage.h"
#include "conformance/system_calls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    STRIDE = 29,  /* of a short programme: no multiple of what repeats in it */
    ERRORS = 140, /* errno values are below */
    LENGTHS = 4
};

typedef struct programme {
    const char *title;
    bool complete;
    const char *only; /* of the environment, or NULL */
    uint64_t position;
    bool seen[SYSTEM_CALLS][ERRORS]; /* [0]: cut short */
    size_t hits[SYSTEM_CALLS];
    size_t runs, total;
} programme;

/* What is being played stands at the beginning of the test's output, where it is found after a crash, too. */
static void tell(const char *text) {
    char padded[160];

    snprintf(padded, sizeof padded, "%-158s\n", text);
    if (pwrite(STDOUT_FILENO, padded, sizeof padded - 1, 0) < 0) {
        errno = 0; /* a terminal: the debugger knows */
    }
}

static void describe(char *text, size_t size, const scene *played, const fault *plan) {
    if (plan->error != 0) {
        snprintf(text, size, "%s: %s %zu %s", played->name, system_call_name(plan->call), plan->occurrence,
                 strerrorname_np(plan->error));
    } else {
        snprintf(text, size, "%s: %s %zu length %zu", played->name, system_call_name(plan->call), plan->occurrence,
                 plan->length);
    }
}

static bool is_chosen(programme *self, const char *text, const fault *plan) {
    bool *seen = &self->seen[plan->call][plan->error];
    const bool first = !*seen;

    if (self->only != NULL) {
        return strncmp(text, self->only, strlen(self->only)) == 0;
    }
    self->position++;
    return self->complete || first || self->position % STRIDE == 0;
}

static void play_with(programme *self, const scene *played, const fault *plan) {
    char text[120];

    describe(text, sizeof text, played, plan);
    if (!is_chosen(self, text, plan)) {
        return;
    }
    tell(text);
    self->runs++;
    if (stage_play(played, plan, plan->error != 0 && !call_error_passes(plan->call, plan->error))) {
        self->seen[plan->call][plan->error] = true;
        self->hits[plan->call]++;
        self->total++;
    }
}

/* Fewer bytes, or events, than it gave when nothing was wrong. */
static void play_short(programme *self, const scene *played, fault plan, int64_t result) {
    const int64_t lengths[LENGTHS] = {1, 2, result / 2, result - 1};

    for (int i = 0; i < LENGTHS; i++) {
        bool again = lengths[i] < 1 || lengths[i] >= result;
        for (int before = 0; before < i; before++) {
            again = again || lengths[before] == lengths[i];
        }
        if (!again) {
            plan.length = (size_t)lengths[i];
            play_with(self, played, &plan);
        }
    }
}

static void play_scene(programme *self, const scene *played) {
    static size_t counts[SYSTEM_CALLS];
    static int64_t results[SYSTEM_CALLS][FAULTS_REMEMBERED + 1];

    tell(played->name);
    CHECK(!stage_play(played, NULL, false));
    for (int call = 0; call < SYSTEM_CALLS; call++) {
        counts[call] = faults_count((system_call)call);
        CHECK_LE(counts[call], FAULTS_REMEMBERED);
        for (size_t n = 1; n <= counts[call]; n++) {
            results[call][n] = faults_returned((system_call)call, n);
        }
    }
    for (int call = 0; call < SYSTEM_CALLS; call++) {
        for (size_t n = 1; n <= counts[call]; n++) {
            fault plan = {.call = (system_call)call, .occurrence = n};
            for (const int *error = call_errors(plan.call); *error != 0; error++) {
                plan.error = *error;
                play_with(self, played, &plan);
            }
            plan.error = 0;
            if (call_has_length(plan.call)) {
                play_short(self, played, plan, results[call][n]);
            }
        }
    }
}

static void report(const programme *self) {
    const char *path = getenv("TEST_FAULTS_LOG");
    FILE *log = path == NULL ? stdout : fopen(path, "ae");

    CHECK(log != NULL);
    for (int call = 0; call < SYSTEM_CALLS; call++) {
        if (self->hits[call] > 0) {
            fprintf(log, "%s %s %s %zu\n", test_driver(), self->title, system_call_name((system_call)call),
                    self->hits[call]);
        }
    }
    fprintf(log, "%s %s total %zu of %zu\n", test_driver(), self->title, self->total, self->runs);
    if (log != stdout) {
        fclose(log);
    }
}

/* What a test plays, and which calls it must have let fail in every way. */
typedef struct act {
    const char *title;
    const scene *scenes;
    size_t least;               /* faults in the complete programme, on the driver with the fewest */
    system_call calls[16];      /* of every driver; SYSTEM_CALLS: no more */
    bool all_calls_of_a_driver; /* and all that are its own */
} act;

static const system_call calls_of_epoll[] = {CALL_dup3,         CALL_epoll_create1, CALL_epoll_ctl,
                                             CALL_epoll_pwait2, CALL_epoll_wait,    SYSTEM_CALLS};
static const system_call calls_of_uring[] = {CALL_io_uring_enter, CALL_io_uring_register, CALL_io_uring_setup,
                                             CALL_mmap, SYSTEM_CALLS};
static const system_call calls_of_poll[] = {CALL_ppoll, CALL_read, SYSTEM_CALLS};

/* Each has failed with every errno it has. (Which wake-ups a thread makes is a matter of luck, so not all are asked for.) */
static void check_calls(const programme *self, const system_call *calls) {
    for (; *calls != SYSTEM_CALLS; calls++) {
        for (const int *error = call_errors(*calls); *error != 0; error++) {
            if (!self->seen[*calls][*error]) {
                test_fail(__FILE__, __LINE__, "%s never failed with %s", system_call_name(*calls),
                          strerrorname_np(*error));
            }
        }
    }
}

static void play_all(const act *played) {
    programme *self = calloc(1, sizeof *self);

    CHECK(self != NULL);
    self->title = played->title;
    self->complete = test_rounds(1, 0) == 1;
    self->only = getenv("TEST_FAULT");
    closes_must_be_good();
    (void)test_directory();
    for (const scene *next = played->scenes; next->name != NULL; next++) {
        play_scene(self, next);
    }
    report(self);
    if (self->only == NULL) {
        check_calls(self, played->calls);
        if (played->all_calls_of_a_driver) {
            check_calls(self, strcmp(test_driver(), "poll") == 0    ? calls_of_poll
                              : strcmp(test_driver(), "uring") == 0 ? calls_of_uring
                                                                    : calls_of_epoll);
        }
        CHECK(!self->complete || self->total >= played->least);
    }
    free(self);
}

TEST_DRIVERS(system_calls, each_that_fails_or_is_short_while_clients_are_served_is_survived) {
    static const act played = {
        .title = "connections",
        .scenes = scenes_of_connections,
        .least = 14000,
        .calls = {CALL_accept4, CALL_bind, CALL_close, CALL_connect, CALL_getsockname, CALL_getsockopt, CALL_ioctl,
                  CALL_listen, CALL_recv, CALL_sendmsg, CALL_setsockopt, CALL_shutdown, CALL_socket, SYSTEM_CALLS},
    };
    play_all(&played);
}

TEST_DRIVERS(system_calls, each_that_fails_or_is_short_while_streams_flow_is_survived) {
    static const act played = {
        .title = "streams",
        .scenes = scenes_of_streams,
        .least = 4500,
        .calls = {CALL_fcntl, CALL_getpeername, CALL_recv, CALL_sendmsg, CALL_setsockopt, SYSTEM_CALLS},
    };
    play_all(&played);
}

TEST_DRIVERS(system_calls, each_that_fails_while_servers_and_connections_come_about_is_survived) {
    static const act played = {
        .title = "servers",
        .scenes = scenes_of_servers,
        .least = 2500,
        .calls = {CALL_if_nametoindex, CALL_lstat, CALL_pthread_create, CALL_unlink, SYSTEM_CALLS},
    };
    play_all(&played);
}

TEST_DRIVERS(system_calls, each_that_fails_or_is_short_while_a_loop_works_is_survived) {
    static const act played = {
        .title = "loops",
        .scenes = scenes_of_loops,
        .least = 1100,
        .calls = {CALL_eventfd, CALL_fstat, CALL_getrandom, CALL_sigaction, CALL_write, SYSTEM_CALLS},
        .all_calls_of_a_driver = true,
    };
    play_all(&played);
}

#ifdef TPI_HAVE_TLS
TEST_DRIVERS(system_calls, each_that_fails_or_is_short_under_tls_is_survived) {
    static const act played = {
        .title = "tls",
        .scenes = scenes_of_tls,
        .least = 1000,
        .calls = {CALL_accept4, CALL_recv, CALL_sendmsg, CALL_shutdown, SYSTEM_CALLS},
    };
    play_all(&played);
}
#endif
