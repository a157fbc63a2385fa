/* Filters at the edges: popped, ended or paused in the middle, refusing an end, and protocols that lend above them. */
#include "conformance/shim.h"

#include <stdlib.h>
#include <sys/socket.h>

/* Put one of this type on top. */
static shim *push_of_type(script *self, const tepal_filter_type *type, uint8_t key) {
    shim *made = shim_new(self, key);

    made->filter.type = type;
    CHECK_OK(CALL(self, tepal_transport_push_filter(self->transport, &made->filter, NULL)));
    return made;
}

/* ---- In the middle of a delivery ---- */

/* It stops once there is nobody left to deliver to. */
static int64_t stop_when_closing(tepal_filter *filter, const void *data, size_t length) {
    const size_t first = length < 100 ? length : 100;
    const int64_t used = tepal_filter_up_received(filter, data, first);

    if (used < 0 || tepal_transport_is_closing(filter->transport)) {
        return used;
    }
    return tepal_filter_up_received(filter, (const uint8_t *)data + first, length - first);
}

SCRIPT_TEST(filter_edges, one_that_leaves_bytes_because_the_transport_has_ended_is_no_fault) {
    script self = {.on_data = script_abort_now};
    tepal_filter_type type = shim_type;

    type.received = stop_when_closing;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.received, 100);
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    script_close(&self);
    free(only);
}

static void pop_both(script *self) {
    shim **both = self->user;

    self->on_data = NULL;
    for (int i = 1; i >= 0; i--) {
        CHECK_OK(tepal_transport_pop_filter(self->transport, &both[i]->filter));
    }
}

SCRIPT_TEST(filter_edges, bytes_left_by_two_that_were_popped_go_to_the_protocol) {
    script self = {.on_data = pop_both};

    script_open(&self, SCRIPT_TCP);
    shim *both[2] = {shim_push(&self, 0), shim_push(&self, 0)};
    both[1]->portion = 100;
    self.user = both;
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 1000);
    CHECK_EQ(both[0]->detaches + both[1]->detaches, 2);
    script_close(&self);
    free(both[0]);
    free(both[1]);
}

/* A second delivery after the protocol has paused in the first. */
static int64_t deliver_twice(tepal_filter *filter, const void *data, size_t length) {
    const int64_t used = tepal_filter_up_received(filter, data, length / 2);

    if (!tepal_filter_is_paused(filter)) {
        return used + tepal_filter_up_received(filter, (const uint8_t *)data + used, length - (size_t)used);
    }
    CHECK_EQ(tepal_filter_up_received(filter, (const uint8_t *)data + used, length - (size_t)used), 0);
    return used;
}

SCRIPT_TEST(filter_edges, a_paused_protocol_uses_nothing) {
    script self = {.on_data = script_pause};
    tepal_filter_type type = shim_type;

    type.received = deliver_twice;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received > 0);
    settle(self.loop);
    CHECK_LT(self.received, 1000);
    self.on_data = NULL;
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, one_that_was_popped_reaches_nobody) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 0);
    CHECK(!tepal_filter_is_paused(&only->filter));
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &only->filter)));
    CHECK(tepal_filter_is_paused(&only->filter));
    CHECK_EQ(tepal_filter_up_received(&only->filter, "x", 1), TEPAL_ECLOSED);
    CHECK_EQ(tepal_filter_up_received_eof(&only->filter), TEPAL_ECLOSED);
    CHECK_EQ(self.received + (uint64_t)self.eofs, 0);
    script_close(&self);
    free(only);
}

/* ---- Pauses of filters that go ---- */

static void keep_to_itself(tepal_filter *filter) {
    (void)filter;
}

SCRIPT_TEST(filter_edges, when_one_goes_that_kept_the_pause_to_itself_the_next_is_told) {
    script self = {0};
    tepal_filter_type type = shim_type;

    type.pause = type.resume = keep_to_itself;
    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 0), *upper = push_of_type(&self, &type, 0);
    script_pause(&self);
    CHECK(!tepal_filter_is_paused(&lower->filter));
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &upper->filter)));
    CHECK(tepal_filter_is_paused(&lower->filter));
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
    free(lower);
    free(upper);
}

SCRIPT_TEST(filter_edges, when_one_goes_that_paused_by_its_own_wish_the_next_delivers_again) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 0), *upper = shim_push(&self, 0);
    tepal_filter_down_pause(&upper->filter);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    CHECK_OK(CALL(&self, tepal_transport_pop_filter(self.transport, &upper->filter)));
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
    free(lower);
    free(upper);
}

/* ---- The end ---- */

static int fail_eof(tepal_filter *filter) {
    (void)filter;
    return TEPAL_EMSGSIZE;
}

SCRIPT_TEST(filter_edges, an_error_of_its_received_eof_aborts) {
    script self = {0};
    tepal_filter_type type = shim_type;

    type.received_eof = fail_eof;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    CHECK_EQ(shutdown(self.peer, SHUT_WR), 0);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.eofs, 0);
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_close(&self);
    free(only);
}

static int tell_the_end_twice(tepal_filter *filter) {
    const int answer = tepal_filter_up_received_eof(filter);

    CHECK_EQ(tepal_filter_up_received_eof(filter), 0);
    return answer;
}

SCRIPT_TEST(filter_edges, an_end_that_is_told_twice_comes_once) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};
    tepal_filter_type type = shim_type;

    type.received_eof = tell_the_end_twice;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    CHECK_EQ(shutdown(self.peer, SHUT_WR), 0);
    RUN_UNTIL(self.loop, self.eofs == 1);
    settle(self.loop);
    CHECK_EQ(self.eofs, 1);
    script_close(&self);
    free(only);
}

static bool is_refusing;

static int refuse_eof(tepal_filter *filter) {
    return is_refusing ? TEPAL_EBUSY : tepal_filter_down_write_eof(filter);
}

SCRIPT_TEST(filter_edges, an_end_that_it_refuses_may_be_asked_for_again) {
    script self = {0};
    tepal_filter_type type = shim_type;

    type.write_eof = refuse_eof;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    is_refusing = true;
    CHECK_EQ(CALL(&self, tepal_transport_write_eof(self.transport)), TEPAL_EBUSY);
    script_write(&self, 100); /* still accepted */
    is_refusing = false;
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    shim_take(&self, 100, 0);
    script_take_end(&self);
    script_close(&self);
    free(only);
}

static void write_at_abort(tepal_filter *filter, int code) {
    const struct iovec piece = {.iov_base = "x", .iov_len = 1};

    ((shim *)filter)->code = code;
    CHECK_EQ(tepal_filter_down_write(filter, &piece, 1), TEPAL_ECLOSED);
    CHECK_EQ(tepal_filter_down_write_eof(filter), TEPAL_ECLOSED);
}

SCRIPT_TEST(filter_edges, what_it_writes_at_an_abort_is_refused) {
    script self = {0};
    tepal_filter_type type = shim_type;
    const struct iovec nothing = {.iov_base = NULL, .iov_len = 0};

    type.abort = write_at_abort;
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    CHECK_OK(tepal_filter_down_write(&only->filter, &nothing, 1));
    script_abort_now(&self);
    CHECK_EQ(only->code, TEPAL_ETIMEDOUT);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_take_error(&self, ECONNRESET);
    CHECK_EQ(self.taken, 0);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, of_a_closing_transport_none_is_popped_and_nothing_is_delivered) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 0);
    only->holds = true;
    script_write(&self, 100);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    script_close_now(&self);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    CHECK_EQ(only->up, 1000); /* dropped above it: it may have needed them to end */
    CHECK_EQ(CALL(&self, tepal_transport_pop_filter(self.transport, &only->filter)), TEPAL_ECLOSED);
    shim_let_go(only);
    RUN_UNTIL(self.loop, self.losts == 1);
    shim_take(&self, 100, 0);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, what_it_still_holds_when_the_loop_ends_is_no_clean_end_for_the_peer) {
    for (int holds = 0; holds <= 1; holds++) {
        script self = {0};

        script_open(&self, SCRIPT_TCP);
        shim *only = shim_push(&self, 0);
        only->holds = holds == 1;
        script_write(&self, 100);
        settle(self.loop);
        CHECK_OK(tepal_loop_close(self.loop));
        if (holds) {
            script_take_error(&self, ECONNRESET);
        } else {
            shim_take(&self, 100, 0);
            script_take_end(&self);
        }
        script_close(&self);
        free(only);
    }
}

/* ---- Established ---- */

static void note_established(tepal_filter *filter) {
    ((shim *)filter)->establishes++;
    tepal_filter_up_established(filter);
}

SCRIPT_TEST(filter_edges, the_one_above_is_told_that_data_can_flow_and_tells_the_future) {
    script self = {0};
    tepal_filter_type type = shim_type;
    tepal_future *established;

    type.established = note_established;
    script_open(&self, SCRIPT_TCP);
    shim *lower = shim_push(&self, 0), *upper = shim_new(&self, 0);
    upper->filter.type = &type;
    CHECK_OK(tepal_transport_push_filter(self.transport, &upper->filter, &established));
    tepal_filter_up_established(&lower->filter);
    CHECK_EQ(upper->establishes, 1);
    CHECK_OK(tepal_future_result(established, NULL));
    tepal_future_unref(established);
    script_close(&self);
    free(lower);
    free(upper);
}

/* ---- Protocols that only lend buffers ---- */

static void pause_once(script *self) {
    self->on_asked = NULL;
    script_pause(self);
}

SCRIPT_TEST(filter_edges, a_buffer_lent_by_one_that_pauses_meanwhile_stays_unused) {
    script self = {.protocol.type = &script_lending_type, .buffer_size = 100, .on_asked = pause_once};

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 0);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.asked > 0);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, one_that_declines_with_nowhere_else_to_go_ends_the_transport) {
    script self = {.protocol.type = &script_lending_type, .buffer_size = 0};

    script_open(&self, SCRIPT_TCP);
    shim *only = shim_push(&self, 0);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_EINVAL);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, an_error_of_buffer_updated_aborts_and_a_close_in_it_is_the_last_data) {
    for (int closes = 0; closes <= 1; closes++) {
        script self = {.protocol.type = &script_lending_type,
                       .buffer_size = 100,
                       .answer_data = closes ? 0 : TEPAL_EMSGSIZE,
                       .on_data = closes ? script_close_now : NULL};

        script_open(&self, SCRIPT_TCP);
        shim *only = shim_push(&self, 0);
        script_feed(&self, 1000);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_EQ(self.received, 100);
        CHECK_EQ(self.lost_code, closes ? 0 : TEPAL_EMSGSIZE);
        script_close(&self);
        free(only);
    }
}

/* ---- What was read and not delivered ---- */

/* The first data is far behind: the driver reads in its quickest way. */
static shim *leave_bytes_of_a_later_read(script *self) {
    script_open(self, SCRIPT_TCP);
    shim *only = shim_push(self, 0);
    for (uint64_t received = 10; received <= 30; received += 10) {
        script_feed(self, 10);
        RUN_UNTIL(self->loop, self->received == received);
    }
    only->portion = 100;
    self->on_data = script_pause;
    script_feed(self, 1000);
    RUN_UNTIL(self->loop, self->received == 130);
    return only;
}

SCRIPT_TEST(filter_edges, what_is_left_of_a_later_read_comes_first_after_resume) {
    script self = {0};
    shim *only = leave_bytes_of_a_later_read(&self);

    self.on_data = NULL;
    script_feed(&self, 1000);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 2030);
    script_close(&self);
    free(only);
}

SCRIPT_TEST(filter_edges, what_is_left_of_a_later_read_goes_with_an_abort) {
    script self = {0};
    shim *only = leave_bytes_of_a_later_read(&self);

    script_abort_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.received, 130);
    script_close(&self);
    free(only);
}

/* ---- An end asked for while output is on its way through it ---- */

static uint64_t count_twice(const tepal_filter *filter) {
    return 2 * ((const shim *)filter)->held_length;
}

static void write_eof_now(script *self) {
    CHECK_OK(tepal_transport_write_eof(self->transport));
}

SCRIPT_TEST(filter_edges, write_eof_may_be_called_by_the_pause_that_write_eof_brings_about) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 100, .write_low = 10};
    script self = {.options = &options, .on_pause = write_eof_now};
    tepal_filter_type type = shim_type;

    type.buffered = count_twice; /* so that what fitted before passes the mark in the filter */
    script_open(&self, SCRIPT_TCP);
    shim *only = push_of_type(&self, &type, 0);
    only->holds = true;
    script_write(&self, 60);
    CHECK_EQ(self.pauses, 0);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    CHECK_EQ(self.pauses, 1);
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_EPIPE);
    shim_let_go(only);
    shim_take(&self, 60, 0);
    script_take_end(&self);
    script_close(&self);
    free(only);
}
