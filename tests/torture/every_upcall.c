/*
 * Something is done in every upcall, under every combination of what the descriptor is ready for: whatever comes, the
 * order of upcalls holds, each descriptor is closed once, and nothing is left.
 */
#include "conformance/script.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void act_close(script *self) {
    tepal_transport_close(self->transport);
}

static void act_abort(script *self) {
    tepal_transport_abort(self->transport, TEPAL_ETIMEDOUT);
}

static void act_write(script *self) {
    uint8_t data[20000];

    stream_fill(SCRIPT_OUT, self->sent, data, sizeof data);
    self->sent += sizeof data;
    if (tepal_transport_write(self->transport, data, sizeof data) < 0) {
        self->sent -= sizeof data;
    }
}

static void act_write_eof(script *self) {
    (void)tepal_transport_write_eof(self->transport);
}

static void act_pause(script *self) {
    if (tepal_transport_pause_reading(self->transport) == 0) {
        self->wants_no_data = true;
    }
}

static void act_resume(script *self) {
    self->wants_no_data = false;
    (void)tepal_transport_resume_reading(self->transport);
}

static void act_pause_and_resume(script *self) {
    act_pause(self);
    act_resume(self);
}

static void act_swap(script *self) {
    static bool is_swapping;

    if (is_swapping) {
        return; /* in the pause that the new one is told */
    }
    is_swapping = true;
    self->is_swapped = true;
    const tepal_protocol_type *type = self->protocol.type;

    self->protocol.type = type == &script_both_type ? &script_lending_type : &script_both_type;
    const bool was_paused = self->is_paused;
    self->is_paused = false; /* it is told anew */
    if (tepal_transport_set_protocol(self->transport, &self->protocol, NULL) < 0) {
        self->is_paused = was_paused;
    }
    is_swapping = false;
}

static void act_stop(script *self) {
    tepal_loop_stop(self->loop);
}

static void act_interrupt(script *self) {
    tepal_loop_interrupt(self->loop, TEPAL_EMSGSIZE);
}

static void act_close_loop(script *self) {
    if (tepal_loop_is_running(self->loop)) {
        CHECK_EQ(tepal_loop_close(self->loop), TEPAL_ERECURSION);
    }
}

static void act_flush(script *self) {
    act_write(self);
    (void)tepal_transport_flush(self->transport);
}

static void act_close_and_abort(script *self) {
    act_write(self);
    act_close(self);
    act_abort(self);
}

static void act_limits(script *self) {
    (void)tepal_transport_set_write_limits(self->transport, 1, 0, 1 << 20);
}

static void (*const acts[])(script *) = {
    act_close, act_abort,     act_write,      act_write_eof, act_pause,           act_pause_and_resume, act_swap,
    act_stop,  act_interrupt, act_close_loop, act_flush,     act_close_and_abort, act_limits,
};
enum { ACTS = sizeof acts / sizeof acts[0] };

/* Which upcall acts. */
enum { IN_MADE, IN_DATA, IN_EOF, IN_PAUSE, IN_RESUME, IN_LOST, IN_ASKED, PLACES };

static void set_hook(script *self, int place, void (*act)(script *)) {
    void (**const hooks[PLACES])(script *) = {
        &self->on_made,   &self->on_data, &self->on_eof,   &self->on_pause,
        &self->on_resume, &self->on_lost, &self->on_asked,
    };
    *hooks[place] = act;
}

/* What the descriptor is ready for when the loop turns: bits. */
enum { READABLE = 1, WRITABLE = 2, ENDED = 4, RESET = 8, COMBINATIONS = 16 };

static void make_ready(script *self, int combination) {
    if (combination & READABLE) {
        script_feed(self, 3000);
    }
    if (combination & WRITABLE) {
        (void)script_take(self);
    }
    if (combination & RESET) {
        self->is_raw = true; /* what was fed may be lost with it */
        script_reset(self);
    } else if (combination & ENDED) {
        (void)shutdown(self->peer, SHUT_WR); /* it may have been reset already */
    }
}

static void turn_until_idle(script *self) {
    for (int turns = 0, idle = 0; idle < 3; turns++) {
        const int status = tepal_loop_step(self->loop, 0);
        CHECK(status >= 0 || status == TEPAL_EMSGSIZE);
        idle = status == 0 ? idle + 1 : 0;
        CHECK_LT(turns, 10000);
    }
}

/* One connection with output that waits, input, and ends. */
static void run_case(int place, int act, int combination, bool lends, script_kind kind) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 30000, .linger_ns = TEPAL_MS(1)};
    script self = {.options = &options, .buffer_size = 1000, .answer_eof = TEPAL_KEEP_OPEN};

    self.protocol.type = lends ? &script_both_type : &script_type;
    set_hook(&self, place, acts[act]);
    script_start(&self, kind);
    script_narrow(&self);
    turn_until_idle(&self);
    for (int i = 0; i < 10 && !self.is_paused && !tepal_transport_is_closing(self.transport); i++) {
        act_write(&self);
    }
    make_ready(&self, combination);
    turn_until_idle(&self);
    act_resume(&self);
    if (self.peer >= 0) {
        (void)script_take(&self);
        script_hang_up(&self);
        self.is_raw = true;
    }
    turn_until_idle(&self);
    if (self.losts == 0) {
        act_abort(&self);
        turn_until_idle(&self);
    }
    script_close(&self);
}

static void run_cases(bool lends, script_kind kind) {
    for (int place = 0; place < PLACES; place++) {
        for (int act = 0; act < ACTS; act++) {
            for (int combination = 0; combination < COMBINATIONS; combination++) {
                run_case(place, act, combination, lends, kind);
            }
        }
    }
}

SCRIPT_TEST(every_upcall, may_do_anything_whatever_the_descriptor_is_ready_for) {
    test_set_timeout(60);
    run_cases(false, SCRIPT_TCP);
    run_cases(false, SCRIPT_UNIX);
}

SCRIPT_TEST(every_upcall, may_do_anything_also_with_lent_buffers) {
    test_set_timeout(60);
    run_cases(true, SCRIPT_TCP);
}

/* ---- Closing others ---- */

enum { CROWD = 50 };
static script crowd[CROWD];

static void close_all(script *self) {
    (void)self;
    for (int i = 0; i < CROWD; i++) {
        if (i % 2 == 0) {
            act_close(&crowd[i]);
        } else {
            act_abort(&crowd[i]);
        }
    }
}

static void check_crowd(int place) {
    memset(crowd, 0, sizeof crowd);
    for (int i = 0; i < CROWD; i++) {
        crowd[i].loop = i == 0 ? script_loop() : tepal_loop_ref(crowd[0].loop);
        crowd[i].answer_eof = TEPAL_KEEP_OPEN;
        script_open(&crowd[i], SCRIPT_TCP);
    }
    for (int i = 0; i < CROWD; i++) {
        set_hook(&crowd[i], place, close_all);
        script_feed(&crowd[i], 100);
        if (place == IN_EOF) {
            CHECK_EQ(shutdown(crowd[i].peer, SHUT_WR), 0);
        }
        test_poll(crowd[i].fd, POLLIN);
    }
    if (place == IN_LOST) {
        act_close(&crowd[7]);
    }
    turn_until_idle(&crowd[0]);
    int seen = 0;
    for (int i = 0; i < CROWD; i++) {
        CHECK_EQ(crowd[i].losts, 1);
        seen += crowd[i].received > 0;
    }
    CHECK_LE(seen, place == IN_DATA ? 1 : CROWD);
    for (int i = 0; i < CROWD; i++) {
        script_close(&crowd[i]);
    }
}

SCRIPT_TEST(every_upcall, may_close_all_the_others_that_are_ready_too) {
    check_crowd(IN_DATA);
    check_crowd(IN_EOF);
    check_crowd(IN_LOST);
}

SCRIPT_TEST(every_upcall, may_close_all_the_others_while_the_loop_ends) {
    memset(crowd, 0, sizeof crowd);
    for (int i = 0; i < CROWD; i++) {
        crowd[i].loop = i == 0 ? script_loop() : tepal_loop_ref(crowd[0].loop);
        script_open(&crowd[i], SCRIPT_UNIX);
    }
    for (int i = 0; i < CROWD; i++) {
        crowd[i].on_lost = close_all;
    }
    for (int i = 0; i < CROWD; i++) {
        script_close(&crowd[i]);
    }
}
