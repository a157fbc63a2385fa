/* Scenarios of failing allocations: futures, their combinations, work on threads; and what needs no loop at all. */
#include "torture/allocations.h"

#include <netinet/in.h>

static int calls;

static void count_done(tepal_future *future, void *argument) {
    CHECK(tepal_future_is_done(future));
    CHECK(argument == &calls);
    calls++;
}

static void count_canceled(tepal_future *future, void *argument) {
    CHECK(tepal_future_is_canceled(future));
    CHECK(argument == &calls);
    calls++;
}

static void count_value(void *value) {
    ++*(int *)value;
}

/* ---- One future ---- */

static void give_a_value(trial *self) {
    tepal_future *future;
    void *value = NULL;
    int destroyed = 0, expected = 0;

    calls = 0;
    if (!WORKED(tepal_future_new(self->loop, &future))) {
        return;
    }
    CHECK(tepal_future_loop(future) == self->loop);
    for (int i = 0; i < 3; i++) {
        expected += WORKED(tepal_future_add_done_callback(future, count_done, &calls));
    }
    (void)WORKED(tepal_future_add_done_callback(future, count_done, &destroyed));
    (void)tepal_future_remove_done_callback(future, count_done, &destroyed);
    CHECK_EQ(tepal_future_result(future, &value), TEPAL_EPENDING);
    CHECK_OK(tepal_future_set_result(future, &destroyed, count_value));
    (void)WORKED(tepal_loop_run_until_complete(self->loop, future)); /* it adds a callback, too */
    trial_settle(self);
    CHECK_EQ(calls, expected);
    CHECK_OK(tepal_future_result(future, &value));
    CHECK(value == &destroyed);
    tepal_future_unref(future);
    CHECK_EQ(destroyed, 1);
    self->is_finished = true;
}

ALLOCATION_TEST(a_future_gets_its_value, give_a_value)

/* An error is copied with its chain; if there is no memory for that, the code is left. */
static void give_an_error(trial *self) {
    tepal_address address;
    tepal_future *future, *other;

    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 80));
    const tepal_error first = {.code = TEPAL_EPIPE, .text = "the first", .address = &address};
    const tepal_error second = {.code = TEPAL_EBUSY, .text = "the second", .next = &first};
    if (!WORKED(tepal_future_new(self->loop, &future))) {
        return;
    }
    CHECK_OK(tepal_future_set_error(future, &second));
    const tepal_error *error = tepal_future_error(future);
    CHECK_EQ(error->code, TEPAL_EBUSY);
    if (error->next == NULL) {
        CHECK(test_alloc_has_failed());
        CHECK_STR(error->text, tepal_strerror(TEPAL_EBUSY));
    } else {
        CHECK_STR(error->text, "the second");
        CHECK_STR(error->next->text, "the first");
        CHECK_EQ(tepal_address_port(error->next->address), 80);
    }
    tepal_future_unref(future);

    if (!WORKED(tepal_future_new(self->loop, &future))) {
        return;
    }
    CHECK_OK(tepal_future_set_code(future, TEPAL_EMSGSIZE));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_EMSGSIZE);
    tepal_future_unref(future);

    if (!WORKED(tepal_future_new(self->loop, &other))) {
        return;
    }
    calls = 0;
    tepal_future_set_cancel_hook(tepal_future_ref(other), count_canceled, &calls);
    CHECK(tepal_future_cancel(other));
    CHECK_EQ(calls, 1);
    tepal_future_unref(other);
    tepal_future_unref(other);
    self->is_finished = true;
}

ALLOCATION_TEST(a_future_gets_its_error, give_an_error)

/* ---- Combinations ---- */

static void combine(trial *self) {
    tepal_future *members[4], *made;
    int count = 0;

    calls = 0;
    while (count < 4 && WORKED(tepal_future_new(self->loop, &members[count]))) {
        trial_keep(self, members[count++]);
    }
    if (count == 4) {
        int expected = 0;
        for (int kind = 0; kind < 4; kind++) {
            const int code = kind == 0   ? tepal_future_gather(self->loop, members, 4, &made)
                             : kind == 1 ? tepal_future_first(self->loop, members, 4, &made)
                             : kind == 2 ? tepal_future_wait_for(members[3], TEPAL_SEC(3600), &made)
                                         : tepal_future_shield(members[3], &made);
            if (WORKED(code)) {
                trial_keep(self, made);
                expected += WORKED(tepal_future_add_done_callback(made, count_done, &calls));
            }
        }
        if (WORKED(tepal_future_wait_for(members[3], 0, &made))) { /* a limit that has passed cancels it */
            CHECK_EQ(tepal_future_result(made, NULL), TEPAL_ETIMEDOUT);
            CHECK(tepal_future_is_canceled(members[3]));
            tepal_future_unref(made);
        }
        for (int i = 0; i < 4; i++) {
            (void)tepal_future_set_result(members[i], &calls, NULL);
        }
        trial_settle(self);
        CHECK_EQ(calls, expected);
    }
    for (int i = 0; i < count; i++) {
        (void)tepal_future_cancel(members[i]);
    }
    self->is_finished = true;
}

ALLOCATION_TEST(combinations_end_with_their_members, combine)

/* ---- Threads ---- */

static int work(void *argument, void **value) {
    *value = argument;
    return 0;
}

static void run_on_threads(trial *self) {
    tepal_future *future;
    int destroyed = 0, expected = 0;

    for (int i = 0; i < 3; i++) {
        if (WORKED(tepal_loop_run_in_executor(self->loop, work, &destroyed, count_value, &future))) {
            CHECK_OK(tepal_loop_run_until_complete(self->loop, future));
            CHECK_OK(tepal_future_result(future, NULL));
            tepal_future_unref(future);
            expected++;
        }
    }
    CHECK_EQ(destroyed, expected);
    self->is_finished = true;
}

ALLOCATION_TEST(work_on_threads_ends, run_on_threads)

static void find_addresses(trial *self) {
    tepal_future *future;

    if (WORKED(tepal_loop_getaddrinfo(self->loop, "list.stub", 80, AF_INET, false, &future))) {
        void *value;
        trial_keep(self, future);
        TRIAL_UNTIL(self, tepal_future_is_done(future));
        if (WORKED(tepal_future_result(future, &value))) {
            const tepal_addresses *found = value;
            CHECK_GE(found->count, 2);
            CHECK_EQ(tepal_address_port(&found->address[0]), 80);
        }
    }
    self->is_finished = true;
}

ALLOCATION_TEST(names_lead_to_addresses_or_fail, find_addresses)

/* ---- What allocates nothing ---- */

static void ask_for_texts(trial *self) {
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];
    const int code = tepal_error_make(TEPAL_DOMAIN_USER, 5);

    CHECK_OK(tepal_address_unix(&address, "/run/x", 6));
    CHECK_OK(tepal_address_format(&address, text, sizeof text));
    CHECK_STR(text, "unix:/run/x");
    CHECK_OK(tepal_address_parse(&address, "::1", 80));
    CHECK_EQ(tepal_address_port(&address), 80);
    CHECK_EQ(tepal_error_domain(code), TEPAL_DOMAIN_USER);
    CHECK_EQ(tepal_error_value(code), 5);
    CHECK_STR(tepal_error_name(TEPAL_ECLOSED), "TEPAL_ECLOSED");
    CHECK(strlen(tepal_strerror(code)) > 0);
    CHECK(strlen(tepal_version()) > 0);
    self->is_finished = true;
}

ALLOCATION_TEST(texts_need_no_memory, ask_for_texts)
