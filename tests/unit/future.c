/* Futures: results, errors, cancellation, callbacks and references. */
#include <pthread.h>
#include "unit/future_fixture.h"

TEST(future, a_new_one_is_pending) {
    fixture self;
    void *value = &self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK(!tepal_future_is_done(future));
    CHECK(!tepal_future_is_canceled(future));
    CHECK_EQ(tepal_future_result(future, &value), TEPAL_EPENDING);
    CHECK(value == &self);
    CHECK(tepal_future_error(future) == NULL);
    CHECK(tepal_future_loop(future) == self.loop);
    tepal_future_unref(future);
    tepal_future_unref(NULL);
    fixture_end(&self);
}

TEST(future, a_value_is_the_futures_until_it_dies) {
    fixture self;
    int destroyed = 0;
    void *value = NULL;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_EQ(tepal_future_set_result(future, &destroyed, count_destroy), 0);
    CHECK_OK(tepal_future_result(future, &value));
    CHECK_OK(tepal_future_result(future, NULL));
    CHECK(value == &destroyed);
    CHECK(tepal_future_error(future) == NULL);
    tepal_future_unref(tepal_future_ref(future));
    CHECK_EQ(destroyed, 0);
    tepal_future_unref(future);
    CHECK_EQ(destroyed, 1);
    fixture_end(&self);
}

TEST(future, a_second_result_is_refused_and_stays_the_callers) {
    fixture self;
    int destroyed = 0;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK_EQ(tepal_future_set_result(future, &destroyed, count_destroy), TEPAL_EDONE);
    CHECK_EQ(tepal_future_set_code(future, TEPAL_EPIPE), TEPAL_EDONE);
    CHECK(!tepal_future_cancel(future));
    tepal_future_unref(future);
    CHECK_EQ(destroyed, 0);
    fixture_end(&self);
}

TEST(future, an_error_is_copied_with_its_text_address_and_chain) {
    fixture self;
    char text[] = "the second one";
    tepal_address address;
    tepal_error first = {.code = TEPAL_EPIPE, .text = "the first one"};
    tepal_error second = {.code = TEPAL_EBUSY, .text = text, .address = &address, .next = &first};

    fixture_start(&self, true);
    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 80));
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_set_error(future, &second));
    memset(text, 'x', sizeof text - 1);
    memset(&address, 0, sizeof address);
    memset(&first, 0, sizeof first);
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_EBUSY);
    const tepal_error *error = tepal_future_error(future);
    CHECK_STR(error->text, "the second one");
    CHECK_EQ(tepal_address_port(error->address), 80);
    CHECK_EQ(error->next->code, TEPAL_EPIPE);
    CHECK_STR(error->next->text, "the first one");
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, an_error_is_copied_even_if_all_it_has_is_an_address_or_a_chain) {
    fixture self;
    tepal_address address;
    fixture_start(&self, true);
    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 80));
    const tepal_error first = {.code = TEPAL_EPIPE};
    const tepal_error errors[] = {{.code = TEPAL_EBUSY, .address = &address}, {.code = TEPAL_EBUSY, .next = &first}};
    for (int i = 0; i < 2; i++) {
        tepal_future *future = new_future(&self);
        CHECK_OK(tepal_future_set_error(future, &errors[i]));
        const tepal_error *copy = tepal_future_error(future);
        CHECK_STR(copy->text, tepal_strerror(TEPAL_EBUSY));
        CHECK_EQ(copy->address != NULL && tepal_address_port(copy->address) == 80, i == 0);
        CHECK_EQ(copy->next != NULL && copy->next->code == TEPAL_EPIPE, i == 1);
        tepal_future_unref(future);
    }
    fixture_end(&self);
}

TEST(future, a_code_alone_gets_its_sentence_and_needs_no_memory) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    const size_t calls = test_alloc_calls();
    CHECK_OK(tepal_future_set_code(future, TEPAL_EBUSY));
    CHECK_EQ(test_alloc_calls(), calls);
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_EBUSY);
    CHECK_STR(tepal_future_error(future)->text, tepal_strerror(TEPAL_EBUSY));
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, an_error_keeps_its_code_if_memory_is_short) {
    fixture self;
    const tepal_error error = {.code = TEPAL_EBUSY, .text = "a long story"};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    test_alloc_fail_at(1, false);
    CHECK_OK(tepal_future_set_error(future, &error));
    CHECK(test_alloc_has_failed());
    test_alloc_fail_at(0, false);
    CHECK_EQ(tepal_future_error(future)->code, TEPAL_EBUSY);
    CHECK_STR(tepal_future_error(future)->text, tepal_strerror(TEPAL_EBUSY));
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, what_is_no_error_is_refused) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_EQ(tepal_future_set_code(future, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_set_code(future, 7), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_set_error(future, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_add_done_callback(future, NULL, NULL), TEPAL_EINVAL);
    CHECK(!tepal_future_is_done(future));
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, callbacks_run_from_the_ready_queue_in_call_soon_order) {
    fixture self;
    note notes[] = {{&self, 'a'}, {&self, 'b'}, {&self, 'c'}, {&self, 'd'}, {&self, 'e'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[1]));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[2]));
    CHECK_OK(tepal_loop_call_soon(self.loop, write_note, &notes[0], NULL));
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK_STR(self.log, ""); /* never inside the call */
    CHECK_OK(tepal_loop_call_soon(self.loop, write_note, &notes[3], NULL));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[4]));
    turn(&self);
    CHECK_STR(self.log, "abcde");
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, the_first_callback_needs_no_memory_again_and_again) {
    fixture self;
    note notes[] = {{&self, 'a'}, {&self, 'b'}, {&self, 'c'}};

    fixture_start(&self, false);
    tepal_future *future = new_future(&self);
    test_alloc_fail_at(1, true);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[0]));
    CHECK_EQ(tepal_future_add_done_callback(future, note_done, &notes[1]), TEPAL_ENOMEM);
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[0]), 1);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[1]));
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    turn(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[2]));
    turn(&self);
    test_alloc_fail_at(0, false);
    CHECK_STR(self.log, "bc");
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, removed_callbacks_do_not_run_whether_pending_or_queued) {
    fixture self;
    note notes[] = {{&self, 'a'}, {&self, 'b'}, {&self, 'c'}, {&self, 'd'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[i]));
        }
    }
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[0]), 2);
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[0]), 0);
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[3]), 2);
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[3]), 0);
    turn(&self);
    CHECK_STR(self.log, "bcbc");
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &notes[1]), 0);
    tepal_future_unref(future);
    fixture_end(&self);
}

typedef struct meddler {
    note mine, others;
} meddler;

static void remove_other_and_add_mine(tepal_future *future, void *argument) {
    meddler *self = argument;
    CHECK_EQ(tepal_future_remove_done_callback(future, note_done, &self->others), 1);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &self->mine));
}

TEST(future, a_callback_may_remove_later_ones_and_add_new_ones) {
    fixture self;
    meddler both = {{&self, 'm'}, {&self, 'o'}};
    note last = {&self, 'l'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, remove_other_and_add_mine, &both));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &both.others));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &last));
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    turn(&self);
    CHECK_STR(self.log, "l");
    turn(&self);
    CHECK_STR(self.log, "lm");
    tepal_future_unref(future);
    fixture_end(&self);
}

static void look_at_value(tepal_future *future, void *argument) {
    void *value;
    CHECK_OK(tepal_future_result(future, &value));
    CHECK_EQ(*(int *)value, 0); /* not destroyed yet */
    write_note(argument);
}

TEST(future, it_lives_until_its_callbacks_have_run) {
    fixture self;
    int destroyed = 0;
    note notes[] = {{&self, 'a'}, {&self, 'b'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, look_at_value, &notes[0]));
    CHECK_OK(tepal_future_add_done_callback(future, look_at_value, &notes[1]));
    CHECK_OK(tepal_future_set_result(future, &destroyed, count_destroy));
    tepal_future_unref(future);
    turn(&self);
    CHECK_STR(self.log, "ab");
    CHECK_EQ(destroyed, 1);
    fixture_end(&self);
}

TEST(future, one_that_dies_pending_drops_its_callbacks) {
    fixture self;
    note notes[] = {{&self, 'a'}, {&self, 'b'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[0]));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[1]));
    tepal_future_unref(future);
    turn(&self);
    CHECK_STR(self.log, "");
    fixture_end(&self);
}

static void note_cancel(tepal_future *future, void *argument) {
    CHECK(tepal_future_is_canceled(future));
    CHECK_EQ(tepal_future_set_result(future, NULL, NULL), TEPAL_EDONE);
    CHECK(!tepal_future_cancel(future));
    write_note(argument);
}

TEST(future, cancelling_tells_the_hook_at_once_and_callbacks_later) {
    fixture self;
    note hook = {&self, 'h'}, done = {&self, 'd'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    tepal_future_set_cancel_hook(future, note_cancel, &hook);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &done));
    CHECK(tepal_future_cancel(future));
    CHECK_STR(self.log, "h");
    CHECK(!tepal_future_cancel(future));
    turn(&self);
    CHECK_STR(self.log, "hd");
    CHECK(tepal_future_is_canceled(future));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECANCELED);
    CHECK_EQ(tepal_future_error(future)->code, TEPAL_ECANCELED);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(future, the_hook_is_not_called_once_it_is_removed_or_the_future_is_done) {
    fixture self;
    note hook = {&self, 'h'};

    fixture_start(&self, true);
    tepal_future *removed = new_future(&self), *done = new_future(&self);
    tepal_future_set_cancel_hook(removed, note_cancel, &hook);
    tepal_future_set_cancel_hook(removed, NULL, NULL);
    CHECK(tepal_future_cancel(removed));
    tepal_future_set_cancel_hook(done, note_cancel, &hook);
    CHECK_OK(tepal_future_set_result(done, &self, NULL));
    tepal_future_set_cancel_hook(done, note_cancel, &hook);
    CHECK(!tepal_future_cancel(done));
    void *value;
    CHECK_OK(tepal_future_result(done, &value));
    CHECK(value == &self);
    CHECK_STR(self.log, "");
    tepal_future_unref(removed);
    tepal_future_unref(done);
    fixture_end(&self);
}

static void unref_future(tepal_future *future, void *argument) {
    (void)argument;
    tepal_future_unref(future);
}

TEST(future, the_hook_may_give_back_the_last_reference) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    tepal_future_set_cancel_hook(future, unref_future, NULL);
    CHECK(tepal_future_cancel(future));
    fixture_end(&self);
}

TEST(future, an_error_nobody_looked_at_is_reported_once_when_it_dies) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK(tepal_future_error(future) == NULL); /* looking too early is not looking */
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_EPENDING);
    CHECK_OK(tepal_future_set_code(future, TEPAL_EBUSY));
    CHECK_EQ(self.reports, 0);
    tepal_future_unref(future);
    CHECK_EQ(self.reports, 1);
    CHECK_EQ(self.reported_code, TEPAL_EBUSY);
    fixture_end(&self);
    CHECK_EQ(self.reports, 1);
}

TEST(future, an_error_somebody_looked_at_and_a_cancellation_are_not_reported) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *result = new_future(&self), *error = new_future(&self);
    tepal_future *canceled = new_future(&self), *code = new_future(&self);
    CHECK_OK(tepal_future_set_code(result, TEPAL_EBUSY));
    CHECK_EQ(tepal_future_result(result, NULL), TEPAL_EBUSY);
    CHECK_OK(tepal_future_set_code(error, TEPAL_EBUSY));
    CHECK_EQ(tepal_future_error(error)->code, TEPAL_EBUSY);
    CHECK(tepal_future_cancel(canceled));
    CHECK_OK(tepal_future_set_code(code, TEPAL_ECANCELED));
    tepal_future_unref(result);
    tepal_future_unref(error);
    tepal_future_unref(canceled);
    tepal_future_unref(code);
    CHECK_EQ(self.reports, 0);
    fixture_end(&self);
}

TEST(future, callbacks_queued_when_the_loop_closes_are_dropped) {
    fixture self;
    int destroyed = 0;
    note notes[] = {{&self, 'a'}, {&self, 'b'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[0]));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[1]));
    CHECK_OK(tepal_future_set_result(future, &destroyed, count_destroy));
    tepal_future_unref(future);
    fixture_end(&self);
    CHECK_STR(self.log, "");
    CHECK_EQ(destroyed, 1);
}

TEST(future, one_that_outlives_its_loop_takes_results_and_calls_nobody) {
    fixture self;
    note done = {&self, 'd'};
    tepal_future *none = NULL;
    void *value;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self), *canceled = new_future(&self), *failed = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &done));
    fixture_end(&self); /* the futures hold its memory */
    CHECK(tepal_loop_is_closed(tepal_future_loop(future)));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &done));
    CHECK_OK(tepal_future_set_result(future, &self, NULL));
    CHECK_OK(tepal_future_result(future, &value));
    CHECK(value == &self);
    CHECK_EQ(tepal_future_add_done_callback(future, note_done, &done), TEPAL_ECLOSED);
    CHECK(tepal_future_cancel(canceled));
    CHECK_OK(tepal_future_set_code(failed, TEPAL_ECLOSED)); /* no news: nobody is told */
    CHECK_EQ(tepal_future_new(tepal_future_loop(future), &none), TEPAL_ECLOSED);
    CHECK(none == NULL);
    CHECK_STR(self.log, "");
    tepal_future_unref(failed);
    tepal_future_unref(canceled);
    tepal_future_unref(future);
    CHECK_EQ(self.reports, 0);
}

static void *meddle_from_outside(void *argument) {
    tepal_future *future = argument;
    CHECK_EQ(tepal_future_set_result(future, NULL, NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_future_set_code(future, TEPAL_EBUSY), TEPAL_ETHREAD);
    CHECK_EQ(tepal_future_add_done_callback(future, note_done, NULL), TEPAL_ETHREAD);
    CHECK(!tepal_future_cancel(future));
    return NULL;
}

static void let_others_meddle(void *argument) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, meddle_from_outside, argument), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST(future, debug_mode_refuses_another_thread) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, let_others_meddle, future, NULL));
    turn(&self);
    CHECK(!tepal_future_is_done(future));
    CHECK_EQ(self.reports, 4);
    CHECK_EQ(self.reported_code, TEPAL_ETHREAD);
    tepal_future_unref(future);
    fixture_end(&self);
}

/* Everything that a future does, each step able to fail for want of memory. Returns whether none did. */
static bool use_every_function(fixture *self, note *notes) {
    const tepal_error error = {.code = TEPAL_EPIPE, .text = "broken"};
    tepal_future *future = NULL;
    bool complete = true;

    int code = tepal_future_new(self->loop, &future);
    if (code < 0) {
        CHECK_EQ(code, TEPAL_ENOMEM);
        CHECK(future == NULL);
        return false;
    }
    for (int i = 0; i < 3; i++) {
        code = tepal_future_add_done_callback(future, note_done, &notes[i]);
        CHECK(code == 0 || (code == TEPAL_ENOMEM && i > 0));
        complete = complete && code == 0;
    }
    CHECK_OK(tepal_future_set_error(future, &error));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_EPIPE);
    complete = complete && strcmp(tepal_future_error(future)->text, "broken") == 0;
    code = tepal_future_add_done_callback(future, note_done, &notes[3]);
    CHECK(code == 0 || code == TEPAL_ENOMEM);
    tepal_future_unref(future);
    return complete && code == 0;
}

TEST(future, each_allocation_may_fail_without_a_leak) {
    fixture self;
    note notes[] = {{&self, 'a'}, {&self, 'b'}, {&self, 'c'}, {&self, 'd'}};

    for (int onwards = 0; onwards < 2; onwards++) {
        bool complete = false;
        for (size_t n = 1; !complete; n++) {
            fixture_start(&self, false);
            const size_t before = test_alloc_live();
            test_alloc_fail_at(n, onwards);
            complete = use_every_function(&self, notes);
            const bool failed = test_alloc_has_failed();
            test_alloc_fail_at(0, false);
            CHECK_NE(complete, failed);
            turn(&self);
            CHECK_EQ(test_alloc_live(), before);
            fixture_end(&self);
        }
        CHECK_STR(self.log, "abcd");
    }
}
