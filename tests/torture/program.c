/*
 * A random program: its hosts, what is checked after each turn, and how a seed begins, ends, and is told of when it
 * fails.
 */
#include "torture/program.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SECONDS_OF_A_SEED = 120 }; /* one that takes longer hangs; most take a thousandth of one */

static const char *const names[MOST_NAMES] = {"a", "b", "c", "d"};

/* ---- Chance, and failing ---- */

uint64_t below(random_program *self, uint64_t limit) {
    return tepal_sim_random(self->sim) % limit;
}

bool chance(random_program *self, uint64_t limit) {
    return below(self, limit) == 0;
}

void program_fail(const random_program *self, const char *file, int line, const char *format, ...) {
    const char *failure = tepal_sim_failure(self->sim);
    const unsigned long long seed = (unsigned long long)tepal_sim_seed(self->sim);
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    test_fail(file, line,
              "%s\n      seed %llu, at %lld ns of the network's time, turn %llu; %s\n"
              "      again: TEPAL_SIM_SEED=%llu TEST_TRACE=1 tests/run program/one_seed_holds_to_the_model",
              text, seed, (long long)tepal_sim_time(self->sim), (unsigned long long)self->turns,
              failure == NULL ? "the simulator found nothing" : failure, seed);
}

/* A crash or a sanitizer's report says nothing of the seed. */
static uint64_t current_seed;

static void tell_seed(void) {
    char text[64];
    const int length =
        snprintf(text, sizeof text, "\nseed %llu of the random program\n", (unsigned long long)current_seed);
    (void)!write(STDERR_FILENO, text, (size_t)length);
}

static void crashed(int number) {
    tell_seed();
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void watch_for_crashes(void) {
    (void)signal(SIGALRM, crashed);
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(tell_seed);
        return;
    }
    (void)signal(SIGSEGV, crashed);
    (void)signal(SIGBUS, crashed);
    (void)signal(SIGABRT, crashed);
    (void)signal(SIGFPE, crashed);
}

/* ---- Memory ---- */

/* The hosts' allocator fails by chance in some seeds; the network's own only counts. */
static struct {
    uint64_t state;
    unsigned rate; /* one in so many; 0: never */
} shortage;

static void *scarce(void *memory, size_t size) {
    if (size > 0 && shortage.rate > 0) {
        shortage.state = shortage.state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        if ((shortage.state >> 33) % shortage.rate == 0) {
            return NULL;
        }
    }
    return test_counting_alloc(memory, size);
}

bool program_worked(const random_program *self, int code, bool opens, const char *file, int line) {
    const bool is_short = code == TEPAL_ENOMEM && self->starves;
    const bool is_fault = opens && self->has_faults && (code == TEPAL_SYSTEM(EMFILE) || code == TEPAL_ENOMEM);

    if (code != 0 && !is_short && !is_fault) {
        program_fail(self, file, line, "a function returned %s (%s)", tepal_error_name(code), tepal_strerror(code));
    }
    return code == 0;
}

/* ---- Upcalls ---- */

const program_node *upcall_begins(program_node *node, bool may_be_inside) {
    random_program *program = node->program;
    const program_node *before = program->running;

    EXPECT(program, !node->is_closed);
    EXPECT(program, !node->has_crashed || node->is_closing);
    /* Those that may be inside a call may be inside the network's question for how long the loop may sleep, too. */
    EXPECT(program, may_be_inside || program->calls == 0);
    EXPECT(program, may_be_inside || node->is_closing || tepal_loop_is_running(node->loop));
    program->running = node;
    return before;
}

void upcall_ends(program_node *node, const program_node *before) {
    node->program->running = before;
}

/* ---- Hosts ---- */

bool node_is_up(const program_node *self) {
    return !self->is_closed && !self->has_crashed && !self->is_closing;
}

static void reported(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    const program_node *self = argument;

    EXPECT(self->program, loop == self->loop);
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD || error->code == TEPAL_ESLOW) {
        program_fail(self->program, __FILE__, __LINE__, "%s: %s", what, error->text);
    }
}

void node_add(random_program *self, int name) {
    const unsigned rate = shortage.rate;
    tepal_loop *loop = NULL;

    if (self->node_count == MOST_NODES) {
        return;
    }
    int code = CALL(self, tepal_sim_add_host(self->sim, names[name], &self->loop_options, &loop));
    if (!worked(self, code)) {
        shortage.rate = 0;
        EXPECT_EQ(self, CALL(self, tepal_sim_add_host(self->sim, names[name], &self->loop_options, &loop)), 0);
        shortage.rate = rate;
    }
    program_node *made = &self->nodes[self->node_count++];
    *made = (program_node){.program = self, .name = name, .loop = tepal_loop_ref(loop)};
    tepal_loop_set_exception_handler(loop, reported, made);
    self->by_name[name] = made;
}

static void check_end_of_node(const program_node *self) {
    const random_program *program = self->program;

    for (int i = 0; i < MOST_JOBS; i++) {
        EXPECT(program, !self->clocks[i].is_started);
        EXPECT(program, !self->chores[i].is_posted);
    }
    for (const program_end *one = program->ends; one != NULL; one = one->next) {
        if (one->node == self) {
            EXPECT_EQ(program, one->made, one->lost);
            EXPECT_EQ(program, one->layers, 0);
            EXPECT(program, one->feeder == NULL || !one->feeder->is_registered);
        }
    }
}

void program_node_close(program_node *self) {
    random_program *program = self->program;
    const int calls = program->calls;

    for (program_end *one = program->ends; one != NULL; one = one->next) {
        one->may_end = one->may_end || (one->node == self && !one->lost);
    }
    for (program_place *one = program->places; one != NULL; one = one->next) {
        one->is_closed = one->is_closed || one->node == self;
    }
    self->is_closing = true;
    program->calls = 0; /* upcalls are what this is for */
    EXPECT_EQ(program, tepal_loop_close(self->loop), 0);
    program->calls = calls;
    self->is_closed = true;
    self->is_closing = false;
    node_forget_calls(self);
    if (program->by_name[self->name] == self) {
        program->by_name[self->name] = NULL;
    }
    check_end_of_node(self);
    EXPECT_EQ(program, CALL(program, tepal_loop_call_soon(self->loop, NULL, NULL, NULL)), TEPAL_ECLOSED);
}

void node_crash(program_node *self) {
    random_program *program = self->program;
    char script[32];

    (void)snprintf(script, sizeof script, "crash %s", names[self->name]);
    EXPECT_EQ(program, CALL(program, tepal_sim_fault(program->sim, script)), 0);
    self->has_crashed = true;
    program->by_name[self->name] = NULL;
    for (program_place *one = program->places; one != NULL; one = one->next) {
        one->is_closed = one->is_closed || one->node == self;
    }
}

/* ---- After a turn ---- */

/* What pipes have moved is on its way now: it must be known before it arrives. */
static void take_pipes(random_program *self) {
    for (program_end *one = self->ends; one != NULL; one = one->next) {
        end_take_pipe(one);
    }
}

static int check(void *argument) {
    random_program *self = argument;

    if (++self->turns > 200000) {
        program_fail(self, __FILE__, __LINE__, "it goes on for ever");
    }
    take_pipes(self);
    for (const program_end *one = self->ends; one != NULL; one = one->next) {
        end_check(one);
    }
    return self->is_calm || self->turns < self->most_turns ? 0 : PROGRAM_IS_TIRED;
}

typedef struct trace {
    uint64_t hash, length;
    bool is_printed;
} trace;

typedef struct seed {
    random_program program; /* first: what the simulator's callbacks get */
    trace trace;
} seed;

static void traced(void *argument, const char *line) {
    trace *self = &((seed *)argument)->trace;

    for (const char *at = line; *at != '\0'; at++) {
        self->hash = (self->hash ^ (uint8_t)*at) * UINT64_C(1099511628211);
    }
    self->length += strlen(line) + 1;
    if (self->is_printed) {
        puts(line);
    }
}

/* ---- A seed ---- */

/* The run ended: with the time, with nothing left, or by what was allowed to end it. */
static int run(random_program *self, int64_t limit_ns) {
    const int code = tepal_sim_run(self->sim, limit_ns);
    const bool allowed = code >= 0 || (self->interrupted < 0 && code == self->interrupted) ||
                         (self->starves && code == TEPAL_ENOMEM) || (!self->is_calm && code == PROGRAM_IS_TIRED);

    take_pipes(self); /* nothing is checked after a turn that was interrupted */
    EXPECT_EQ(self, self->calls, 0);
    EXPECT(self, self->running == NULL);
    if (!allowed) {
        program_fail(self, __FILE__, __LINE__, "the run ended with %d (%s)", code, tepal_strerror(code));
    }
    return code;
}

static void choose(random_program *self) {
    static const size_t sizes[] = {30, 300, 3000, 30000};
    const uint64_t size = below(self, 4);

    self->most_bytes = sizes[size];
    self->bytes_left = 40 * self->most_bytes < 100000 ? 40 * self->most_bytes : 100000;
    self->names = 1 + (int)below(self, MOST_NAMES);
    self->most_turns = 3000;
    self->acts_left = 50 + (int)below(self, 400);
    self->mixes = chance(self, 2);
    self->has_faults = !chance(self, 3);
    self->enabled = (uint32_t)tepal_sim_random(self->sim);
    self->starves = chance(self, 4);
    shortage.state = tepal_sim_random(self->sim);
    shortage.rate = self->starves ? 20 + (unsigned)below(self, 400) : 0;
    self->loop_options = (tepal_loop_options){.size = sizeof(tepal_loop_options),
                                              .order = chance(self, 2) ? TEPAL_ORDER_SNAPSHOT : TEPAL_ORDER_DRAIN,
                                              .drain_limit = chance(self, 2) ? 0 : 1 + (unsigned)below(self, 5),
                                              .read_bytes = chance(self, 2) ? 0 : 4096,
                                              .realloc = scarce};
    acts_choose(self);
    if (self->has_faults && chance(self, 2)) {
        self->bytes_left = self->bytes_left / 10 + 1;
        EXPECT_EQ(self, tepal_sim_fault(self->sim, "random"), 0);
    }
}

static program_node *choose_node(random_program *self) {
    program_node *chosen = self->by_name[below(self, (uint64_t)self->names)];
    return chosen == NULL || !node_is_up(chosen) ? NULL : chosen;
}

static void live(random_program *self) {
    const int64_t slice_ns = chance(self, 2) ? TEPAL_MS(1) : chance(self, 2) ? TEPAL_MS(100) : TEPAL_SEC(5);

    for (int i = 0; i < 60 && self->acts_left > 0 && self->turns < self->most_turns; i++) {
        program_node *one = choose_node(self);
        if (one != NULL) {
            act_now(one, NULL, false);
        } else if (chance(self, 3)) {
            const int name = (int)below(self, (uint64_t)self->names);
            if (self->by_name[name] == NULL) {
                node_add(self, name);
            }
        }
        (void)run(self, (int64_t)below(self, (uint64_t)slice_ns));
    }
    self->is_calm = true;
}

static void stop_faults(random_program *self) {
    shortage.rate = 0;
    EXPECT_EQ(self, tepal_sim_fault(self->sim, "calm"), 0);
}

static void close_ends(random_program *self) {
    for (program_end *one = self->ends; one != NULL; one = one->next) {
        if (one->made && node_is_up(one->node)) {
            end_open_gates(one);
            end_close(one);
        }
    }
}

/* Everything is told to end: what has a deadline meets it, and nothing is left. */
static void calm(random_program *self) {
    close_ends(self);
    for (program_place *one = self->places; one != NULL; one = one->next) {
        if (one->server != NULL && node_is_up(one->node)) {
            place_close(one);
        }
    }
    for (int i = 0; i < self->node_count; i++) {
        if (node_is_up(&self->nodes[i])) {
            node_calm(&self->nodes[i]);
        }
    }
}

static bool is_quiet(random_program *self) {
    const int64_t limit_ns = tepal_sim_time(self->sim) + TEPAL_SEC(86400);

    for (int i = 0; i < 100; i++) { /* each interruption that was still under way ends a run */
        const int code = run(self, -1);
        if (code >= 0) {
            return code == 0 && tepal_sim_time(self->sim) <= limit_ns;
        }
    }
    return false;
}

/* A server that is still there serves again, whatever it has run out of before. */
static void check_servers_serve(random_program *self) {
    for (program_place *one = self->places; one != NULL; one = one->next) {
        if (one->server != NULL && !one->is_closed && node_is_up(one->node)) {
            place_probe(one);
        }
    }
    if (!is_quiet(self)) {
        program_fail(self, __FILE__, __LINE__, "it is never quiet");
    }
    for (const program_place *one = self->places; one != NULL; one = one->next) {
        if (one->probe != NULL && !one->probe->made) {
            program_fail(self, __FILE__, __LINE__, "a server of %s (port %d, path %s) does not serve any more",
                         names[one->node->name], one->port, one->path);
        }
    }
}

/* With everybody reading, what was written arrives, whether or not anything ends. */
static void check_everything_arrives(random_program *self) {
    for (int i = 0; i < self->node_count; i++) {
        if (node_is_up(&self->nodes[i])) {
            node_calm(&self->nodes[i]);
            node_cancel_pipes(&self->nodes[i]);
        }
    }
    for (program_end *one = self->ends; one != NULL; one = one->next) {
        if (one->made && !one->lost && node_is_up(one->node)) {
            end_open_gates(one);
            one->wants_no_data = false;
            (void)CALL(self, tepal_transport_resume_reading(one->transport));
        }
    }
    if (!is_quiet(self)) {
        program_fail(self, __FILE__, __LINE__, "it is never quiet");
    }
    for (const program_end *one = self->ends; one != NULL; one = one->next) {
        const program_end *peer = one->peer;
        if (one->made && !one->lost && peer != NULL && !peer->lost && node_is_up(one->node) && node_is_up(peer->node) &&
            !end_is_closing(one) && !end_is_closing(peer) && one->delivered != peer->written) {
            program_fail(self, __FILE__, __LINE__,
                         "%zu bytes of %zu have come from connection %u to %u, and no more do", one->delivered,
                         peer->written, peer->id, one->id);
        }
    }
}

static void check_nothing_left(random_program *self) {
    for (const program_end *one = self->ends; one != NULL; one = one->next) {
        if (node_is_up(one->node) && one->made && !one->lost) {
            program_fail(self, __FILE__, __LINE__, "connection %u of %s (descriptor %d, %llu bytes left) never ends",
                         one->id, names[one->node->name], tepal_transport_fd(one->transport) & 0xffff,
                         (unsigned long long)tepal_transport_write_buffer_size(one->transport));
        }
    }
    for (int i = 0; i < self->node_count; i++) {
        const program_node *node = &self->nodes[i];
        if (!node_is_up(node)) {
            continue;
        }
        tepal_loop_stats stats = {.size = sizeof stats};
        EXPECT_EQ(self, tepal_loop_get_stats(node->loop, &stats), 0);
        EXPECT_EQ(self, stats.transports, 0);
        EXPECT(self, node->calls == NULL);
        for (const tracked *one = node->futures; one != NULL; one = one->next) {
            EXPECT(self, tepal_future_is_done(one->future) && (one->is_told || one->is_deaf));
        }
    }
}

/*
 * Two ends that are closing read nothing, so with more buffered on both sides than there is room for, each waits for the
 * other until somebody aborts one. Nothing else may be left.
 */
static void end_stuck(random_program *self) {
    for (program_end *one = self->ends; one != NULL; one = one->next) {
        const program_end *peer = one->peer;
        if (!node_is_up(one->node) || !one->made || one->lost || end_is_closing(one) == 0) {
            continue;
        }
        if (tepal_transport_write_buffer_size(one->transport) > 0 &&
            (peer == NULL || (!peer->lost && tepal_transport_write_buffer_size(peer->transport) > 0))) {
            end_abort(one, TEPAL_ETIMEDOUT);
        }
    }
}

/* What was connecting may have been made meanwhile; another round closes that too. */
static void end_lively(random_program *self) {
    stop_faults(self);
    if (chance(self, 2)) {
        check_everything_arrives(self);
    }
    close_ends(self);
    if (chance(self, 2)) {
        check_servers_serve(self);
    }
    for (int i = 0; i < 4; i++) {
        calm(self);
        if (!is_quiet(self)) {
            program_fail(self, __FILE__, __LINE__, "it is never quiet");
        }
    }
    end_stuck(self);
    EXPECT(self, is_quiet(self));
    check_nothing_left(self);
}

static void give_back(random_program *self) {
    for (int i = 0; i < self->node_count; i++) {
        if (!self->nodes[i].is_closed) {
            program_node_close(&self->nodes[i]);
        }
    }
    for (const program_end *one = self->ends; one != NULL; one = one->next) {
        end_check_last(one);
    }
    /* One may be kept by another, which is of the same loop. */
    for (int i = 0; i < self->node_count; i++) {
        for (const tracked *one = self->nodes[i].futures; one != NULL; one = one->next) {
            tepal_future_unref(one->future);
        }
        while (self->nodes[i].futures != NULL) {
            tracked *one = self->nodes[i].futures;
            self->nodes[i].futures = one->next;
            if (one->destroyed != 0) {
                program_fail(self, __FILE__, __LINE__, "what work gave was not destroyed (told %d, canceled %d)",
                             one->is_told, one->was_canceled);
            }
            free(one);
        }
    }
    while (self->places != NULL) {
        program_place *one = self->places;
        self->places = one->next;
        place_free(one);
    }
    while (self->ends != NULL) {
        program_end *one = self->ends;
        self->ends = one->next;
        end_give_back(one);
    }
    for (int i = 0; i < self->node_count; i++) {
        tepal_loop_unref(self->nodes[i].loop);
    }
}

void program_run(uint64_t number, program_result *result) {
    seed *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    random_program *self = &made->program;
    tepal_sim_stats stats = {.size = sizeof stats};

    current_seed = number;
    watch_for_crashes();
    (void)alarm(SECONDS_OF_A_SEED);
    made->trace.is_printed = getenv("TEST_TRACE") != NULL;
    CHECK_OK(tepal_sim_new(&self->sim, TEPAL_OPTIONS(tepal_sim_options, .seed = number, .unchecked = number % 3 == 0,
                                                     .check = check, .trace = traced, .argument = made,
                                                     .realloc = test_counting_alloc)));
    choose(self);
    for (int i = 0; i < self->names; i++) {
        node_add(self, i);
    }
    live(self);
    if (chance(self, 3)) {
        end_lively(self);
    }
    give_back(self);
    EXPECT_EQ(self, tepal_sim_get_stats(self->sim, &stats), 0);
    tepal_sim_free(self->sim);
    (void)alarm(0);
    CHECK_EQ(test_alloc_live(), 0);
    *result = (program_result){
        .trace = made->trace.hash, .length = made->trace.length, .hash = stats.hash, .events = stats.events};
    free(made);
}
