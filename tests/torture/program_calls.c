/*
 * Acts on a host's loop: callbacks, timers, works, futures and their combinations, the executor. Callbacks come in the
 * order in which they were queued, timers in that of their deadlines and never early, and each once.
 */
#include "torture/program.h"

#include <stdlib.h>

/* ---- Callbacks ---- */

/* One that is queued. */
struct call {
    call *next;
    program_node *node;
    tepal_handle handle;
    bool is_timed, has_handle, in_turn;
    int64_t due_ns;
    uint64_t order, turn;
};

static uint64_t turns_of(const program_node *node) {
    tepal_loop_stats stats = {.size = sizeof stats};
    (void)tepal_loop_get_stats(node->loop, &stats);
    return stats.turns;
}

static void forget(call *self) {
    call **link = &self->node->calls;
    while (*link != self) {
        link = &(*link)->next;
    }
    *link = self->next;
    free(self);
}

void node_forget_calls(program_node *self) {
    while (self->calls != NULL) {
        forget(self->calls);
    }
}

/* What an interrupted turn has left comes first in the next one, before what was started meanwhile. */
static bool is_behind(const program_node *node, uint64_t started, uint64_t turn) {
    return started >= turn || (turn <= node->interrupted_turn + 1 && started >= node->interrupted_since);
}

/* A timer of this deadline and order comes: none that was due before it is still waiting. */
static void check_timers(const program_node *node, int64_t due_ns, uint64_t order) {
    const random_program *program = node->program;
    const uint64_t turn = turns_of(node);

    EXPECT(program, tepal_loop_time(node->loop) >= due_ns);
    for (const call *one = node->calls; one != NULL; one = one->next) {
        if (one->is_timed && one->order != order && !is_behind(node, one->turn, turn)) {
            EXPECT(program, one->due_ns > due_ns || (one->due_ns == due_ns && one->order > order));
        }
    }
    for (int i = 0; i < MOST_JOBS; i++) {
        const alarm_clock *clock = &node->clocks[i];
        if (clock->is_started && clock->order != order && !is_behind(node, clock->turn, turn)) {
            EXPECT(program,
                   clock->timer.deadline_ns > due_ns || (clock->timer.deadline_ns == due_ns && clock->order > order));
        }
    }
}

/* One that was queued comes: those before it have come. */
static void check_queue(const program_node *node, uint64_t order) {
    const random_program *program = node->program;

    for (const call *one = node->calls; one != NULL; one = one->next) {
        EXPECT(program, one->is_timed || one->order >= order);
    }
    for (int i = 0; i < MOST_JOBS; i++) {
        EXPECT(program, !node->chores[i].is_posted || node->chores[i].order >= order);
    }
}

static void called(void *argument) {
    call *self = argument;
    program_node *node = self->node;
    const program_node *before = upcall_begins(node, false);

    EXPECT(node->program, !node->is_closing);
    if (self->is_timed || node->program->loop_options.order == TEPAL_ORDER_SNAPSHOT) {
        EXPECT(node->program, turns_of(node) > self->turn || !self->in_turn);
    }
    if (self->is_timed) {
        check_timers(node, self->due_ns, self->order);
    } else {
        check_queue(node, self->order);
    }
    node->in_timers = self->is_timed;
    forget(self);
    act_now(node, NULL, false);
    node->in_timers = false;
    upcall_ends(node, before);
}

static call *new_call(program_node *node, bool is_timed) {
    call *made = calloc(1, sizeof *made);

    EXPECT(node->program, made != NULL);
    *made = (call){.next = node->calls,
                   .node = node,
                   .is_timed = is_timed,
                   .order = ++node->program->order,
                   .in_turn = is_timed ? node->in_timers : tepal_loop_is_running(node->loop),
                   .turn = turns_of(node)};
    node->calls = made;
    return made;
}

static void settle_call(call *self, int code) {
    if (!worked(self->node->program, code)) {
        forget(self);
    }
}

void act_call_soon(program_node *node, program_end *end) {
    (void)end;
    call *made = new_call(node, false);

    if (chance(node->program, 3)) {
        settle_call(made, CALL(node->program, tepal_loop_call_soon_threadsafe(node->loop, called, made)));
    } else {
        made->has_handle = true;
        settle_call(made, CALL(node->program, tepal_loop_call_soon(node->loop, called, made, &made->handle)));
    }
}

/* A delay: none, short, long, and now and then the same for several. */
static int64_t delay(random_program *program) {
    switch (below(program, 6)) {
    case 5:
        return chance(program, 4) ? INT64_MAX : chance(program, 2) ? INT64_MIN : 0;
    case 0:
        return -(int64_t)below(program, 5);
    case 1:
        return TEPAL_MS(5);
    case 2:
        return (int64_t)below(program, 1000000);
    case 3:
        return (int64_t)below(program, 1000000000);
    default:
        return (int64_t)below(program, UINT64_C(100000000000));
    }
}

/* So long after now, or at the end of time. */
static int64_t after(const program_node *node, int64_t delay_ns) {
    int64_t when_ns;
    if (__builtin_add_overflow(tepal_loop_time(node->loop), delay_ns, &when_ns)) {
        when_ns = delay_ns < 0 ? INT64_MIN : INT64_MAX;
    }
    return when_ns;
}

void act_call_later(program_node *node, program_end *end) {
    (void)end;
    call *made = new_call(node, true);

    const int64_t delay_ns = delay(node->program);
    const bool is_relative = chance(node->program, 2);
    made->due_ns = after(node, is_relative && delay_ns < 0 ? 0 : delay_ns);
    made->has_handle = true;
    settle_call(made,
                is_relative
                    ? CALL(node->program, tepal_loop_call_later(node->loop, delay_ns, called, made, &made->handle))
                    : CALL(node->program, tepal_loop_call_at(node->loop, made->due_ns, called, made, &made->handle)));
}

void act_cancel_call(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    call *one = node->calls;

    for (uint64_t skip = below(program, 4); one != NULL && skip > 0; skip--) {
        one = one->next;
    }
    if (one != NULL && one->has_handle) {
        const tepal_handle handle = one->handle;
        EXPECT(program, CALL(program, tepal_loop_cancel(node->loop, handle)));
        forget(one);
        EXPECT(program, !CALL(program, tepal_loop_cancel(node->loop, handle)));
    }
}

/* ---- Timers and works ---- */

static void rings(tepal_work *work, int status) {
    alarm_clock *self = (alarm_clock *)(void *)work;
    program_node *node = self->node;
    const program_node *before = upcall_begins(node, false);

    EXPECT(node->program, self->is_started);
    EXPECT_EQ(node->program, status, node->is_closing ? TEPAL_ECLOSED : 0);
    self->is_started = false;
    if (status == 0) {
        EXPECT(node->program, turns_of(node) > self->turn || !self->in_turn);
        check_timers(node, self->timer.deadline_ns, self->order);
        node->in_timers = true;
        act_now(node, NULL, false);
        node->in_timers = false;
    }
    upcall_ends(node, before);
}

static void begins(tepal_work *work, int status) {
    program_chore *self = (program_chore *)(void *)work;
    program_node *node = self->node;
    const program_node *before = upcall_begins(node, false);

    EXPECT(node->program, self->is_posted);
    EXPECT_EQ(node->program, status, node->is_closing ? TEPAL_ECLOSED : 0);
    self->is_posted = false;
    if (status == 0) {
        check_queue(node, self->order);
        act_now(node, NULL, false);
    }
    upcall_ends(node, before);
}

void act_timer(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    alarm_clock *clock = &node->clocks[below(program, MOST_JOBS)];

    clock->node = node;
    clock->timer.work.run = rings;
    if (chance(program, 4)) {
        EXPECT_EQ(program, CALL(program, tepal_timer_stop(node->loop, &clock->timer)),
                  clock->is_started ? 0 : TEPAL_ENOENT);
        clock->is_started = false;
        return;
    }
    const int64_t when_ns = after(node, delay(program));
    EXPECT_EQ(program, CALL(program, tepal_timer_start(node->loop, &clock->timer, when_ns)), 0);
    EXPECT_EQ(program, clock->timer.deadline_ns, when_ns);
    clock->is_started = true;
    clock->order = ++program->order;
    clock->turn = turns_of(node);
    clock->in_turn = node->in_timers;
}

void act_post(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    program_chore *chore = &node->chores[below(program, MOST_JOBS)];

    if (!chore->is_posted) {
        chore->node = node;
        chore->work.run = begins;
    }
    const int code = chance(program, 2) ? CALL(program, tepal_loop_post(node->loop, &chore->work))
                                        : CALL(program, tepal_loop_post_threadsafe(node->loop, &chore->work));
    EXPECT_EQ(program, code, chore->is_posted ? TEPAL_EBUSY : 0);
    if (!chore->is_posted) {
        chore->is_posted = true;
        chore->order = ++program->order;
    }
}

/* ---- Futures ---- */

static void connected(tracked *self) {
    random_program *program = self->node->program;
    tepal_transport *transport;
    tepal_protocol *protocol;
    const int code = tepal_connection_result(self->future, &transport, &protocol);

    EXPECT(program, code != TEPAL_EPENDING);
    if (code == 0) {
        EXPECT(program, self->end->made && !self->end->lost);
        EXPECT(program, transport == self->end->transport);
    } else if (code == TEPAL_ECLOSED) {
        EXPECT(program, !self->end->made || self->end->lost || end_is_closing(self->end));
    } else {
        EXPECT(program, !self->end->made || self->was_canceled || self->end->lost);
    }
}

static void is_done(tepal_future *future, void *argument) {
    tracked *self = argument;
    program_node *node = self->node;
    const program_node *before = upcall_begins(node, false);

    EXPECT(node->program, !node->is_closing);
    EXPECT(node->program, future == self->future);
    EXPECT(node->program, tepal_future_is_done(future));
    EXPECT(node->program, !self->is_told && !self->is_deaf);
    EXPECT(node->program, tepal_future_is_canceled(future) || !self->was_canceled);
    self->was_canceled = tepal_future_is_canceled(future);
    self->is_told = true;
    switch (self->kind) {
    case IS_CONNECT:
        connected(self);
        break;
    case IS_SERVER:
        if (tepal_server_result(future, &self->place->server) < 0) {
            self->place->is_closed = true;
        }
        break;
    case IS_WAIT_CLOSED:
        EXPECT(node->program, self->was_canceled || self->place->is_closed);
        break;
    case IS_PIPE:
        end_pipe_done(self);
        break;
    default:
        break;
    }
    act_now(node, self->end != NULL && self->end->made && self->end->node == node ? self->end : NULL, false);
    upcall_ends(node, before);
}

tracked *track(program_node *node, tepal_future *future, tracked_kind kind) {
    tracked *made = calloc(1, sizeof *made);

    EXPECT(node->program, made != NULL);
    *made = (tracked){.next = node->futures, .node = node, .future = future, .kind = kind};
    made->was_canceled = tepal_future_is_canceled(future);
    node->futures = made;
    EXPECT_EQ(node->program, CALL(node->program, tepal_future_add_done_callback(future, is_done, made)), 0);
    return made;
}

tracked *tracked_pending(const program_node *node) {
    tracked *chosen = NULL;
    uint64_t seen = 0;

    for (tracked *one = node->futures; one != NULL; one = one->next) {
        if (!one->is_told && below(node->program, ++seen) == 0) {
            chosen = one;
        }
    }
    return chosen;
}

void act_promise(program_node *node, program_end *end) {
    (void)end;
    tepal_future *future;

    if (worked(node->program, CALL(node->program, tepal_future_new(node->loop, &future)))) {
        track(node, future, IS_PROMISE);
    }
}

static void settle(tracked *self) {
    random_program *program = self->node->program;
    const bool was_done = tepal_future_is_done(self->future);
    const int code = chance(program, 2) ? CALL(program, tepal_future_set_result(self->future, self, NULL))
                                        : CALL(program, tepal_future_set_code(self->future, TEPAL_EREFUSED));

    EXPECT_EQ(program, code, was_done ? TEPAL_EDONE : 0);
}

/* Who does not want to hear of it any more is not told. */
void act_forget_callback(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    tracked *one = tracked_pending(node);

    if (one != NULL && (one->kind == IS_PROMISE || one->kind == IS_NAMES || one->kind == IS_DRAIN)) {
        EXPECT_EQ(program, CALL(program, tepal_future_remove_done_callback(one->future, is_done, one)), !one->is_deaf);
        one->is_deaf = true;
    }
}

void act_settle(program_node *node, program_end *end) {
    (void)end;
    tracked *one = tracked_pending(node);

    if (one != NULL && one->kind == IS_PROMISE) {
        settle(one);
    }
}

static void note_canceled(const program_node *node) {
    for (tracked *one = node->futures; one != NULL; one = one->next) {
        one->was_canceled = one->was_canceled || tepal_future_is_canceled(one->future);
    }
}

void act_combine(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    tepal_future *members[4], *future;
    size_t count = 0;
    int code;

    for (uint64_t i = 0; i < 4; i++) {
        const tracked *one = tracked_pending(node);
        if (one != NULL) {
            members[count++] = one->future;
        }
    }
    if (count == 0) {
        return;
    }
    switch (below(program, 4)) {
    case 0:
        code = CALL(program, tepal_future_gather(node->loop, members, count, &future));
        break;
    case 1:
        code = CALL(program, tepal_future_first(node->loop, members, count, &future));
        break;
    case 2:
        code = CALL(program, tepal_future_shield(members[0], &future));
        break;
    default:
        code = CALL(program, tepal_future_wait_for(members[0], delay(program), &future));
        break;
    }
    note_canceled(node); /* by a limit of no time */
    if (worked(program, code)) {
        track(node, future, IS_COMBINED);
    }
}

void act_cancel_future(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    tracked *one = tracked_pending(node);

    if (one != NULL) {
        const bool was_done = tepal_future_is_done(one->future);
        EXPECT_EQ(program, CALL(program, tepal_future_cancel(one->future)), !was_done);
        note_canceled(node);
    }
}

static int work(void *argument, void **value) {
    tracked *self = argument;
    random_program *program = self->node->program;

    EXPECT_EQ(program, self->worked++, 0);
    EXPECT_EQ(program, self->destroyed, 0);
    if (chance(program, 4)) {
        return TEPAL_ERROR(TEPAL_DOMAIN_USER, 5);
    }
    *value = self;
    self->destroyed = -1;
    return 0;
}

static void destroy(void *value) {
    tracked *self = value;
    EXPECT_EQ(self->node->program, self->destroyed++, -1);
}

void act_executor(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    tracked *made = calloc(1, sizeof *made);

    EXPECT(program, made != NULL);
    *made = (tracked){.node = node, .kind = IS_WORK};
    if (!worked(program, CALL(program, tepal_loop_run_in_executor(node->loop, work, made, destroy, &made->future)))) {
        free(made);
        return;
    }
    made->next = node->futures;
    node->futures = made;
    EXPECT_EQ(program, CALL(program, tepal_future_add_done_callback(made->future, is_done, made)), 0);
}

void act_names(program_node *node, program_end *end) {
    (void)end;
    static const char *const names[] = {"a", "b", "c", "d", "localhost", "nowhere", "10.0.0.1", NULL};
    random_program *program = node->program;
    tepal_future *future;

    if (worked(program, CALL(program, tepal_loop_getaddrinfo(node->loop, names[below(program, 8)], 80, 0,
                                                             chance(program, 2), &future)))) {
        track(node, future, IS_NAMES);
    }
}

void act_interrupt(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;

    if (program->running == node) {
        if (program->interrupted == 0) {
            program->interrupted = TEPAL_ERROR(TEPAL_DOMAIN_USER, 999);
        }
        const uint64_t turn = turns_of(node);
        if (turn > node->interrupted_turn + 1) {
            node->interrupted_since = turn;
        }
        node->interrupted_turn = turn;
        CALL_VOID(program, tepal_loop_interrupt(node->loop, program->interrupted));
    }
}

void act_stats(program_node *node, program_end *end) {
    (void)end;
    tepal_loop_stats stats = {.size = sizeof stats};
    uint64_t alive = 0;

    EXPECT_EQ(node->program, tepal_loop_get_stats(node->loop, &stats), 0);
    for (const program_end *one = node->program->ends; one != NULL; one = one->next) {
        alive += one->node == node && one->made && !one->lost;
    }
    EXPECT(node->program, stats.transports >= alive);
    EXPECT_EQ(node->program, stats.invariants, 0);
    EXPECT_EQ(node->program, stats.slow, 0);
}

/* Those that are due a day from now or later are stopped: nobody waits for them. */
static void stop_far_timers(program_node *self) {
    random_program *program = self->program;
    const int64_t far_ns = after(self, TEPAL_SEC(86000));

    for (call *one = self->calls; one != NULL;) {
        call *next = one->next;
        if (one->is_timed && one->due_ns > far_ns) {
            EXPECT(program, CALL(program, tepal_loop_cancel(self->loop, one->handle)));
            forget(one);
        }
        one = next;
    }
    for (int i = 0; i < MOST_JOBS; i++) {
        alarm_clock *clock = &self->clocks[i];
        if (clock->is_started && clock->timer.deadline_ns > far_ns) {
            EXPECT_EQ(program, CALL(program, tepal_timer_stop(self->loop, &clock->timer)), 0);
            clock->is_started = false;
        }
    }
}

void node_cancel_pipes(program_node *self) {
    for (tracked *one = self->futures; one != NULL; one = one->next) {
        if (one->kind == IS_PIPE && CALL(self->program, tepal_future_cancel(one->future))) {
            one->was_canceled = true;
            end_pipe_done(one);
        }
    }
    note_canceled(self);
}

void node_calm(program_node *self) {
    stop_far_timers(self);
    for (tracked *one = self->futures; one != NULL; one = one->next) {
        if (one->kind == IS_PROMISE && !tepal_future_is_done(one->future)) {
            settle(one);
        }
    }
}
