/* Filters that act, and are acted upon, in the middle of a delivery; and pauses of their own. */
#include "conformance/shim.h"

#include <stdlib.h>
#include <sys/socket.h>

static void keep_to_itself(tepal_filter *filter) {
    (void)filter;
}

/* A rate limit: it pauses the layer below by its own wish, the protocol has no part in it. */
static int64_t pass_and_pause(tepal_filter *filter, const void *data, size_t length) {
    const int64_t used = tepal_filter_up_received(filter, data, length);
    tepal_filter_down_pause(filter);
    return used;
}

SCRIPT_TEST(filter_inside, one_that_leaves_bytes_to_a_filter_that_paused_gets_them_again) {
    script self = {0};
    tepal_filter_type lower_type = shim_type, upper_type = shim_type;

    lower_type.pause = lower_type.resume = keep_to_itself;
    upper_type.received = pass_and_pause;
    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_new(&self, 0), *upper = shim_new(&self, 0);
    lower->filter.type = &lower_type;
    lower->portion = 100;
    upper->filter.type = &upper_type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &lower->filter, NULL));
    CHECK_OK(tepal_transport_push_filter(self.transport, &upper->filter, NULL));
    script_feed(&self, 1000);
    for (uint64_t received = 100; received <= 1000; received += 100) {
        RUN_UNTIL(self.loop, self.received == received);
        settle(self.loop);
        CHECK_EQ(self.received, received);
        tepal_filter_down_resume(&upper->filter);
    }
    script_close(&self);
    free(lower);
    free(upper);
}

/* One that ends only with the peer's answer: a byte of any kind. */
static int64_t answered(tepal_filter *filter, const void *data, size_t length) {
    shim *self = (shim *)filter;

    if (self->wants_close) {
        tepal_filter_down_close(filter);
        return (int64_t)length;
    }
    return tepal_filter_up_received(filter, data, length);
}

static void wait_for_answer(tepal_filter *filter) {
    ((shim *)filter)->wants_close = true;
}

SCRIPT_TEST(filter_inside, one_that_waits_for_the_peer_at_close_is_not_kept_waiting_by_a_pause) {
    script self = {.is_raw = true};
    tepal_filter_type type = shim_type;

    type.received = answered;
    type.close = wait_for_answer;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    script_pause(&self);
    script_close_now(&self);
    settle(self.loop);
    CHECK_EQ(self.losts, 0);
    script_feed(&self, 1);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    CHECK_EQ(self.received, 0);
    script_close(&self);
    free(only);
}

/* It takes the end for itself, and says what a protocol would to close. */
static int close_at_end(tepal_filter *filter) {
    (void)filter;
    return 0;
}

SCRIPT_TEST(filter_inside, one_that_answers_the_end_with_0_closes) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};
    tepal_filter_type type = shim_type;

    type.received_eof = close_at_end;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    shutdown(self.peer, SHUT_WR);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    CHECK_EQ(self.eofs, 0);
    script_close(&self);
    free(only);
}

static int64_t use_too_much(tepal_filter *filter, const void *data, size_t length) {
    (void)filter;
    (void)data;
    return (int64_t)length + 1;
}

SCRIPT_TEST(filter_inside, one_that_uses_more_than_it_was_given_ends_the_transport) {
    script self = {0};
    tepal_filter_type type = shim_type;

    type.received = use_too_much;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    script_feed(&self, 10);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_EINVAL);
    script_close(&self);
    free(only);
}

static void pop_filter(script *self) {
    shim *top = self->user;
    if (top != NULL) {
        self->user = NULL;
        CHECK_OK(CALL(self, tepal_transport_pop_filter(self->transport, &top->filter)));
    }
}

SCRIPT_TEST(filter_inside, bytes_left_by_one_that_was_popped_go_to_who_stands_in_its_place) {
    for (int others = 0; others < 2; others++) {
        script self = {.on_data = pop_filter};

        script_open(&self, SCRIPT_TCP);
        shim *lower = others > 0 ? shim_push(&self, 3) : NULL, *upper = shim_push(&self, 0);
        upper->portion = 100; /* pops itself, in effect, after the first 100 bytes */
        self.user = upper;
        shim_feed(&self, 1000, others > 0 ? 3 : 0);
        RUN_UNTIL(self.loop, self.received == 1000);
        CHECK_EQ(upper->detaches, 1);
        CHECK_EQ(upper->up, 100);
        shim_check_both_ways(&self, 1000, others > 0 ? 3 : 0);
        script_close(&self);
        free(lower);
        free(upper);
    }
}

/* It goes on for all of the bytes without a look at whether it still stands. */
static int64_t pass_each(tepal_filter *filter, const void *data, size_t length) {
    for (size_t used = 0; used < length; used++) {
        if (tepal_filter_up_received(filter, (const char *)data + used, 1) < 0) {
            return (int64_t)used;
        }
    }
    return (int64_t)length;
}

SCRIPT_TEST(filter_inside, one_that_was_popped_can_deliver_nothing_more) {
    script self = {.on_data = pop_filter};
    tepal_filter_type type = shim_type;

    type.received = pass_each;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    self.user = only;
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 1000);
    CHECK_EQ(self.losts, 0);
    script_close(&self);
    free(only);
}

static void push_filter(script *self) {
    if (self->user == NULL) {
        self->user = shim_push(self, 0);
    }
}

SCRIPT_TEST(filter_inside, one_pushed_between_two_buffers_gets_the_rest) {
    script self = {.protocol.type = &script_lending_type, .buffer_size = 100, .on_data = push_filter};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 0);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 1000);
    shim *upper = self.user;
    CHECK_EQ(upper->up, 900);
    script_close(&self);
    free(lower);
    free(upper);
}

static void hold_on(tepal_filter *filter) {
    (void)filter;
}

SCRIPT_TEST(filter_inside, one_that_holds_output_even_after_a_flush_is_not_popped) {
    script self = {0};
    tepal_filter_type type = shim_type;

    type.flush = hold_on;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    only->holds = true;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    script_write(&self, 1000);
    CHECK_EQ(CALL(&self, tepal_transport_pop_filter(self.transport, &only->filter)), TEPAL_EBUSY);
    shim_let_go(only);
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &only->filter)));
    shim_take(&self, 1000, 0);
    script_close(&self);
    free(only);
}

/* It adds a byte to each that it is given, and counts as many as held. */
static uint64_t twice(const tepal_filter *filter) {
    return 2 * ((const shim *)filter)->held_length;
}

SCRIPT_TEST(filter_inside, what_it_adds_does_not_cut_a_write_of_many_pieces_in_two) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 20000, .write_cap = 60000};
    script self = {.options = &options};
    static uint8_t bytes[50000];
    struct iovec pieces[500];
    tepal_filter_type type = shim_type;

    type.buffered = twice;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    only->holds = true;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    stream_fill(SCRIPT_OUT, 0, bytes, sizeof bytes);
    for (size_t i = 0; i < 500; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + 100 * i, .iov_len = 100};
    }
    CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 500)));
    CHECK(!tepal_transport_is_closing(self.transport));
    settle(self.loop);
    shim_let_go(only);
    shim_take(&self, sizeof bytes, 0);
    script_close(&self);
    free(only);
}

static int deliveries;

static int64_t count_and_pass(tepal_filter *filter, const void *data, size_t length) {
    deliveries++;
    return tepal_filter_up_received(filter, data, length);
}

SCRIPT_TEST(filter_inside, one_pushed_while_reading_is_paused_is_given_nothing_before_it_resumes) {
    script self = {0};
    const tepal_filter_type type = {.size = sizeof type, .received = count_and_pass};
    tepal_filter only = {.type = &type};

    deliveries = 0;
    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    CHECK_OK(tepal_transport_push_filter(self.transport, &only, NULL));
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(deliveries, 0);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    CHECK_GT(deliveries, 0);
    script_close(&self);
}

SCRIPT_TEST(filter_inside, the_pause_of_one_that_is_popped_goes_with_it) {
    script self = {0};
    tepal_filter_type pausing = shim_type;

    pausing.received = pass_and_pause;
    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 0), *upper = shim_new(&self, 0);
    upper->filter.type = &pausing;
    CHECK_OK(tepal_transport_push_filter(self.transport, &upper->filter, NULL));
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(self.received, 1000);
    CHECK_OK(tepal_transport_pop_filter(self.transport, &upper->filter));
    RUN_UNTIL(self.loop, self.received == 2000);
    script_close(&self);
    free(lower);
    free(upper);
}

/* Padding: what it holds is more than it was given. */
static uint64_t twice_as_much(const tepal_filter *filter) {
    return 2 * (uint64_t)((const shim *)filter)->held_length;
}

static void write_more(script *self) {
    self->on_pause = NULL;
    script_write(self, 100);
}

SCRIPT_TEST(filter_inside, what_pause_writing_writes_while_the_last_write_is_handed_down_goes_before_the_close) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 1000};
    script self = {.options = &options, .on_pause = write_more};
    tepal_filter_type type = shim_type;

    type.buffered = twice_as_much;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 1);
    only->filter.type = &type;
    only->holds = true;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    script_write(&self, 800); /* corked: below the mark, until it is twice as much */
    CHECK_EQ(self.pauses, 0);
    script_close_now(&self);
    CHECK_EQ(self.pauses, 1);
    settle(self.loop);
    shim_let_go(only);
    shim_take(&self, 900, 1);
    script_take_end(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_close(&self);
    free(only);
}

/* The cork is drained first, and that may resume who pops it as well. */
static void pop_in_resume(script *self) {
    shim *only = self->user;

    self->user = NULL;
    if (only != NULL) {
        CHECK_OK(tepal_transport_pop_filter(self->transport, &only->filter));
        free(only);
    }
}

SCRIPT_TEST(filter_inside, a_filter_may_be_popped_and_freed_in_the_resume_that_popping_it_brings_about) {
    NEEDS_SENDS_AT_ONCE();
    script self = {.on_resume = pop_in_resume};

    script_open(&self, SCRIPT_UNIX);
    shim *only = shim_push(&self, 3);
    self.user = only;
    CHECK_OK(tepal_transport_set_write_limits(self.transport, 10, 5, 1 << 20));
    only->holds = true;
    script_write(&self, 8);
    settle(self.loop);
    only->holds = false; /* with the next write it lets go */
    script_write(&self, 5);
    CHECK_EQ(self.pauses, 1);
    CHECK_EQ(CALL(&self, tepal_transport_pop_filter(self.transport, &only->filter)), TEPAL_ECLOSED);
    CHECK_EQ(self.resumes, 1);
    CHECK(self.user == NULL);
    script_close(&self);
}
