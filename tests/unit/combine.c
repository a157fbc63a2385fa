/* Futures made of futures: gather, first, wait_for, shield. */
#include "future/future.h"
#include "unit/future_fixture.h"

/* Three members, whose references are the test's. */
static void new_members(fixture *self, tepal_future *members[3]) {
    for (int i = 0; i < 3; i++) {
        members[i] = new_future(self);
    }
}

static void unref_all(tepal_future *const *members, int count) {
    for (int i = 0; i < count; i++) {
        tepal_future_unref(members[i]);
    }
}

TEST(combine, gather_gives_its_members_in_order_once_all_are_done) {
    fixture self;
    tepal_future *members[3], *all;
    int destroyed = 0;
    void *value;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_set_result(members[1], &destroyed, count_destroy));
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &all));
    CHECK_OK(tepal_future_set_result(members[2], &destroyed, count_destroy));
    CHECK(!tepal_future_is_done(all));
    CHECK_OK(tepal_future_set_result(members[0], &destroyed, count_destroy));
    unref_all(members, 3);
    CHECK_OK(tepal_future_result(all, &value));
    for (int i = 0; i < 3; i++) {
        CHECK(((tepal_future *const *)value)[i] == members[i]);
    }
    CHECK_EQ(destroyed, 0);
    tepal_future_unref(all);
    CHECK_EQ(destroyed, 3);
    fixture_end(&self);
}

TEST(combine, gather_of_none_is_done_at_once) {
    fixture self;
    tepal_future *all;

    fixture_start(&self, true);
    CHECK_OK(tepal_future_gather(self.loop, NULL, 0, &all));
    CHECK_OK(tepal_future_result(all, NULL));
    tepal_future_unref(all);
    fixture_end(&self);
}

TEST(combine, gather_takes_the_first_error_at_once_and_the_others_count_as_seen) {
    fixture self;
    tepal_future *members[3], *all;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &all));
    CHECK_OK(tepal_future_set_error(members[1], &(tepal_error){.code = TEPAL_EPIPE, .text = "the first to fail"}));
    CHECK_EQ(tepal_future_result(all, NULL), TEPAL_EPIPE);
    CHECK_STR(tepal_future_error(all)->text, "the first to fail");
    CHECK(!tepal_future_is_done(members[0]));
    CHECK_OK(tepal_future_set_code(members[2], TEPAL_EBUSY));
    CHECK_OK(tepal_future_set_result(members[0], NULL, NULL));
    CHECK_EQ(tepal_future_result(all, NULL), TEPAL_EPIPE);
    unref_all(members, 3);
    CHECK_STR(tepal_future_error(all)->text, "the first to fail");
    tepal_future_unref(all);
    CHECK_EQ(self.reports, 0);
    fixture_end(&self);
}

TEST(combine, an_error_of_a_gathering_nobody_looked_at_is_reported_once) {
    fixture self;
    tepal_future *members[3], *all;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &all));
    tepal_future_unref(all);
    CHECK_OK(tepal_future_set_code(members[1], TEPAL_EPIPE));
    unref_all(members, 3);
    CHECK_EQ(self.reports, 1);
    CHECK_EQ(self.reported_code, TEPAL_EPIPE);
    fixture_end(&self);
}

TEST(combine, a_cancelled_member_fails_the_gathering_which_is_not_cancelled_itself) {
    fixture self;
    tepal_future *members[3], *all;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &all));
    CHECK(tepal_future_cancel(members[2]));
    CHECK_EQ(tepal_future_result(all, NULL), TEPAL_ECANCELED);
    CHECK(!tepal_future_is_canceled(all));
    CHECK(!tepal_future_is_done(members[0]));
    tepal_future_unref(all);
    unref_all(members, 3);
    fixture_end(&self);
}

TEST(combine, cancelling_a_gathering_cancels_every_member) {
    fixture self;
    tepal_future *members[3], *all;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &all));
    CHECK_OK(tepal_future_set_result(members[1], NULL, NULL));
    CHECK(tepal_future_cancel(all));
    CHECK(tepal_future_is_canceled(all));
    CHECK(tepal_future_is_canceled(members[0]));
    CHECK(!tepal_future_is_canceled(members[1]));
    CHECK(tepal_future_is_canceled(members[2]));
    tepal_future_unref(all);
    unref_all(members, 3);
    fixture_end(&self);
}

TEST(combine, the_same_future_may_be_gathered_twice) {
    fixture self;
    tepal_future *all;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    tepal_future *twice[] = {future, future};
    CHECK_OK(tepal_future_gather(self.loop, twice, 2, &all));
    CHECK_OK(tepal_future_set_code(future, TEPAL_EPIPE));
    CHECK_EQ(tepal_future_result(all, NULL), TEPAL_EPIPE);
    tepal_future_unref(all);
    CHECK_OK(tepal_future_gather(self.loop, twice, 2, &all));
    CHECK_EQ(tepal_future_result(all, NULL), TEPAL_EPIPE);
    tepal_future_unref(all);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(combine, first_gives_the_first_future_that_ended_and_leaves_the_others_alone) {
    fixture self;
    tepal_future *members[3], *one;
    void *value;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_first(self.loop, members, 3, &one));
    CHECK(!tepal_future_is_done(one));
    CHECK_OK(tepal_future_set_code(members[1], TEPAL_EPIPE));
    CHECK_OK(tepal_future_result(one, &value));
    CHECK(value == members[1]);
    CHECK(!tepal_future_is_done(members[0]));
    CHECK_OK(tepal_future_set_result(members[0], NULL, NULL));
    tepal_future_unref(members[1]);
    CHECK_EQ(tepal_future_result(value, NULL), TEPAL_EPIPE); /* alive, by one */
    tepal_future_unref(one);
    tepal_future_unref(members[0]);
    tepal_future_unref(members[2]);
    CHECK_EQ(self.reports, 0);
    fixture_end(&self);
}

TEST(combine, what_is_done_holds_on_to_nothing_in_members_that_go_on) {
    fixture self;
    tepal_future *members[3], *made[3];

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_first(self.loop, members, 3, &made[0]));
    CHECK_OK(tepal_future_gather(self.loop, members, 3, &made[1]));
    CHECK_OK(tepal_future_shield(members[0], &made[2]));
    CHECK(tepal_future_cancel(made[2]));
    CHECK_OK(tepal_future_set_code(members[1], TEPAL_EPIPE)); /* ends the other two */
    unref_all(made, 3);
    CHECK_EQ(members[0]->kept + members[2]->kept, 0);
    CHECK_OK(tepal_future_set_result(members[0], NULL, NULL));
    CHECK_OK(tepal_future_set_result(members[2], NULL, NULL));
    unref_all(members, 3);
    CHECK_EQ(self.reports, 1); /* nobody looked at the gathering */
    fixture_end(&self);
}

TEST(combine, cancelling_first_cancels_none) {
    fixture self;
    tepal_future *members[3], *one;

    fixture_start(&self, true);
    new_members(&self, members);
    CHECK_OK(tepal_future_first(self.loop, members, 3, &one));
    CHECK(tepal_future_cancel(one));
    for (int i = 0; i < 3; i++) {
        CHECK(!tepal_future_is_done(members[i]));
    }
    tepal_future_unref(one);
    unref_all(members, 3);
    fixture_end(&self);
}

TEST(combine, what_cannot_be_combined_is_refused_and_out_is_untouched) {
    fixture self, other;
    tepal_future *out = NULL;

    fixture_start(&self, true);
    fixture_start(&other, true);
    tepal_future *mine = new_future(&self), *stranger = new_future(&other);
    tepal_future *mixed[] = {mine, stranger}, *holes[] = {mine, NULL};
    CHECK_EQ(tepal_future_gather(self.loop, mixed, 2, &out), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_gather(self.loop, holes, 2, &out), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_gather(self.loop, NULL, 1, &out), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_gather(self.loop, mixed, SIZE_MAX / 8, &out), TEPAL_ENOMEM);
    CHECK_EQ(tepal_future_first(self.loop, mixed, 2, &out), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_first(self.loop, mixed, 0, &out), TEPAL_EINVAL);
    tepal_future_unref(stranger);
    fixture_end(&other);
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(tepal_future_gather(self.loop, &mine, 1, &out), TEPAL_ECLOSED);
    CHECK_EQ(tepal_future_first(self.loop, &mine, 1, &out), TEPAL_ECLOSED);
    CHECK_EQ(tepal_future_shield(mine, &out), TEPAL_ECLOSED);
    CHECK_EQ(tepal_future_wait_for(mine, TEPAL_SEC(1), &out), TEPAL_ECLOSED);
    CHECK(out == NULL);
    tepal_future_unref(mine);
    fixture_end(&self);
}

TEST(combine, a_shield_ends_as_its_future_does) {
    fixture self;
    tepal_future *members[3], *shields[3];
    int destroyed = 0;
    void *value;

    fixture_start(&self, true);
    new_members(&self, members);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(tepal_future_shield(members[i], &shields[i]));
    }
    CHECK_OK(tepal_future_set_result(members[0], &destroyed, count_destroy));
    CHECK_OK(tepal_future_set_code(members[1], TEPAL_EPIPE));
    CHECK(tepal_future_cancel(members[2]));
    unref_all(members, 3);
    CHECK_OK(tepal_future_result(shields[0], &value));
    CHECK(value == &destroyed);
    CHECK_EQ(tepal_future_result(shields[1], NULL), TEPAL_EPIPE);
    CHECK(tepal_future_is_canceled(shields[2]));
    CHECK_EQ(destroyed, 0);
    unref_all(shields, 3);
    CHECK_EQ(destroyed, 1);
    CHECK_EQ(self.reports, 0);
    fixture_end(&self);
}

TEST(combine, cancelling_a_shield_leaves_its_future_alone) {
    fixture self;
    tepal_future *shield;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_shield(future, &shield));
    CHECK(tepal_future_cancel(shield));
    CHECK(!tepal_future_is_done(future));
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK(tepal_future_is_canceled(shield));
    tepal_future_unref(shield);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(combine, callbacks_of_the_future_itself_come_before_those_of_what_waits_for_it) {
    fixture self;
    tepal_future *shield;
    note notes[] = {{&self, 'a'}, {&self, 'b'}, {&self, 's'}};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[0]));
    CHECK_OK(tepal_future_shield(future, &shield));
    CHECK_OK(tepal_future_add_done_callback(shield, note_done, &notes[2]));
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &notes[1]));
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK_STR(self.log, "");
    turn(&self);
    CHECK_STR(self.log, "abs");
    tepal_future_unref(shield);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(combine, a_combination_that_its_maker_drops_still_calls_back) {
    fixture self;
    tepal_future *out;
    note done = {&self, 'd'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_gather(self.loop, &future, 1, &out));
    CHECK_OK(tepal_future_add_done_callback(out, note_done, &done));
    tepal_future_unref(out);
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    tepal_future_unref(future);
    turn(&self);
    CHECK_STR(self.log, "d");
    fixture_end(&self);
}

TEST(combine, a_member_that_nobody_can_complete_any_more_is_cancelled) {
    fixture self;
    tepal_future *shield, *outer, *limited;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_shield(future, &shield));
    CHECK_OK(tepal_future_gather(self.loop, &shield, 1, &outer));
    CHECK_OK(tepal_future_wait_for(future, TEPAL_SEC(1000), &limited));
    tepal_future_unref(shield);
    tepal_future_unref(limited);
    CHECK(!tepal_future_is_done(outer));
    tepal_future_unref(future);
    CHECK_EQ(tepal_future_result(outer, NULL), TEPAL_ECANCELED);
    tepal_future_unref(outer);
    fixture_end(&self);
}

/* It kept the member, which the other waited for, which kept it: nobody would ever have let go. */
TEST(combine, a_combination_that_has_ended_completes_no_member_either) {
    fixture self;
    tepal_future *first, *outer, *members[2];

    fixture_start(&self, true);
    members[0] = new_future(&self);
    members[1] = new_future(&self);
    CHECK_OK(tepal_future_first(self.loop, members, 2, &first));
    CHECK_OK(tepal_future_set_result(members[0], NULL, NULL));
    CHECK(tepal_future_is_done(first));
    CHECK_OK(tepal_future_gather(self.loop, (tepal_future *const[]){first, members[1]}, 2, &outer));
    tepal_future_unref(first);
    tepal_future_unref(members[0]);
    CHECK(!tepal_future_is_done(outer));
    tepal_future_unref(members[1]);
    CHECK_EQ(tepal_future_result(outer, NULL), TEPAL_ECANCELED);
    tepal_future_unref(outer);
    fixture_end(&self);
}

static void run_until_done(fixture *self, tepal_future *future) {
    while (!tepal_future_is_done(future)) {
        CHECK_OK(tepal_loop_step(self->loop, -1));
    }
}

TEST(combine, wait_for_ends_as_its_future_does_within_the_limit) {
    fixture self;
    tepal_future *members[3], *limited[3];

    fixture_start(&self, true);
    new_members(&self, members);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(tepal_future_wait_for(members[i], INT64_MAX, &limited[i]));
    }
    CHECK_OK(tepal_future_set_result(members[0], &self, NULL));
    CHECK_OK(tepal_future_set_code(members[1], TEPAL_EPIPE));
    CHECK(tepal_future_cancel(limited[2]));
    void *value;
    CHECK_OK(tepal_future_result(limited[0], &value));
    CHECK(value == &self);
    CHECK_EQ(tepal_future_result(limited[1], NULL), TEPAL_EPIPE);
    CHECK(tepal_future_is_canceled(members[2])); /* passed on */
    unref_all(limited, 3);
    unref_all(members, 3);
    fixture_end(&self);
}

TEST(combine, wait_for_times_out_no_earlier_than_its_limit_and_cancels_the_future) {
    fixture self;
    tepal_future *limited;
    note hook = {&self, 'h'}, done = {&self, 'd'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    tepal_future_set_cancel_hook(future, note_done, &hook);
    const int64_t start_ns = tepal_loop_time(self.loop);
    CHECK_OK(tepal_future_wait_for(future, TEPAL_MS(2), &limited));
    CHECK_OK(tepal_future_add_done_callback(limited, note_done, &done));
    run_until_done(&self, limited);
    CHECK_GE(tepal_loop_time(self.loop) - start_ns, TEPAL_MS(2));
    CHECK_EQ(tepal_future_result(limited, NULL), TEPAL_ETIMEDOUT);
    CHECK(tepal_future_is_canceled(future));
    turn(&self);
    CHECK_STR(self.log, "hd");
    tepal_future_unref(limited);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(combine, a_limit_of_nothing_is_over_at_once_unless_the_future_is_done) {
    fixture self;
    tepal_future *limited;

    fixture_start(&self, true);
    tepal_future *done = new_future(&self), *pending = new_future(&self), *canceled = new_future(&self);
    CHECK_OK(tepal_future_set_result(done, NULL, NULL));
    CHECK_OK(tepal_future_wait_for(done, 0, &limited));
    CHECK_OK(tepal_future_result(limited, NULL));
    tepal_future_unref(limited);
    CHECK_OK(tepal_future_wait_for(pending, 0, &limited));
    CHECK_EQ(tepal_future_result(limited, NULL), TEPAL_ETIMEDOUT);
    CHECK(tepal_future_is_canceled(pending));
    tepal_future_unref(limited);
    CHECK_OK(tepal_future_wait_for(canceled, INT64_MIN, &limited));
    CHECK_EQ(tepal_future_result(limited, NULL), TEPAL_ETIMEDOUT);
    tepal_future_unref(limited);
    tepal_future_unref(done);
    tepal_future_unref(pending);
    tepal_future_unref(canceled);
    fixture_end(&self);
}

TEST(combine, a_limit_holds_although_its_maker_dropped_it) {
    fixture self;
    tepal_future *limited;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_wait_for(future, TEPAL_MS(1), &limited));
    tepal_future_unref(limited);
    run_until_done(&self, future);
    CHECK(tepal_future_is_canceled(future));
    CHECK_EQ(self.reports, 1); /* nobody looked at the time-out */
    CHECK_EQ(self.reported_code, TEPAL_ETIMEDOUT);
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST(combine, combinations_outlive_their_loop_and_still_end) {
    fixture self;
    tepal_future *limited, *shield, *all, *one;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_future_wait_for(future, TEPAL_SEC(1000), &limited));
    CHECK_OK(tepal_future_shield(future, &shield));
    CHECK_OK(tepal_future_gather(self.loop, &future, 1, &all));
    CHECK_OK(tepal_future_first(self.loop, &future, 1, &one));
    tepal_future_unref(one);
    fixture_end(&self);
    CHECK_OK(tepal_future_set_result(future, NULL, NULL));
    CHECK_OK(tepal_future_result(limited, NULL));
    CHECK_OK(tepal_future_result(shield, NULL));
    CHECK_OK(tepal_future_result(all, NULL));
    tepal_future_unref(limited);
    tepal_future_unref(shield);
    tepal_future_unref(all);
    tepal_future_unref(future);
}

/* One of each over three members; then the members end. Returns whether all could be made. */
static bool make_one_of_each(fixture *self, tepal_future **members) {
    tepal_future *made[4] = {NULL, NULL, NULL, NULL};
    const int codes[4] = {
        tepal_future_gather(self->loop, members, 3, &made[0]),
        tepal_future_first(self->loop, members, 3, &made[1]),
        tepal_future_wait_for(members[0], TEPAL_SEC(1000), &made[2]),
        tepal_future_shield(members[0], &made[3]),
    };
    bool complete = true;

    for (int i = 0; i < 4; i++) {
        CHECK(codes[i] == 0 || codes[i] == TEPAL_ENOMEM);
        CHECK_EQ(codes[i] == 0, made[i] != NULL);
        complete = complete && codes[i] == 0;
    }
    for (int i = 0; i < 3; i++) {
        CHECK_OK(tepal_future_set_result(members[i], NULL, NULL));
    }
    for (int i = 0; i < 4; i++) {
        CHECK(made[i] == NULL || tepal_future_is_done(made[i]));
    }
    unref_all(made, 4);
    return complete;
}

TEST(combine, each_allocation_may_fail_without_a_leak) {
    fixture self;
    tepal_future *members[3];

    for (int onwards = 0; onwards < 2; onwards++) {
        bool complete = false;
        for (size_t n = 1; !complete; n++) {
            fixture_start(&self, false);
            new_members(&self, members);
            const size_t before = test_alloc_live();
            test_alloc_fail_at(n, onwards);
            complete = make_one_of_each(&self, members);
            CHECK_NE(complete, test_alloc_has_failed());
            test_alloc_fail_at(0, false);
            CHECK_EQ(test_alloc_live(), before);
            unref_all(members, 3);
            fixture_end(&self);
        }
    }
}
