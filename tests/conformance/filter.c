/* Filters on live transports: what passes through them, both ways, and what they may hold, refuse and break. */
#include "conformance/shim.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

/* One that passes everything on. */
static const tepal_filter_type nothing_type = {.size = sizeof nothing_type};

SCRIPT_TEST(filter, two_of_a_kind_are_pushed_and_popped_in_the_middle_of_a_stream) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    shim_check_both_ways(&self, 30000, 0);
    script_write(&self, 100); /* before the push: goes by it */
    shim *lower = shim_push(&self, 3);
    shim_take(&self, 100, 0);
    shim_check_both_ways(&self, 200000, 3);
    shim *upper = shim_push(&self, 40);
    shim_check_both_ways(&self, 200000, 43);
    CHECK_EQ(lower->down, 400000);
    CHECK_EQ(upper->up, 200000);
    CHECK_EQ(tepal_transport_pop_filter(self.transport, &lower->filter), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_pop_filter(self.transport, NULL), TEPAL_EINVAL);
    script_write(&self, 100); /* before the pop: goes through it */
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &upper->filter)));
    CHECK_EQ(upper->detaches, 1);
    shim_take(&self, 100, 43);
    shim_check_both_ways(&self, 5000, 3);
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &lower->filter)));
    shim_check_both_ways(&self, 5000, 0);
    CHECK_OK(CALL(&self, tepal_transport_push_filter(self.transport, &upper->filter, NULL)));
    upper->detaches = 0;
    shim_check_both_ways(&self, 5000, 40);
    script_close(&self);
    CHECK_EQ(upper->losts, 1);
    CHECK_EQ(upper->code, TEPAL_ECLOSED);
    CHECK_EQ(lower->losts, 0);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, one_that_has_no_functions_passes_everything_on) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};
    tepal_filter nothing = {.type = &nothing_type};

    script_open(&self, SCRIPT_TCP);
    CHECK_OK(tepal_transport_push_filter(self.transport, &nothing, NULL));
    CHECK_EQ(tepal_transport_push_filter(self.transport, &nothing, NULL), TEPAL_EBUSY);
    shim_check_both_ways(&self, 100000, 0);
    script_pause(&self);
    script_feed(&self, 1000);
    settle(self.loop);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 101000);
    CHECK(tepal_transport_can_write_eof(self.transport));
    CHECK_EQ(CALL(&self, tepal_transport_write_eof(self.transport)), 0);
    script_take_end(&self);
    shutdown(self.peer, SHUT_WR);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    CHECK(nothing.transport == NULL);
    script_close(&self);
}

SCRIPT_TEST(filter, wrong_pushes_are_refused) {
    script self = {0};
    tepal_filter empty = {.type = NULL}, fine = {.type = &nothing_type};

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(tepal_transport_push_filter(self.transport, NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_push_filter(self.transport, &empty, NULL), TEPAL_EINVAL);
    script_close_now(&self);
    CHECK_EQ(tepal_transport_push_filter(self.transport, &fine, NULL), TEPAL_ECLOSED);
    CHECK(fine.transport == NULL);
    script_close(&self);
}

static void pause_sometimes(script *self) {
    if (self->received % 3 != 0) {
        script_pause(self);
    }
}

static void check_pauses(const tepal_protocol_type *type) {
    script self = {.protocol.type = type, .buffer_size = 700, .on_data = pause_sometimes};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 5), *upper = shim_push(&self, 6);
    upper->portion = 100;
    lower->portion = 1000;
    for (int i = 0; i < 200; i++) {
        shim_feed(&self, 1000, 11);
        CHECK_OK(tepal_loop_step(self.loop, 0));
        if (self.wants_no_data) {
            script_resume(&self);
        }
    }
    while (self.received < self.fed) {
        if (self.wants_no_data) {
            script_resume(&self);
        }
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_SEC(1)));
    }
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, pauses_pass_through_and_what_was_not_used_comes_first_after_resume) {
    check_pauses(&script_type);
    check_pauses(&script_lending_type);
    check_pauses(&script_both_type);
}

/* A filter that keeps the pause to itself: what it leaves must still wait below. */
static void keep_to_itself(tepal_filter *filter) {
    (void)filter;
}

SCRIPT_TEST(filter, bytes_left_by_one_that_keeps_the_pause_to_itself_wait_in_order) {
    script self = {.on_data = script_pause};
    tepal_filter_type type = shim_type;

    type.pause = type.resume = keep_to_itself;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 1);
    only->filter.type = &type;
    only->portion = 100;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    shim_feed(&self, 300000, 1);
    while (self.received < 300000) {
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_SEC(1)));
        if (self.wants_no_data) {
            script_resume(&self);
        }
        if (self.received > 5000) {
            self.on_data = NULL;
        }
    }
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter, what_is_pushed_and_popped_while_paused_keeps_the_pause_and_loses_nothing) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    shim *lower = shim_push(&self, 7), *upper = shim_push(&self, 8);
    shim_feed(&self, 1000, 15);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_pause(&self);
    CHECK_OK(tepal_transport_pop_filter(self.transport, &upper->filter));
    shim_feed(&self, 1000, 7);
    settle(self.loop);
    CHECK_EQ(self.received, 1000);
    CHECK_OK(tepal_transport_pop_filter(self.transport, &lower->filter));
    settle(self.loop);
    CHECK_EQ(self.received, 1000);
    CHECK_OK(tepal_transport_push_filter(self.transport, &lower->filter, NULL));
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 2000);
    script_pause(&self);
    CHECK_OK(tepal_transport_pop_filter(self.transport, &lower->filter));
    script_resume(&self);
    CHECK_OK(tepal_transport_push_filter(self.transport, &lower->filter, NULL));
    shim_feed(&self, 1000, 7);
    RUN_UNTIL(self.loop, self.received == 3000);
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, the_end_waits_for_resume_and_comes_once) {
    script self = {.on_data = script_pause};

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 9);
    shim_feed(&self, 1000, 9);
    script_hang_up(&self);
    test_poll(self.fd, POLLRDHUP);
    settle(self.loop);
    CHECK_STR(self.log, "MD");
    script_resume(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    script_close(&self);
    free(only);
}

/* A filter that tells of the end while the protocol has paused: it has nothing to hold it in. */
static int64_t end_at_once(tepal_filter *filter, const void *data, size_t length) {
    (void)data;
    CHECK_EQ(tepal_filter_up_received_eof(filter), TEPAL_KEEP_OPEN);
    return (int64_t)length;
}

SCRIPT_TEST(filter, an_end_told_to_a_paused_protocol_is_held) {
    script self = {.is_raw = true};
    tepal_filter_type type = shim_type;

    type.received = end_at_once;
    type.pause = type.resume = keep_to_itself;
    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    script_pause(&self);
    script_feed(&self, 10);
    settle(self.loop);
    CHECK_STR(self.log, "M");
    script_resume(&self);
    CHECK_STR(self.log, "M");
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MEL");
    script_close(&self);
    free(only);
}

/* ---- Output ---- */

SCRIPT_TEST(filter, what_it_holds_counts_and_pauses_and_its_writable_resumes) {
    const tepal_transport_options options = {
        .size = sizeof options, .write_high = 10000, .write_low = 2000, .write_cap = 500000};
    script self = {.options = &options};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 1), *upper = shim_push(&self, 2);
    lower->holds = true;
    script_write(&self, 20000);
    CHECK_EQ(self.pauses, 1);
    CHECK_EQ(lower->held_length, tepal_transport_write_buffer_size(self.transport));
    CHECK_EQ(CALL(&self, tepal_transport_write(self.transport, lower->held, 480001)), TEPAL_ENOBUFS);
    shim_let_go(lower);
    RUN_UNTIL(self.loop, self.resumes == 1);
    shim_take(&self, self.sent, 3);
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, close_and_write_eof_wait_for_what_it_holds) {
    for (int round = 0; round < 2; round++) {
        script self = {.answer_eof = TEPAL_KEEP_OPEN};

        script_open(&self, SCRIPT_TCP);
        shim *lower = shim_push(&self, 1), *upper = shim_push(&self, 2);
        lower->holds = true;
        script_write(&self, 50000);
        if (round == 0) {
            script_close_now(&self);
        } else {
            CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
        }
        settle(self.loop);
        CHECK_EQ(self.losts, 0);
        shim_let_go(lower);
        shim_take(&self, 50000, 3);
        script_take_end(&self);
        script_hang_up(&self);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_EQ(self.lost_code, 0);
        script_close(&self);
        free(lower);
        free(upper);
    }
}

SCRIPT_TEST(filter, a_flush_sends_what_it_and_the_one_below_hold_back) {
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    shim *lower = shim_push(&self, 1), *upper = shim_push(&self, 2);
    lower->holds = upper->holds = true;
    script_write(&self, 1000);
    settle(self.loop);
    CHECK_EQ(upper->held_length, 1000);
    CHECK_OK(CALL(&self, tepal_transport_flush(self.transport)));
    CHECK_EQ(upper->held_length + lower->held_length, 0);
    shim_take(&self, 1000, 3);
    script_close(&self);
    free(lower);
    free(upper);
}

static void count_release(void *argument, int status) {
    CHECK_EQ(status, 0);
    ++*(int *)argument;
}

SCRIPT_TEST(filter, owned_writes_and_writes_of_many_pieces_pass_through) {
    script self = {0};
    static uint8_t bytes[100000];
    struct iovec pieces[1000];
    int released = 0;

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 4);
    stream_fill(SCRIPT_OUT, 0, bytes, sizeof bytes);
    for (size_t i = 0; i < 1000; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + 100 * i, .iov_len = 100};
    }
    CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 500)));
    CHECK_OK(CALL(&self, tepal_transport_write_owned(self.transport, pieces + 500, 500, count_release, &released)));
    CHECK_EQ(released, 1);
    shim_take(&self, sizeof bytes, 4);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter, an_owned_write_that_it_holds_back_pauses_within_the_call) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 10000};
    script self = {.options = &options};
    static uint8_t bytes[20000];
    const struct iovec piece = {.iov_base = bytes, .iov_len = sizeof bytes};
    int released = 0;

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 4);
    only->holds = true;
    CHECK_OK(CALL(&self, tepal_transport_write_owned(self.transport, &piece, 1, count_release, &released)));
    CHECK_EQ(released, 1);
    CHECK_EQ(self.pauses, 1);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter, without_half_close_write_eof_is_ENOTSUP_and_the_peers_end_closes) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 1), *upper = shim_push(&self, 2);
    CHECK(tepal_transport_can_write_eof(self.transport));
    lower->no_half = true;
    CHECK(!tepal_transport_can_write_eof(self.transport));
    script_write(&self, 100);
    CHECK_EQ(CALL(&self, tepal_transport_write_eof(self.transport)), TEPAL_ENOTSUP);
    script_write(&self, 100);
    shutdown(self.peer, SHUT_WR);
    RUN_UNTIL(self.loop, self.losts == 1);
    shim_take(&self, 200, 3);
    script_take_end(&self);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
    free(lower);
    free(upper);
}

/* ---- Errors and questions ---- */

static int64_t fail_received(tepal_filter *filter, const void *data, size_t length) {
    (void)filter;
    (void)data;
    (void)length;
    return TEPAL_EMSGSIZE;
}

static int64_t use_too_little(tepal_filter *filter, const void *data, size_t length) {
    (void)filter;
    (void)data;
    return (int64_t)length / 2;
}

static int fail_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    (void)filter;
    (void)pieces;
    (void)count;
    return TEPAL_EMSGSIZE;
}

static void check_error(const tepal_filter_type *type, int code) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_new(&self, 0), *upper = shim_push(&self, 0);
    lower->filter.type = type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &lower->filter, NULL));
    script_write(&self, 10);
    if (type->write == shim_write) {
        script_feed(&self, 10);
    }
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, code);
    CHECK_EQ(upper->aborts, 1);
    CHECK_EQ(upper->code, code);
    CHECK_EQ(lower->losts, 1);
    CHECK_EQ(upper->losts, 1);
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, its_errors_abort_the_transport) {
    tepal_filter_type type = shim_type;

    type.received = fail_received;
    check_error(&type, TEPAL_EMSGSIZE);
    type.received = use_too_little;
    check_error(&type, TEPAL_EINVAL);
    type = shim_type;
    type.write = fail_write;
    check_error(&type, TEPAL_EMSGSIZE);
}

static void note_release(void *argument, int status) {
    int *noted = argument;
    CHECK_EQ(*noted, 1); /* once, and with a code of an end */
    CHECK_LT(status, 0);
    *noted = status;
}

/* Part of it may have left: it is not refused, but ends with the transport. */
SCRIPT_TEST(filter, an_owned_write_that_fails_inside_it_is_released_with_the_error) {
    script self = {0};
    tepal_filter_type type = shim_type;
    const struct iovec piece = {.iov_base = "0123456789", .iov_len = 10};
    int released = 1;

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_new(&self, 0);
    type.write = fail_write;
    only->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &only->filter, NULL));
    CHECK_OK(CALL(&self, tepal_transport_write_owned(self.transport, &piece, 1, note_release, &released)));
    CHECK_EQ(released, TEPAL_EMSGSIZE);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter, the_topmost_that_knows_answers_a_question) {
    script self = {0};
    const void *answer;

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(tepal_transport_info(self.transport, "shim.key", &answer), TEPAL_ENOENT);
    shim *lower = shim_push(&self, 1), *upper = shim_push(&self, 2);
    CHECK_OK(tepal_transport_info(self.transport, "shim.key", &answer));
    CHECK_EQ(*(const uint8_t *)answer, 2);
    CHECK_EQ(tepal_transport_info(self.transport, "shim.lock", &answer), TEPAL_ENOENT);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(tepal_transport_info(self.transport, "shim.key", &answer), TEPAL_ECLOSED);
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter, established_futures_are_done_by_the_filter_and_fail_with_the_connection) {
    script self = {0};
    tepal_future *first, *second, *third;

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_new(&self, 1), *upper = shim_new(&self, 2), *last = shim_new(&self, 3);
    CHECK_OK(tepal_transport_push_filter(self.transport, &lower->filter, &first));
    CHECK_EQ(tepal_transport_push_filter(self.transport, &upper->filter, &second), TEPAL_EBUSY);
    CHECK_EQ(tepal_future_result(first, NULL), TEPAL_EPENDING);
    tepal_filter_up_established(&lower->filter);
    CHECK_OK(tepal_future_result(first, NULL));
    CHECK_OK(tepal_transport_push_filter(self.transport, &upper->filter, &second));
    CHECK(tepal_future_cancel(second));
    tepal_filter_up_established(&upper->filter);
    CHECK_OK(tepal_transport_push_filter(self.transport, &last->filter, &third));
    script_abort_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(tepal_future_result(third, NULL), TEPAL_ETIMEDOUT);
    tepal_future_unref(first);
    tepal_future_unref(second);
    tepal_future_unref(third);
    script_close(&self);
    free(lower);
    free(upper);
    free(last);
}
