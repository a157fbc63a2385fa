/* Pipes: everything from one transport to another, with back-pressure, half-close and errors carried across. */
#include "conformance/plumbing.h"

enum { READ_BYTES = 73728 };

TEST_DRIVERS(pipe, moves_every_byte_to_a_slow_sink_and_holds_little) {
    test_set_timeout(60);
    line all = {.reader.seed = 5};
    const uint64_t total = (uint64_t)test_rounds(256, 24) << 20;
    feed input = {0};
    uint64_t most = 0;
    uint64_t moved = 0;

    line_open(&all);
    end_narrow(&all.sink, 100000);
    line_pipe(&all);
    feed_start(&input, &all.writer, all.reader.seed, total);
    for (unsigned turn = 0; all.reader.eofs == 0; turn++) {
        if (turn % 4 == 0) { /* reads in one turn of four */
            CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
        } else if (turn % 4 == 1) {
            CHECK_OK(tepal_transport_pause_reading(all.reader.transport));
        }
        CHECK_OK(tepal_loop_step(all.loop, 0));
        const uint64_t held = tepal_transport_write_buffer_size(all.sink.transport);
        const uint64_t bytes = tepal_pipe_bytes(all.future);
        most = held > most ? held : most;
        CHECK_GE(bytes, moved);
        CHECK_GE(bytes, all.reader.received + held);
        moved = bytes;
    }
    CHECK_EQ(all.reader.received, total);
    CHECK_LE(most, 100000 + READ_BYTES);
    CHECK_GT(most, 100000); /* else nothing was slow */
    CHECK_GT(all.sink.pauses, 3);
    CHECK_EQ(all.sink.pauses, all.sink.resumes);
    line_check_result(&all, total, true);
    CHECK_EQ(all.source.received + (uint64_t)all.source.eofs, 0);
    line_close(&all);
}

TEST_DRIVERS(pipe, ends_the_sinks_writing_side_and_leaves_the_rest_open) {
    line all = {.reader.seed = 5, .writer.seed = 6, .sink.seed = 7, .reader.close_at_eof = false};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 100000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    CHECK_EQ(all.reader.received, 100000);
    line_check_result(&all, 100000, true);
    CHECK_EQ(all.source.eofs, 0); /* the pipe's, not the protocol's */

    end_write(&all.source, &all.writer, 1000);
    end_write(&all.reader, &all.sink, 1000);
    RUN_UNTIL(all.loop, all.writer.received == 1000 && all.sink.received == 1000);
    CHECK_OK(tepal_transport_write_eof(all.source.transport));
    CHECK_OK(tepal_transport_write_eof(all.reader.transport));
    RUN_UNTIL(all.loop, all.source.losts && all.sink.losts && all.writer.losts && all.reader.losts);
    CHECK_EQ(all.source.lost_code, 0);
    CHECK_EQ(all.sink.lost_code, 0);
    line_close(&all);
}

TEST_DRIVERS(pipe, several_sources_follow_each_other_into_a_sink_kept_open) {
    line all = {.reader.seed = 5};
    line more = {.reader.seed = 5};

    line_open(&all);
    end_pair(all.loop, &more.writer, &more.source);
    CHECK_OK(tepal_pipe(all.source.transport, all.sink.transport,
                        TEPAL_OPTIONS(tepal_pipe_options, .keep_sink_open = true), &all.future));
    end_write(&all.writer, &all.reader, 5000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, tepal_future_is_done(all.future));
    line_check_result(&all, 5000, true);
    settle(all.loop);
    CHECK_EQ(all.reader.eofs, 0);

    CHECK_OK(tepal_pipe(more.source.transport, all.sink.transport, NULL, &more.future));
    more.writer.sent = 5000; /* the stream goes on */
    end_write(&more.writer, &all.reader, 5000);
    CHECK_OK(tepal_transport_write_eof(more.writer.transport));
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    CHECK_EQ(all.reader.received, 10000);
    line_check_result(&more, 5000, true);
    tepal_future_unref(more.future);
    line_close(&all);
    end_free(&more.writer);
    end_free(&more.source);
}

/* Everything but the sending of the FIN that a TLS 1.2 filter would do. */
static bool never(const tepal_filter *self) {
    (void)self;
    return false;
}

static void ignore_lost(tepal_filter *self, const tepal_error *error) {
    (void)self;
    (void)error;
}

TEST_DRIVERS(pipe, closes_a_sink_that_cannot_half_close) {
    static const tepal_filter_type type = {.size = sizeof type, .can_write_eof = never, .lost = ignore_lost};
    tepal_filter filter = {.type = &type};
    line all = {.reader.seed = 5, .reader.close_at_eof = true};

    line_open(&all);
    CHECK_OK(tepal_transport_push_filter(all.sink.transport, &filter, NULL));
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 50000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.sink.losts == 1 && all.reader.eofs == 1);
    CHECK_EQ(all.reader.received, 50000);
    CHECK_EQ(all.sink.lost_code, 0);
    line_check_result(&all, 50000, true);
    CHECK_EQ(all.source.losts, 0);
    line_close(&all);
}

TEST_DRIVERS(pipe, an_eof_that_had_come_before_is_passed_on) {
    line all = {.reader.seed = 5};

    line_open(&all);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.source.eofs == 1);
    line_pipe(&all);
    CHECK(!tepal_future_is_done(all.future)); /* nothing is called from inside */
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    line_check_result(&all, 0, true);

    line again = {0};
    CHECK_EQ(tepal_pipe(all.source.transport, all.sink.transport, NULL, &again.future), TEPAL_EPIPE);
    CHECK(again.future == NULL);
    line_close(&all);
}

TEST_DRIVERS(pipe, one_cancelled_before_an_early_eof_was_passed_on_leaves_the_sink) {
    line all = {.reader.seed = 5};

    line_open(&all);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.source.eofs == 1);
    line_pipe(&all);
    CHECK(tepal_future_cancel(all.future));
    settle(all.loop);
    CHECK_EQ(all.reader.eofs, 0);
    line_close(&all);
}

/* ---- Errors and closing ---- */

static void reset_peer(end *self) {
    tepal_transport_abort(self->transport, 0); /* TCP is reset */
}

TEST_DRIVERS(pipe, an_error_of_the_source_aborts_the_sink_with_its_code) {
    line all = {.reader.seed = 5};

    line_open_tcp(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    reset_peer(&all.writer);
    RUN_UNTIL(all.loop, all.source.losts && all.sink.losts && all.reader.losts);
    CHECK_EQ(all.source.lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(all.sink.lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(all.reader.lost_code, TEPAL_SYSTEM(ECONNRESET));
    line_check_failed(&all, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(tepal_pipe_bytes(all.future), 1000);
    line_close(&all);
}

TEST_DRIVERS(pipe, an_error_of_the_sink_aborts_the_source_with_its_code) {
    line all = {.reader.seed = 5};

    line_open_tcp(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    reset_peer(&all.reader);
    RUN_UNTIL(all.loop, all.source.losts && all.sink.losts && all.writer.losts);
    CHECK_EQ(all.sink.lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(all.source.lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(all.writer.lost_code, TEPAL_SYSTEM(ECONNRESET));
    line_check_failed(&all, TEPAL_SYSTEM(ECONNRESET));
    line_close(&all);
}

TEST_DRIVERS(pipe, a_sink_closed_by_its_owner_closes_the_source) {
    line all = {.reader.seed = 5, .reader.close_at_eof = true, .writer.close_at_eof = true};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    tepal_transport_close(all.sink.transport);
    RUN_UNTIL(all.loop, all.source.losts && all.sink.losts && all.reader.losts && all.writer.losts);
    CHECK_EQ(all.source.lost_code, 0);
    CHECK_EQ(all.sink.lost_code, 0);
    line_check_result(&all, 1000, false);
    line_close(&all);
}

static void close_it(void *argument) {
    tepal_transport_close(argument);
}

TEST_DRIVERS(pipe, bytes_that_a_closing_sink_refuses_are_not_counted) {
    line all = {.reader.seed = 5, .reader.close_at_eof = true, .writer.close_at_eof = true};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    CHECK_OK(tepal_transport_flush(all.writer.transport));
    /* In the turn in which data and EOF come, before them; that the sink is closing is told in the next one. */
    CHECK_OK(tepal_loop_call_soon(all.loop, close_it, all.sink.transport, NULL));
    RUN_UNTIL(all.loop, all.source.losts && all.sink.losts && all.reader.losts);
    CHECK_EQ(all.source.lost_code, 0);
    line_check_result(&all, all.reader.received, false);
    line_close(&all);
}

static void cancel_later(void *argument) {
    tepal_future_cancel(*(tepal_future **)argument);
}

/* They are gone: if the source's own protocol went on, it would go on behind a hole. */
TEST_DRIVERS(pipe, cancelling_after_a_closing_sink_refused_bytes_comes_too_late) {
    line all = {.reader.seed = 5, .source.seed = 5, .reader.close_at_eof = true, .writer.close_at_eof = true};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    CHECK_OK(tepal_transport_flush(all.writer.transport));
    CHECK_OK(tepal_loop_call_soon(all.loop, close_it, all.sink.transport, NULL));  /* before the data come */
    CHECK_OK(tepal_loop_call_later(all.loop, 0, cancel_later, &all.future, NULL)); /* after them, in the same turn */
    CHECK_OK(tepal_loop_step(all.loop, 0));
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.sink.losts);
    settle(all.loop);
    CHECK_EQ(all.source.received, all.source.losts ? 0 : 2000); /* all, where they had not come before the cancelling */
    line_close(&all);
}

TEST_DRIVERS(pipe, a_source_closed_by_its_owner_ends_the_sinks_writing_side) {
    line all = {.reader.seed = 5, .writer.close_at_eof = true};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    tepal_transport_close(all.source.transport);
    RUN_UNTIL(all.loop, all.source.losts && all.reader.eofs == 1);
    CHECK_EQ(all.source.lost_code, 0);
    CHECK_EQ(all.sink.losts, 0);
    line_check_result(&all, 1000, false);
    line_close(&all);
}

TEST_DRIVERS(pipe, fails_where_the_sinks_writing_side_was_ended_by_its_owner) {
    line all = {.reader.seed = 5};

    line_open(&all);
    line_pipe(&all);
    CHECK_OK(tepal_transport_write_eof(all.sink.transport));
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.source.losts == 1);
    CHECK_EQ(all.source.lost_code, TEPAL_EPIPE);
    line_check_failed(&all, TEPAL_EPIPE);
    CHECK_EQ(all.sink.losts, 0);
    CHECK_EQ(tepal_pipe_bytes(all.future), 0);
    line_close(&all);
}

TEST_DRIVERS(pipe, past_the_sinks_cap_both_sides_fail_rather_than_lose_bytes) {
    line all = {.reader.seed = 5};

    line_open(&all);
    CHECK_OK(tepal_transport_set_write_limits(all.sink.transport, 100, 100, 100));
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 60000);
    RUN_UNTIL(all.loop, all.source.losts == 1 && all.sink.losts == 1);
    CHECK_EQ(all.source.lost_code, TEPAL_ENOBUFS);
    CHECK_EQ(all.sink.lost_code, TEPAL_ENOBUFS);
    line_check_failed(&all, TEPAL_ENOBUFS);
    line_close(&all);
}

TEST_DRIVERS(pipe, a_loop_that_closes_ends_it_with_ECLOSED) {
    line all = {.reader.seed = 5};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    CHECK_OK(tepal_loop_close(all.loop));
    line_check_failed(&all, TEPAL_ECLOSED);
    CHECK_EQ(all.source.lost_code, TEPAL_ECLOSED);
    CHECK_EQ(all.sink.lost_code, TEPAL_ECLOSED);
    CHECK_EQ(tepal_pipe_bytes(all.future), 1000);
    line_close(&all);
}

TEST_DRIVERS(pipe, goes_on_when_nobody_holds_its_future) {
    line all = {.reader.seed = 5};

    line_open(&all);
    line_pipe(&all);
    tepal_future_unref(all.future);
    all.future = NULL;
    end_write(&all.writer, &all.reader, 200000);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.reader.eofs == 1);
    CHECK_EQ(all.reader.received, 200000);
    line_close(&all);
}

/* ---- Cancelling ---- */

TEST_DRIVERS(pipe, one_that_is_cancelled_gives_both_transports_back) {
    line all = {.reader.seed = 5, .source.seed = 5, .sink.seed = 6};

    line_open(&all);
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 3000);
    RUN_UNTIL(all.loop, all.reader.received == 3000);
    CHECK(tepal_future_cancel(all.future));
    CHECK(tepal_future_is_canceled(all.future));
    CHECK_EQ(tepal_pipe_bytes(all.future), 3000);
    CHECK_EQ(tepal_transport_unregister_producer(all.sink.transport), TEPAL_ENOENT);

    all.source.received = 3000; /* the stream goes on */
    end_write(&all.writer, &all.reader, 3000);
    end_write(&all.reader, &all.sink, 10);
    RUN_UNTIL(all.loop, all.source.received == 6000 && all.sink.received == 10);
    CHECK_OK(tepal_transport_write_eof(all.writer.transport));
    RUN_UNTIL(all.loop, all.source.eofs == 1);
    settle(all.loop);
    CHECK_EQ(all.reader.eofs, 0);
    CHECK_EQ(all.reader.received, 3000);
    line_close(&all);
}

/* A protocol that takes up in the middle of a stream. */
static int count_received(tepal_protocol *protocol, const void *data, size_t length) {
    (void)data;
    ((end *)protocol)->received += length;
    return 0;
}

static const tepal_protocol_type counting_type = {.size = sizeof counting_type, .data_received = count_received};

/* Hold the source by a full sink. Returns when nothing moves any more. */
static void hold_source(line *self) {
    end_narrow(&self->sink, 20000);
    CHECK_OK(tepal_transport_pause_reading(self->reader.transport));
    for (int i = 0; !self->sink.is_paused; i++) {
        CHECK_LT(i, 1000);
        end_write(&self->writer, &self->reader, 10000);
        settle(self->loop);
    }
    settle(self->loop);
}

TEST_DRIVERS(pipe, one_cancelled_while_it_held_the_source_lets_it_go) {
    line all = {.reader.seed = 5, .source.seed = 5};

    line_open(&all);
    line_pipe(&all);
    hold_source(&all);
    CHECK(!tepal_transport_is_reading(all.source.transport));
    end_write(&all.writer, &all.reader, 10000);
    settle(all.loop);
    CHECK_LT(tepal_pipe_bytes(all.future), all.writer.sent);
    CHECK(tepal_future_cancel(all.future));
    CHECK(tepal_transport_is_reading(all.source.transport));

    const uint64_t moved = all.source.received = tepal_pipe_bytes(all.future);
    RUN_UNTIL(all.loop, all.source.received == all.writer.sent);
    CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
    RUN_UNTIL(all.loop, all.reader.received == moved);
    line_close(&all);
}

static tepal_future *to_cancel;

static void cancel_it(end *self) {
    CHECK_GT(tepal_transport_write_buffer_size(self->transport), 20000);
    CHECK(tepal_future_cancel(to_cancel));
    tepal_future_unref(to_cancel);
}

TEST_DRIVERS(pipe, may_be_cancelled_and_dropped_from_inside_its_own_write) {
    line all = {.reader.seed = 5, .source.seed = 5};

    line_open(&all);
    line_pipe(&all);
    to_cancel = all.future;
    all.future = NULL;
    all.sink.on_pause = cancel_it;
    all.source.protocol.type = &counting_type;
    end_narrow(&all.sink, 20000);
    CHECK_OK(tepal_transport_pause_reading(all.reader.transport));
    end_write(&all.writer, &all.reader, 1 << 20);
    RUN_UNTIL(all.loop, all.sink.is_paused);
    CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
    RUN_UNTIL(all.loop, all.reader.received + all.source.received == 1 << 20);
    CHECK_GT(all.source.received, 0);
    line_close(&all);
}

/* ---- The program's own pausing ---- */

/* A filter that counts how often it is told that the layer above takes bytes again. */
typedef struct counting_filter {
    tepal_filter filter; /* first */
    int resumes;
} counting_filter;

static int64_t pass_up(tepal_filter *self, const void *data, size_t length) {
    return tepal_filter_up_received(self, data, length);
}

static void count_resume(tepal_filter *self) {
    ((counting_filter *)self)->resumes++;
    tepal_filter_down_resume(self);
}

TEST_DRIVERS(pipe, a_source_that_the_program_has_paused_waits_for_it) {
    line all = {.reader.seed = 5};

    line_open(&all);
    CHECK_OK(tepal_transport_pause_reading(all.source.transport));
    line_pipe(&all);
    end_write(&all.writer, &all.reader, 1000);
    settle(all.loop);
    CHECK_EQ(tepal_pipe_bytes(all.future), 0);
    CHECK(!tepal_transport_is_reading(all.source.transport));
    CHECK_OK(tepal_transport_resume_reading(all.source.transport));
    RUN_UNTIL(all.loop, all.reader.received == 1000);
    line_close(&all);
}

TEST_DRIVERS(pipe, a_sink_with_room_again_does_not_undo_the_programs_pause) {
    static const tepal_filter_type type = {.size = sizeof type, .received = pass_up, .resume = count_resume};

    for (int filtered = 0; filtered < 2; filtered++) {
        counting_filter counter = {.filter.type = &type};
        line all = {.reader.seed = 5};

        line_open(&all);
        if (filtered) {
            CHECK_OK(tepal_transport_push_filter(all.source.transport, &counter.filter, NULL));
        }
        line_pipe(&all);
        hold_source(&all);
        counter.resumes = 0;
        CHECK_OK(tepal_transport_pause_reading(all.source.transport));
        end_write(&all.writer, &all.reader, 10000);
        CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
        RUN_UNTIL(all.loop, !all.sink.is_paused);
        settle(all.loop);
        const uint64_t moved = tepal_pipe_bytes(all.future);
        CHECK_LT(moved, all.writer.sent);
        CHECK_EQ(all.reader.received, moved);
        CHECK_EQ(counter.resumes, 0);
        CHECK_OK(tepal_transport_resume_reading(all.source.transport));
        RUN_UNTIL(all.loop, all.reader.received == all.writer.sent);
        CHECK_EQ(counter.resumes, filtered);
        line_close(&all);
    }
}

TEST_DRIVERS(pipe, the_programs_resume_does_not_overfill_the_sink) {
    line all = {.reader.seed = 5};

    line_open(&all);
    line_pipe(&all);
    hold_source(&all);
    const uint64_t moved = tepal_pipe_bytes(all.future);
    end_write(&all.writer, &all.reader, 10000);
    CHECK_OK(tepal_transport_pause_reading(all.source.transport));
    CHECK_OK(tepal_transport_resume_reading(all.source.transport));
    settle(all.loop);
    CHECK_EQ(tepal_pipe_bytes(all.future), moved);
    CHECK_OK(tepal_transport_resume_reading(all.reader.transport));
    RUN_UNTIL(all.loop, all.reader.received == all.writer.sent);
    line_close(&all);
}

TEST_DRIVERS(pipe, one_cancelled_keeps_the_programs_pause) {
    line all = {.reader.seed = 5, .source.seed = 5};

    line_open(&all);
    CHECK_OK(tepal_transport_pause_reading(all.source.transport));
    line_pipe(&all);
    CHECK(tepal_future_cancel(all.future));
    CHECK(!tepal_transport_is_reading(all.source.transport));
    CHECK_OK(tepal_transport_resume_reading(all.source.transport));
    CHECK(tepal_transport_is_reading(all.source.transport));
    line_close(&all);
}
