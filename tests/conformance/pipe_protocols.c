/* Pipes and the protocols they set aside: who hears what, when it is put back, and what is refused. */
#include "conformance/plumbing.h"

#include <sys/wait.h>
#include <unistd.h>

TEST_DRIVERS(pipe, the_sources_protocol_hears_no_data_and_no_eof_but_its_end) {
    line all = {.reader.seed = 5};

    line_open(&all);
    line_pipe(&all);
    CHECK(tepal_transport_protocol(all.source.transport) == &all.source.protocol);
    end_write(&all.writer, &all.reader, 1000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    CHECK_EQ(all.source.received, 0);
    CHECK_EQ(all.source.eofs, 0);
    CHECK_EQ(all.source.losts, 0);
    CHECK(tepal_transport_protocol(all.source.transport) == &all.source.protocol);
    tepal_transport_abort(all.source.transport, TEPAL_ECANCELED);
    RUN_UNTIL(all.loop, all.source.losts == 1);
    CHECK_EQ(all.source.lost_code, TEPAL_ECANCELED);
    CHECK(tepal_transport_protocol(all.source.transport) == NULL);
    line_close(&all);
}

TEST_DRIVERS(pipe, pauses_of_the_sources_own_writing_reach_its_protocol_once) {
    line all = {.reader.seed = 5, .writer.seed = 6};

    line_open(&all);
    end_narrow(&all.source, 20000);
    CHECK_OK(tepal_transport_pause_reading(all.writer.transport));
    end_fill(&all.source, &all.writer);
    CHECK_EQ(all.source.pauses, 1);
    line_pipe(&all); /* while it is paused; the ends check that pauses and resumes alternate */
    CHECK_EQ(all.source.pauses, 1);
    CHECK_OK(tepal_transport_resume_reading(all.writer.transport));
    RUN_UNTIL(all.loop, all.source.resumes == 1);

    CHECK_OK(tepal_transport_pause_reading(all.writer.transport));
    end_fill(&all.source, &all.writer);
    CHECK_EQ(all.source.pauses, 2);
    CHECK(tepal_future_cancel(all.future));
    CHECK_EQ(all.source.pauses, 2);
    CHECK_OK(tepal_transport_resume_reading(all.writer.transport));
    RUN_UNTIL(all.loop, all.source.resumes == 2);
    CHECK_EQ(all.source.pauses, 2);
    line_close(&all);
}

TEST_DRIVERS(pipe, a_protocol_set_on_a_piped_source_waits_in_the_old_ones_place) {
    line all = {.reader.seed = 5};
    end other = {.protocol.type = &end_type, .made = 1, .seed = 5};
    tepal_protocol *old = NULL;

    line_open(&all);
    line_pipe(&all);
    CHECK_OK(tepal_transport_set_protocol(all.source.transport, &other.protocol, &old));
    CHECK(old == &all.source.protocol);
    CHECK(tepal_transport_protocol(all.source.transport) == &other.protocol);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    CHECK_EQ(other.received, 0);

    CHECK(tepal_future_cancel(all.future));
    other.received = 1000;
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, other.received == 2000);
    line_close(&all);
    CHECK_EQ(other.losts, 1);
    CHECK_EQ(all.source.losts, 0);
}

TEST_DRIVERS(pipe, a_protocol_with_get_buffer_is_set_aside_and_lends_its_buffer_again) {
    line all = {.reader.seed = 5, .source.seed = 5, .source.protocol.type = &buffered_end_type};

    line_open(&all);
    end_write(&all.writer, &all.reader, 10000);
    RUN_UNTIL(all.loop, all.source.received == 10000);
    line_pipe(&all);
    all.reader.received = 10000;
    end_write(&all.writer, &all.reader, 100000);
    RUN_UNTIL(all.loop, all.reader.received == 110000);
    CHECK_EQ(all.source.received, 10000);
    CHECK(tepal_future_cancel(all.future));
    all.source.received = 110000;
    end_write(&all.writer, &all.reader, 10000);
    RUN_UNTIL(all.loop, all.source.received == 120000);
    line_close(&all);
}

TEST_DRIVERS(pipe, may_be_made_before_connection_made) {
    line all = {.reader.seed = 5, .loop = plumbing_loop()};
    int in[2];
    int out[2];

    test_socketpair(in);
    test_socketpair(out);
    end_adopt(all.loop, &all.source, in[1]);
    end_adopt(all.loop, &all.sink, out[0]);
    line_pipe(&all);
    CHECK_EQ(all.source.made + all.sink.made, 0);
    end_adopt(all.loop, &all.writer, in[0]);
    end_adopt(all.loop, &all.reader, out[1]);
    RUN_UNTIL(all.loop, all.writer.made == 1);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    CHECK_EQ(all.source.made, 1);
    CHECK_EQ(all.sink.made, 1);
    line_close(&all);
}

static line *upcalled;

static void pipe_now(end *self) {
    if (upcalled->future == NULL) {
        upcalled->reader.received = self->received; /* the rest of the stream is the pipe's */
        line_pipe(upcalled);
    }
}

TEST_DRIVERS(pipe, made_inside_data_received_takes_the_rest_of_the_stream) {
    for (int buffered = 0; buffered < 2; buffered++) {
        line all = {.reader.seed = 5, .source.seed = 5, .source.on_data = pipe_now};

        all.source.protocol.type = buffered ? &buffered_end_type : &end_type;
        upcalled = &all;
        line_open(&all);
        end_write(&all.writer, &all.reader, 300000);
        CHECK_OK(tepal_transport_write_eof(all.writer.transport));
        RUN_UNTIL(all.loop, all.reader.eofs == 1);
        CHECK_EQ(all.reader.received, 300000);
        CHECK_LT(all.source.received, 300000);
        line_check_result(&all, 300000 - all.source.received, true);
        line_close(&all);
    }
}

static void lost_in_pipe(tepal_future *future, void *argument) {
    (void)future;
    *(int *)argument += 1;
}

TEST_DRIVERS(pipe, its_future_tells_who_waits) {
    line all = {.reader.seed = 5};
    int told = 0;

    line_open(&all);
    line_pipe(&all);
    CHECK_OK(tepal_future_add_done_callback(all.future, lost_in_pipe, &told));
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    CHECK_OK(tepal_loop_run_until_complete(all.loop, all.future));
    settle(all.loop);
    CHECK_EQ(told, 1);
    line_check_result(&all, 0, true);
    line_close(&all);
}

static int lend_and_pipe(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    end *self = (end *)protocol;

    (void)hint;
    line_pipe(upcalled);
    *buffer = self->buffer;
    *length = sizeof self->buffer;
    return 0;
}

TEST_DRIVERS(pipe, made_inside_get_buffer_takes_what_was_to_go_there) {
    static const tepal_protocol_type type = {.size = sizeof type, .get_buffer = lend_and_pipe};
    line all = {.reader.seed = 5};

    line_open(&all);
    all.source.protocol.type = &type;
    CHECK_OK(tepal_transport_set_protocol(all.source.transport, &all.source.protocol, NULL));
    upcalled = &all;
    end_write(&all.writer, &all.reader, 100000);
    RUN_UNTIL(all.loop, all.reader.received == 100000);
    line_close(&all);
}

static void forward(end *self) {
    const uint64_t more = self->received - upcalled->sink.sent;
    end_write(&upcalled->sink, &upcalled->reader, (size_t)more);
}

TEST_DRIVERS(pipe, made_and_cancelled_at_random_it_loses_no_byte) {
    test_set_timeout(60);
    line all = {.reader.seed = 5, .source.seed = 5, .source.on_data = forward};
    test_prng prng = test_prng_start(1);
    const uint64_t total = (uint64_t)test_rounds(64, 4) << 20;
    feed input = {0};

    upcalled = &all;
    line_open(&all);
    feed_start(&input, &all.writer, all.reader.seed, total);
    while (all.reader.eofs == 0) {
        if (all.future == NULL && all.source.eofs == 0 && test_prng_below(&prng, 4) == 0) {
            line_pipe(&all);
        } else if (all.future != NULL && !tepal_future_is_done(all.future) && test_prng_below(&prng, 4) == 0) {
            CHECK(tepal_future_cancel(all.future));
            all.source.received = all.sink.sent += tepal_pipe_bytes(all.future);
            tepal_future_unref(all.future);
            all.future = NULL;
        }
        if (test_prng_below(&prng, 3) == 0) {
            end *const ends[] = {&all.source, &all.reader};
            end *which = ends[test_prng_below(&prng, 2)];
            CHECK_OK(which->is_idle ? tepal_transport_resume_reading(which->transport)
                                    : tepal_transport_pause_reading(which->transport));
            which->is_idle = !which->is_idle;
        }
        if (all.source.eofs == 1 && all.source.losts == 0 && all.future == NULL) {
            CHECK_OK(tepal_transport_write_eof(all.sink.transport));
        }
        CHECK_OK(tepal_loop_step(all.loop, 0));
    }
    CHECK_EQ(all.reader.received, total);
    line_close(&all);
}

/* A filter that has all it is asked to do done by the layers beside it. */
static int64_t pass_up(tepal_filter *self, const void *data, size_t length) {
    return tepal_filter_up_received(self, data, length);
}

static int pass_down(tepal_filter *self, const struct iovec *pieces, size_t count) {
    return tepal_filter_down_write(self, pieces, count);
}

TEST_DRIVERS(pipe, moves_every_byte_between_transports_with_filters) {
    static const tepal_filter_type type = {.size = sizeof type, .received = pass_up, .write = pass_down};
    tepal_filter filters[] = {{.type = &type}, {.type = &type}, {.type = &type}};
    line all = {.reader.seed = 5};
    feed input = {0};

    line_open(&all);
    end_narrow(&all.sink, 30000);
    CHECK_OK(tepal_transport_push_filter(all.source.transport, &filters[0], NULL));
    CHECK_OK(tepal_transport_push_filter(all.source.transport, &filters[1], NULL));
    CHECK_OK(tepal_transport_push_filter(all.sink.transport, &filters[2], NULL));
    line_pipe(&all);
    CHECK_OK(tepal_transport_pause_reading(all.reader.transport));
    feed_start(&input, &all.writer, all.reader.seed, 4 << 20);
    settle(all.loop);
    CHECK_LE(tepal_transport_write_buffer_size(all.sink.transport), 30000 + 73728);
    CHECK(!tepal_transport_is_reading(all.source.transport));
    CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    CHECK_EQ(all.reader.received, 4 << 20);
    line_check_result(&all, 4 << 20, true);
    line_close(&all);
}

/* ---- Leaving ---- */

TEST_DRIVERS(pipe, a_forked_child_gives_its_memory_back_and_the_parents_pipe_goes_on) {
    line all = {.reader.seed = 5};
    line early = {.reader.seed = 5};
    tepal_future *room;
    feed input = {.keep_open = true};
    int status;

    line_open(&all);
    line_pipe(&all);
    early.loop = all.loop;
    line_open(&early);
    CHECK_OK(tepal_transport_write_eof(early.writer.transport));
    end_narrow(&all.sink, 20000);
    CHECK_OK(tepal_transport_pause_reading(all.reader.transport));
    end_write(&all.writer, &all.reader, 400000);
    RUN_UNTIL(all.loop, early.source.eofs == 1 && all.sink.is_paused);
    line_pipe(&early); /* the end of this one is in the ready queue */
    CHECK_OK(tepal_transport_drain(all.sink.transport, &room));
    feed_start(&input, &all.source, 6, 100000);
    end_write(&all.reader, &all.sink, 10); /* in the cork */

    const pid_t child = fork();
    CHECK_GE(child, 0);
    if (child == 0) {
        tepal_future_unref(room);
        tepal_future_unref(early.future);
        end *const ends[] = {&early.writer, &early.source, &early.sink, &early.reader};
        for (int i = 0; i < 4; i++) {
            end_free(ends[i]);
        }
        CHECK_OK(tepal_loop_close(all.loop));
        CHECK_EQ(all.source.losts + all.sink.losts, 0);
        line_check_failed(&all, TEPAL_ECLOSED);
        line_close(&all);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    all.writer.seed = 6;
    CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
    RUN_UNTIL(all.loop, all.reader.received == 400000 && early.reader.eofs == 1 && all.writer.received == 100000);
    tepal_future_unref(room);
    tepal_future_unref(early.future);
    end *const ends[] = {&early.writer, &early.source, &early.sink, &early.reader};
    for (int i = 0; i < 4; i++) {
        end_free(ends[i]);
    }
    line_close(&all);
}

/* ---- What is refused ---- */

TEST_DRIVERS(pipe, wrong_pairs_are_refused_and_nothing_is_changed) {
    line all = {.reader.seed = 5, .source.seed = 5};
    line other = {.source.seed = 0};
    tepal_future *future = NULL;
    const tepal_pipe_options small = {.size = 1};

    line_open(&all);
    line_open(&other);
    CHECK_EQ(tepal_pipe(all.source.transport, all.source.transport, NULL, &future), TEPAL_EINVAL);
    CHECK_EQ(tepal_pipe(all.source.transport, other.sink.transport, NULL, &future), TEPAL_EINVAL);
    CHECK_EQ(tepal_pipe(all.source.transport, all.sink.transport, &small, &future), TEPAL_EINVAL);
    line_pipe(&all);
    CHECK_EQ(tepal_pipe(all.source.transport, all.reader.transport, NULL, &future), TEPAL_EBUSY); /* piped */
    CHECK_EQ(tepal_pipe(all.writer.transport, all.sink.transport, NULL, &future), TEPAL_EBUSY);   /* has a producer */
    CHECK(tepal_future_cancel(all.future));

    CHECK_OK(tepal_transport_write_eof(other.sink.transport));
    CHECK_EQ(tepal_pipe(other.source.transport, other.sink.transport, NULL, &future), TEPAL_EPIPE);
    tepal_transport_close(other.sink.transport);
    CHECK_EQ(tepal_pipe(other.source.transport, other.sink.transport, NULL, &future), TEPAL_ECLOSED);
    CHECK_EQ(tepal_pipe(other.sink.transport, other.source.transport, NULL, &future), TEPAL_ECLOSED);
    CHECK(future == NULL);

    end_write(&all.writer, &all.reader, 100);
    RUN_UNTIL(all.loop, all.source.received == 100);
    line_close(&other);
    line_close(&all);
}

TEST_DRIVERS(pipe, without_memory_it_is_not_made_and_nothing_is_changed) {
    line all = {.loop = plumbing_quiet_loop(), .reader.seed = 5, .source.seed = 5};
    int failures = 0;

    line_open(&all);
    for (int code = TEPAL_ENOMEM; code == TEPAL_ENOMEM;) {
        test_alloc_fail_at((size_t)failures + 1, false);
        code = tepal_pipe(all.source.transport, all.sink.transport, NULL, &all.future);
        CHECK_EQ(code, test_alloc_has_failed() ? TEPAL_ENOMEM : 0);
        test_alloc_fail_at(0, false);
        if (code < 0) {
            failures++;
            end_write(&all.writer, &all.source, 100);
            RUN_UNTIL(all.loop, all.source.received == all.writer.sent);
        }
    }
    CHECK_EQ(failures, 2); /* the pipe, and the sink's extras */
    all.reader.received = all.writer.sent;
    end_write(&all.writer, &all.reader, 100);
    RUN_UNTIL(all.loop, all.reader.received == all.writer.sent);
    line_close(&all);
}

TEST_DRIVERS(pipe, memory_that_fails_while_it_runs_ends_both_sides_or_neither) {
    int ended = 0;

    for (size_t at = 1; at < 60; at++) {
        line all = {.loop = plumbing_quiet_loop(), .reader.seed = 5};
        line_open(&all);
        line_pipe(&all);
        end_narrow(&all.sink, 20000);
        CHECK_OK(tepal_transport_pause_reading(all.reader.transport));
        end_write(&all.writer, &all.reader, 200000);
        CHECK_OK(tepal_transport_write_eof(all.writer.transport));
        test_alloc_fail_at(at, false);
        settle(all.loop);
        const bool failed = test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        (void)tepal_transport_resume_reading(all.reader.transport);
        RUN_UNTIL(all.loop, tepal_future_is_done(all.future));
        settle(all.loop);
        if (tepal_future_error(all.future) == NULL) {
            RUN_UNTIL(all.loop, all.reader.eofs == 1);
            CHECK_EQ(all.reader.received, 200000);
        } else {
            CHECK(failed);
            ended++;
        }
        line_close(&all);
        if (!failed) {
            CHECK_GT(ended, 0);
            return;
        }
    }
}

TEST_DRIVERS(pipe, the_bytes_of_another_future_are_zero) {
    tepal_loop *loop = plumbing_loop();
    tepal_future *future;

    CHECK_OK(tepal_future_new(loop, &future));
    CHECK_EQ(tepal_pipe_bytes(future), 0);
    CHECK_EQ(tepal_pipe_bytes(NULL), 0);
    tepal_future_unref(future);
    plumbing_close(loop);
}
