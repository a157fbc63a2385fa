/*
 * A thousand connections at random acts, the same in every run. Each byte tells its position, so what is delivered is
 * checked to be a prefix of what was sent, in both directions, and the whole of it after a clean end.
 */
#include "conformance/mischief.h"
#include "conformance/script.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TOGETHER = 50 };

typedef struct model {
    script script; /* first */
    int wire;      /* what the peer's side has seen: 0, 1 at the end, or -errno */
    bool aborted, closed, ended;
} model;

static test_prng prng;
static model all[TOGETHER];

static size_t below(size_t limit) {
    return (size_t)test_prng_below(&prng, limit);
}

static void write_some(script *self) {
    uint8_t data[70000];
    const size_t length = below(below(4) == 0 ? sizeof data : 500) + 1;

    stream_fill(SCRIPT_OUT, self->sent, data, length);
    self->sent += length; /* first: a pause inside the call may write more */
    if (CALL(self, tepal_transport_write(self->transport, data, length)) < 0) {
        self->sent -= length;
    }
}

static void take_some(model *self) {
    if (self->script.peer >= 0 && self->wire == 0) {
        self->wire = script_take(&self->script);
    }
}

static void act(model *self) {
    script *inner = &self->script;

    switch (below(14)) {
    case 0:
    case 1:
    case 2:
        write_some(inner);
        break;
    case 3:
    case 4:
        if (inner->peer >= 0 && !self->ended && self->wire >= 0) {
            script_feed(inner, below(50000) + 1);
        }
        break;
    case 5:
    case 6:
        take_some(self);
        break;
    case 7:
        if (!tepal_transport_is_closing(inner->transport)) {
            script_pause(inner);
        }
        break;
    case 8:
    case 9:
        if (!tepal_transport_is_closing(inner->transport)) {
            script_resume(inner);
        }
        break;
    case 10:
        if (below(8) == 0) {
            (void)CALL(inner, tepal_transport_write_eof(inner->transport));
        }
        break;
    case 11:
        if (below(8) == 0) {
            self->closed = true;
            script_close_now(inner);
        }
        break;
    case 12:
        if (below(20) == 0) {
            self->aborted = true;
            script_abort_now(inner);
        }
        break;
    default:
        if (below(8) == 0 && inner->peer >= 0) {
            self->ended = true;
            (void)shutdown(inner->peer, SHUT_WR);
        }
        break;
    }
}

static void act_in_upcall(script *self) {
    if (below(3) == 0) {
        const int calls = self->calls;
        self->calls = 0;
        act((model *)self);
        self->calls = calls;
    }
}

static void check_end(model *self) {
    script *inner = &self->script;

    CHECK_LE(inner->received, inner->fed);
    CHECK_LE(inner->taken, inner->sent);
    if (inner->lost_code == 0 && !self->aborted && self->wire == 1) {
        CHECK_EQ(inner->taken, inner->sent);
    }
    if (inner->eofs > 0) {
        CHECK_EQ(inner->received, inner->fed);
    }
}

static void run_together(unsigned round) {
    memset(all, 0, sizeof all);
    tepal_loop *loop = script_loop();
    for (int i = 0; i < TOGETHER; i++) {
        script *inner = &all[i].script;
        inner->loop = i == 0 ? loop : tepal_loop_ref(loop);
        inner->protocol.type = i % 3 == 0 ? &script_type : i % 3 == 1 ? &script_both_type : &script_lending_type;
        inner->buffer_size = 1 + below(sizeof inner->buffer);
        inner->answer_eof = i % 4 == 0 ? 0 : TEPAL_KEEP_OPEN;
        script_open(inner, (round + (unsigned)i) % 2 == 0 ? SCRIPT_TCP : SCRIPT_UNIX);
        if (inner->losts == 0) {
            script_narrow(inner);
        }
        inner->on_data = inner->on_eof = inner->on_pause = inner->on_resume = act_in_upcall;
    }
    for (int steps = 0; steps < TOGETHER * 60; steps++) {
        model *one = &all[below(TOGETHER)];
        if (one->script.losts == 0) {
            act(one);
        }
        if (below(10) == 0) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
    }
    /* Close what is left cleanly, and let every peer read to its end. */
    int open = TOGETHER;
    const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(100);
    while (open > 0) {
        CHECK_LT(test_now_ns(), give_up_ns);
        open = 0;
        for (int i = 0; i < TOGETHER; i++) {
            script *inner = &all[i].script;
            inner->on_data = inner->on_eof = inner->on_pause = inner->on_resume = NULL;
            if (inner->losts == 0) {
                script_close_now(inner);
            }
            take_some(&all[i]);
            open += inner->losts == 0 || all[i].wire == 0;
        }
        CHECK_OK(tepal_loop_step(loop, TEPAL_MS(1)));
    }
    for (int i = 0; i < TOGETHER; i++) {
        check_end(&all[i]);
        script_close(&all[i].script);
    }
}

SCRIPT_TEST(stream_model, a_thousand_connections_at_random_lose_and_repeat_nothing) {
    const int64_t rounds = test_rounds(1000, 20);

    test_set_timeout(120);
    prng = test_prng_start(20);
    for (int64_t i = 0; i < rounds; i++) {
        run_together((unsigned)i);
    }
}

#ifdef HAVE_LIBURING
TEST_DRIVERS(completions, in_any_order_lose_and_repeat_nothing_of_connections_at_random) {
    const int64_t rounds = test_rounds(1000, 20);

    test_set_timeout(120);
    prng = test_prng_start(21);
    for (int64_t i = 0; i < rounds; i++) {
        mischief_begin((uint64_t)i, i % 4 == 0   ? MISCHIEF_ORDER
                                    : i % 4 == 1 ? MISCHIEF_HARMLESS | MISCHIEF_HARD
                                                 : MISCHIEF_HARMLESS);
        run_together((unsigned)i);
    }
}
#endif
