/* Producers: who writes is told to pause, to go on and to stop, in that order and never when it is no longer there. */
#include "conformance/plumbing.h"

#include <sys/socket.h>
#include <unistd.h>

enum { PAUSE, RESUME, STOP, UPCALLS };

/* A producer that counts what it is told, and may do something about it. */
typedef struct recorder {
    tepal_producer producer; /* first */
    end *to;
    int told[UPCALLS];
    bool streaming;
    bool is_gone; /* unregistered or stopped: must hear nothing */
    void (*act)(struct recorder *self, int upcall);
    int act_in;
    tepal_producer *next; /* for actions that register another */
} recorder;

static void tell(recorder *self, int upcall) {
    CHECK(!self->is_gone);
    self->told[upcall]++;
    if (self->streaming && upcall != STOP) {
        CHECK_EQ(self->told[PAUSE] - self->told[RESUME], upcall == PAUSE); /* alternating, pause first */
    }
    CHECK(self->streaming || upcall != PAUSE);
    CHECK_LE(self->told[STOP], 1);
    if (upcall == STOP) {
        self->is_gone = true;
    }
    if (self->act != NULL && upcall == self->act_in) {
        self->act(self, upcall);
    }
}

static void told_pause(tepal_producer *producer) {
    tell((recorder *)producer, PAUSE);
}

static void told_resume(tepal_producer *producer) {
    tell((recorder *)producer, RESUME);
}

static void told_stop(tepal_producer *producer) {
    tell((recorder *)producer, STOP);
}

static recorder recorder_of(end *to, bool streaming) {
    return (recorder){
        .producer = {.size = sizeof(tepal_producer), .pause = told_pause, .resume = told_resume, .stop = told_stop},
        .to = to,
        .streaming = streaming};
}

static void start(recorder *self) {
    CHECK_OK(tepal_transport_register_producer(self->to->transport, &self->producer, self->streaming));
}

static void unregister(recorder *self) {
    CHECK_OK(tepal_transport_unregister_producer(self->to->transport));
    self->is_gone = true;
}

/* Write to an end that does not read until more is buffered than the high mark. */
static void fill(end *from, end *to) {
    CHECK_OK(tepal_transport_pause_reading(to->transport));
    end_fill(from, to);
}

TEST_DRIVERS(producer, a_push_producer_pauses_above_the_high_mark_and_goes_on_at_the_low_one) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    end_narrow(&a, 40000);
    recorder push = recorder_of(&a, true);

    start(&push);
    settle(loop);
    CHECK_EQ(push.told[PAUSE] + push.told[RESUME], 0); /* it writes on its own */
    for (int round = 1; round <= 3; round++) {
        fill(&a, &b);
        CHECK_EQ(push.told[PAUSE], round);
        CHECK_GT(tepal_transport_write_buffer_size(a.transport), 40000);
        settle(loop);
        CHECK_EQ(push.told[RESUME], round - 1);
        CHECK_OK(tepal_transport_resume_reading(b.transport));
        RUN_UNTIL(loop, push.told[RESUME] == round);
        CHECK_LE(tepal_transport_write_buffer_size(a.transport), 10000);
        RUN_UNTIL(loop, b.received == a.sent);
    }
    CHECK_EQ(a.pauses, 3);
    CHECK_EQ(a.resumes, 3);
    plumbing_close(loop);
    CHECK_EQ(push.told[STOP], 1);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_push_producer_registered_while_writing_is_paused_is_paused_at_once) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    end_narrow(&a, 10000);
    recorder push = recorder_of(&a, true);

    fill(&a, &b);
    start(&push);
    CHECK_EQ(push.told[PAUSE], 1);
    CHECK_OK(tepal_transport_resume_reading(b.transport));
    RUN_UNTIL(loop, push.told[RESUME] == 1);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

static recorder *registered_by_pause;

static void register_recorder(end *self) {
    (void)self;
    start(registered_by_pause);
}

TEST_DRIVERS(producer, one_registered_inside_pause_writing_is_paused_once) {
    tepal_loop *loop = plumbing_loop();
    end a = {.on_pause = register_recorder};
    end b = {0};
    end_pair(loop, &a, &b);
    end_narrow(&a, 10000);
    recorder push = recorder_of(&a, true);

    registered_by_pause = &push;
    fill(&a, &b);
    CHECK_EQ(push.told[PAUSE], 1);
    CHECK_OK(tepal_transport_resume_reading(b.transport));
    RUN_UNTIL(loop, push.told[RESUME] == 1);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_pull_producer_is_asked_from_the_next_turn_on) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    recorder pull = recorder_of(&a, false);

    start(&pull);
    CHECK_EQ(pull.told[RESUME], 0);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_EQ(pull.told[RESUME], 1);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_pull_producer_that_writes_nothing_is_asked_once_a_turn) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    recorder pull = recorder_of(&a, false);

    start(&pull);
    for (int turn = 1; turn <= 5; turn++) {
        CHECK_OK(tepal_loop_step(loop, 0));
        CHECK_EQ(pull.told[RESUME], turn);
    }
    unregister(&pull);
    settle(loop);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_pull_producer_is_asked_again_only_when_its_portion_has_left) {
    tepal_loop *loop = plumbing_loop();
    end a = {.seed = 1};
    end b = {.seed = 2};
    end_pair(loop, &a, &b);
    end_narrow(&a, 100000);
    feed pull = {0};
    const uint64_t total = (uint64_t)test_rounds(64, 8) << 20;

    feed_start(&pull, &a, b.seed, total); /* checks that the buffer is empty whenever it is asked */
    CHECK_OK(tepal_transport_pause_reading(b.transport));
    settle(loop);
    CHECK_GT(tepal_transport_write_buffer_size(a.transport), 0);
    const uint64_t stuck_at = pull.sent;
    settle(loop);
    CHECK_EQ(pull.sent, stuck_at);
    CHECK_OK(tepal_transport_resume_reading(b.transport));
    RUN_UNTIL(loop, b.eofs == 1);
    CHECK_EQ(b.received, total);
    CHECK(!pull.is_stopped);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_pull_producer_waits_for_what_others_have_written) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    end_narrow(&a, 10000);
    recorder pull = recorder_of(&a, false);

    fill(&a, &b);
    start(&pull);
    settle(loop);
    CHECK_EQ(pull.told[RESUME], 0);
    CHECK_OK(tepal_transport_resume_reading(b.transport));
    RUN_UNTIL(loop, pull.told[RESUME] == 1);
    CHECK_EQ(tepal_transport_write_buffer_size(a.transport), 0);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

/* A filter that passes everything on. */
static int pass_on(tepal_filter *self, const struct iovec *pieces, size_t count) {
    return tepal_filter_down_write(self, pieces, count);
}

TEST_DRIVERS(producer, a_pull_producer_is_asked_again_over_a_filter) {
    static const tepal_filter_type type = {.size = sizeof type, .write = pass_on};
    tepal_filter filter = {.type = &type};
    tepal_loop *loop = plumbing_quiet_loop();
    end a = {0};
    end b = {.seed = 2};
    end_pair(loop, &a, &b);
    feed pull = {.portion = 1000};

    CHECK_OK(tepal_transport_push_filter(a.transport, &filter, NULL));
    feed_start(&pull, &a, b.seed, 1 << 20);
    RUN_UNTIL(loop, b.eofs == 1);
    CHECK_EQ(b.received, 1 << 20);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

static void count_release(void *argument, int status) {
    CHECK_OK(status);
    *(int *)argument += 1;
}

static int releases;

static void write_owned(recorder *self, int upcall) {
    static const char text[] = "portion";
    const struct iovec piece = {.iov_base = (void *)(uintptr_t)text, .iov_len = sizeof text};

    (void)upcall;
    if (self->told[RESUME] == 10) {
        unregister(self);
    }
    CHECK_OK(tepal_transport_write_owned(self->to->transport, &piece, 1, count_release, &releases));
}

TEST_DRIVERS(producer, a_pull_producer_of_owned_writes_is_asked_again) {
    tepal_loop *loop = plumbing_quiet_loop();
    end a = {0};
    end b = {.on_data = NULL};
    end_pair(loop, &a, &b);
    CHECK_OK(tepal_transport_pause_reading(b.transport));
    recorder pull = recorder_of(&a, false);
    pull.act = write_owned;
    pull.act_in = RESUME;

    start(&pull);
    RUN_UNTIL(loop, releases == 10);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, one_unregistered_before_it_is_asked_hears_nothing) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    recorder first = recorder_of(&a, false);
    recorder second = recorder_of(&a, false);

    start(&first);
    unregister(&first);
    settle(loop);
    start(&first); /* and one that took its place is asked instead of it */
    first.is_gone = false;
    unregister(&first);
    start(&second);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_GT(second.told[RESUME], 0);
    CHECK_EQ(first.told[RESUME], 0);
    plumbing_close(loop);
    CHECK_EQ(first.told[STOP], 0);
    CHECK_EQ(second.told[STOP], 1);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_closing_transport_tells_it_to_stop_from_the_ready_queue) {
    for (int way = 0; way < 4; way++) {
        tepal_loop *loop = plumbing_loop();
        end a = {0};
        end b = {0};
        end_tcp_pair(loop, &a, &b);
        end_narrow(&a, 10000);
        recorder producer = recorder_of(&a, way % 2 == 0);

        start(&producer);
        fill(&a, &b);
        const int paused = producer.told[PAUSE];
        if (way < 2) {
            tepal_transport_close(a.transport);
        } else {
            tepal_transport_abort(a.transport, TEPAL_ECANCELED);
        }
        CHECK_EQ(producer.told[STOP], 0);
        CHECK_EQ(tepal_transport_register_producer(a.transport, &producer.producer, true), TEPAL_ECLOSED);
        CHECK_OK(tepal_loop_step(loop, 0));
        CHECK_EQ(producer.told[STOP], 1); /* though a close is still sending */
        if (way < 2) {
            CHECK_EQ(a.losts, 0);
            CHECK_OK(tepal_transport_resume_reading(b.transport));
        }
        RUN_UNTIL(loop, a.losts == 1);
        settle(loop);
        CHECK_EQ(producer.told[PAUSE], paused);
        CHECK_EQ(producer.told[RESUME], 0);
        CHECK_EQ(tepal_transport_unregister_producer(a.transport), TEPAL_ENOENT);
        plumbing_close(loop);
        end_free(&a);
        end_free(&b);
    }
}

static int losts_when_stopped;

static void note_losts(recorder *self, int upcall) {
    (void)upcall;
    losts_when_stopped = self->to->losts;
}

TEST_DRIVERS(producer, a_lost_connection_tells_it_to_stop_before_connection_lost) {
    for (int streaming = 0; streaming < 2; streaming++) {
        tepal_loop *loop = plumbing_loop();
        end a = {0};
        int fds[2];
        test_tcp_pair(fds);
        end_adopt(loop, &a, fds[0]);
        RUN_UNTIL(loop, a.made);
        recorder producer = recorder_of(&a, streaming);
        producer.act = note_losts;
        producer.act_in = STOP;

        start(&producer);
        losts_when_stopped = -1;
        const struct linger reset = {.l_onoff = 1};
        CHECK_EQ(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
        close(fds[1]);
        RUN_UNTIL(loop, a.losts == 1);
        CHECK_EQ(a.lost_code, TEPAL_SYSTEM(ECONNRESET));
        CHECK_EQ(producer.told[STOP], 1);
        CHECK_EQ(losts_when_stopped, 0);
        plumbing_close(loop);
        end_free(&a);
    }
}

TEST_DRIVERS(producer, a_loop_that_closes_tells_it_to_stop) {
    for (int streaming = 0; streaming < 2; streaming++) {
        tepal_loop *loop = plumbing_loop();
        end a = {0};
        end b = {0};
        end_pair(loop, &a, &b);
        recorder producer = recorder_of(&a, streaming);

        start(&producer);
        plumbing_close(loop);
        CHECK_EQ(producer.told[STOP], 1);
        CHECK_EQ(producer.told[RESUME], 0);
        CHECK_EQ(a.losts, 1);
        end_free(&a);
        end_free(&b);
    }
}

TEST_DRIVERS(producer, wrong_registrations_are_refused) {
    tepal_loop *loop = plumbing_quiet_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    recorder good = recorder_of(&a, true);
    recorder bad = recorder_of(&a, true);

    bad.producer.resume = NULL;
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, true), TEPAL_EINVAL);
    bad = recorder_of(&a, true);
    bad.producer.stop = NULL;
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, true), TEPAL_EINVAL);
    bad = recorder_of(&a, true);
    bad.producer.size = 8;
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, true), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_register_producer(a.transport, NULL, true), TEPAL_EINVAL);
    bad = recorder_of(&a, true);
    bad.producer.pause = NULL;
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, true), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_unregister_producer(a.transport), TEPAL_ENOENT);

    test_alloc_fail_at(1, true);
    CHECK_EQ(tepal_transport_register_producer(a.transport, &good.producer, true), TEPAL_ENOMEM);
    test_alloc_fail_at(0, false);
    start(&good);
    bad = recorder_of(&a, false);
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, false), TEPAL_EBUSY);
    unregister(&good);
    CHECK_EQ(tepal_transport_unregister_producer(a.transport), TEPAL_ENOENT);

    CHECK_OK(tepal_transport_write_eof(a.transport));
    CHECK_EQ(tepal_transport_register_producer(a.transport, &bad.producer, false), TEPAL_EPIPE);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

TEST_DRIVERS(producer, a_pull_producer_is_not_asked_after_write_eof) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    end b = {0};
    end_pair(loop, &a, &b);
    recorder pull = recorder_of(&a, false);

    start(&pull);
    CHECK_OK(tepal_transport_write_eof(a.transport));
    settle(loop);
    CHECK_EQ(pull.told[RESUME], 0);
    CHECK_EQ(pull.told[STOP], 0);
    CHECK_OK(tepal_transport_write_eof(b.transport)); /* both sides have ended */
    RUN_UNTIL(loop, a.losts == 1);
    CHECK_EQ(pull.told[STOP], 1);
    plumbing_close(loop);
    end_free(&a);
    end_free(&b);
}

/* ---- Acting inside every upcall ---- */

static void act_unregister(recorder *self, int upcall) {
    CHECK_EQ(tepal_transport_unregister_producer(self->to->transport), upcall == STOP ? TEPAL_ENOENT : 0);
    self->is_gone = true;
}

static void act_close(recorder *self, int upcall) {
    (void)upcall;
    tepal_transport_close(self->to->transport);
}

static void act_abort(recorder *self, int upcall) {
    (void)upcall;
    tepal_transport_abort(self->to->transport, TEPAL_ECANCELED);
}

static void act_write(recorder *self, int upcall) {
    const int code = tepal_transport_write(self->to->transport, "x", 1);
    CHECK_EQ(code, upcall == STOP ? TEPAL_ECLOSED : 0);
}

static void act_write_eof(recorder *self, int upcall) {
    (void)upcall;
    (void)tepal_transport_write_eof(self->to->transport);
}

static void act_replace(recorder *self, int upcall) {
    if (upcall != STOP) {
        act_unregister(self, upcall);
    }
    const int code = tepal_transport_register_producer(self->to->transport, self->next, false);
    CHECK_EQ(code, upcall == STOP ? TEPAL_ECLOSED : 0);
}

static void (*const actions[])(recorder *, int) = {act_unregister, act_close,     act_abort,
                                                   act_write,      act_write_eof, act_replace};

static void ignore_data(end *self) {
    self->received = 0;
}

/* Run into every upcall, with action in one of them. */
static void act_in(bool streaming, int upcall, void (*action)(recorder *, int)) {
    tepal_loop *loop = plumbing_loop();
    end a = {0};
    int fds[2];
    static uint8_t data[1 << 16];
    test_tcp_pair(fds);
    end_adopt(loop, &a, fds[0]);
    RUN_UNTIL(loop, a.made);
    end_narrow(&a, 10000);
    a.on_data = ignore_data;
    recorder next = recorder_of(&a, false);
    recorder producer = recorder_of(&a, streaming);
    producer.act = action;
    producer.act_in = upcall;
    producer.next = &next.producer;

    start(&producer);
    for (int i = 0; i < 3; i++) {
        for (int writes = 0; writes < 1000 && !a.is_paused; writes++) {
            if (tepal_transport_write(a.transport, data, 4096) < 0) {
                break;
            }
            (void)tepal_transport_flush(a.transport);
        }
        for (int turn = 0; turn < 3; turn++) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
        for (int reads = 0; reads < 200 && read(fds[1], data, sizeof data) > 0; reads++) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
        for (int turn = 0; turn < 3; turn++) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
    }
    tepal_transport_close(a.transport);
    close(fds[1]);
    RUN_UNTIL(loop, a.losts == 1);
    settle(loop);
    plumbing_close(loop);
    CHECK_EQ(producer.told[STOP] + next.told[STOP], action == act_unregister && upcall != STOP ? 0 : 1);
    CHECK_GT(producer.told[upcall], 0);
    end_free(&a);
}

TEST_DRIVERS(producer, anything_may_be_done_inside_any_upcall) {
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        act_in(true, PAUSE, actions[i]);
        act_in(true, RESUME, actions[i]);
        act_in(true, STOP, actions[i]);
        act_in(false, RESUME, actions[i]);
        act_in(false, STOP, actions[i]);
    }
}
