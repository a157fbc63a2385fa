/* What is corked together: more transports than have a cork each, and writes that handing down brings about. */
#include "conformance/script.h"

#include <errno.h>
#include <stdlib.h>

enum { MEMBERS = 70 /* more than may be corked at once */, WRITTEN = 10 };

typedef struct choir {
    script members[MEMBERS + 1];
    script *echo;     /* the last member: what the first one's filter writes, too */
    tepal_filter tee; /* the first one's */
    tepal_loop *loop;
} choir;

static choir *singing;

/* Everything that passes here is written to another transport as well. */
static int tee_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    size_t length = 0;

    for (size_t i = 0; i < count; i++) {
        length += pieces[i].iov_len;
    }
    script_write(singing->echo, length);
    return tepal_filter_down_write(filter, pieces, count);
}

static const tepal_filter_type tee_type = {.size = sizeof tee_type, .write = tee_write};

static void sing(void *argument) {
    choir *all = argument;

    for (int i = 0; i < MEMBERS; i++) {
        script_write(&all->members[i], WRITTEN);
    }
}

SCRIPT_TEST(corks, one_handed_down_to_make_room_may_bring_about_another_and_none_is_lost) {
    choir *all = calloc(1, sizeof *all);

    CHECK(all != NULL);
    singing = all;
    all->loop = script_loop();
    all->echo = &all->members[MEMBERS];
    for (int i = 0; i <= MEMBERS; i++) {
        all->members[i].loop = i == 0 ? all->loop : tepal_loop_ref(all->loop);
        script_open(&all->members[i], SCRIPT_UNIX);
    }
    all->tee.type = &tee_type;
    CHECK_OK(tepal_transport_push_filter(all->members[0].transport, &all->tee, NULL));
    CHECK_OK(tepal_loop_call_soon(all->loop, sing, all, NULL));
    RUN_UNTIL(all->loop, all->members[MEMBERS - 1].sent == WRITTEN);
    for (int i = 0; i <= MEMBERS; i++) {
        CHECK_EQ(all->members[i].sent, WRITTEN);
        script_take_until(&all->members[i], WRITTEN);
    }
    for (int i = 0; i <= MEMBERS; i++) {
        script_close(&all->members[i]);
    }
    free(all);
}

SCRIPT_TEST(corks, many_pieces_that_fail_in_the_middle_are_an_error_of_the_connection_alone) {
    static uint8_t zeros[100];
    struct iovec pieces[1000];
    script self = {0};

    for (size_t i = 0; i < 1000; i++) {
        pieces[i] = (struct iovec){.iov_base = zeros, .iov_len = sizeof zeros};
    }
    script_open(&self, SCRIPT_TCP);
    sends_fail_after(0, EPIPE);
    CHECK_EQ(CALL(&self, tepal_transport_writev(self.transport, pieces, 1000)), 0);
    RUN_UNTIL(self.loop, self.losts == 1);
    sends_fail_after(0, 0);
    CHECK_EQ(self.lost_code, TEPAL_EPIPE);
    script_close(&self);
}

/* One alone, then another, then both again until what is corked has to make room: in which order each was written is kept. */
static void write_in_turns(void *argument) {
    script *both = argument;

    script_write(&both[0], 10);
    script_write(&both[0], 20);
    for (int i = 0; i < 4; i++) {
        script_write(&both[1], 5000);
        script_write(&both[0], 5000);
    }
}

SCRIPT_TEST(corks, one_that_wrote_alone_goes_on_when_another_has_written) {
    script both[2] = {{.loop = NULL}, {.loop = NULL}};

    script_open(&both[0], SCRIPT_UNIX);
    both[1].loop = tepal_loop_ref(both[0].loop);
    script_open(&both[1], SCRIPT_UNIX);
    for (int round = 1; round <= 3; round++) {
        CHECK_OK(tepal_loop_call_soon(both[0].loop, write_in_turns, both, NULL));
        script_take_until(&both[0], (uint64_t)round * 20030);
        script_take_until(&both[1], (uint64_t)round * 20000);
    }
    script_close(&both[0]);
    script_close(&both[1]);
}
