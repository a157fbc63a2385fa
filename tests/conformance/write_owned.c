/*
 * Owned writes: their bytes are not copied, and release runs exactly once, with the right status, unless the write
 * itself returned an error.
 */
#include "conformance/script.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

typedef struct loan {
    script *self;
    uint8_t *bytes;
    size_t length;
    int released, status;
} loan;

/* What was lent is gone at once: who looks at it later is found by ASan, or by the bytes. */
static void give_back(void *argument, int status) {
    loan *lent = argument;

    CHECK_EQ(lent->released++, 0);
    lent->status = status;
    memset(lent->bytes, 0xee, lent->length);
    free(lent->bytes);
}

static int lend(script *self, loan *lent, size_t length) {
    *lent = (loan){.self = self, .bytes = malloc(length), .length = length, .status = 1};
    CHECK(lent->bytes != NULL);
    stream_fill(SCRIPT_OUT, self->sent, lent->bytes, length);
    struct iovec pieces[3];
    const size_t third = length / 3;
    pieces[0] = (struct iovec){.iov_base = lent->bytes, .iov_len = third};
    pieces[1] = (struct iovec){.iov_base = lent->bytes + third, .iov_len = third};
    pieces[2] = (struct iovec){.iov_base = lent->bytes + 2 * third, .iov_len = length - 2 * third};
    self->sent += length;
    const int code = CALL(self, tepal_transport_write_owned(self->transport, pieces, 3, give_back, lent));
    memset(pieces, 0, sizeof pieces); /* the array itself is copied */
    if (code < 0) {
        CHECK_EQ(lent->released, 0);
        free(lent->bytes);
        self->sent -= length;
    }
    return code;
}

SCRIPT_TEST(write_owned, what_the_kernel_takes_at_once_is_released_at_once) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};
    loan lent;

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 100);
    CHECK_OK(lend(&self, &lent, 1000));
    CHECK_EQ(lent.released, 1);
    CHECK_EQ(lent.status, 0);
    script_write(&self, 100);
    script_take_until(&self, 1200);
    script_close(&self);
}

SCRIPT_TEST(write_owned, what_waits_is_released_when_the_kernel_has_it_all) {
    script self = {0};
    loan lent[40];

    script_open(&self, SCRIPT_UNIX);
    script_narrow(&self);
    for (int i = 0; i < 40; i++) {
        CHECK_OK(lend(&self, &lent[i], 20000));
        script_write(&self, 50);
    }
    CHECK_EQ(lent[39].released, 0);
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, lent[39].released == 1);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(lent[i].released, 1);
        CHECK_EQ(lent[i].status, 0);
    }
    script_close(&self);
}

/* Some loans wait; then the connection ends somehow. Each must come back with that code. */
static void check_ending(script_kind kind, void (*end_it)(script *self), int code) {
    script self = {0};
    loan lent[20];
    int early = 0, whole = 0;

    script_open(&self, kind);
    script_narrow(&self);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(lend(&self, &lent[i], 50000));
    }
    settle(self.loop);
    while (lent[early].released == 1) {
        CHECK_LT(++early, 20);
    }
    end_it(&self);
    settle(self.loop);
    CHECK_OK(tepal_loop_close(self.loop));
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(lent[i].released, 1);
        CHECK(lent[i].status == code || (lent[i].status == 0 && whole == i));
        whole += lent[i].status == 0;
    }
    CHECK_GE(whole, early); /* those that the kernel took meanwhile were whole, too */
    CHECK_LT(whole, 20);
    CHECK_EQ(self.lost_code, code == TEPAL_ECLOSED && self.user != NULL ? 0 : code);
    script_close(&self);
}

SCRIPT_TEST(write_owned, an_abort_releases_with_its_code) {
    check_ending(SCRIPT_TCP, script_abort_now, TEPAL_ETIMEDOUT);
    check_ending(SCRIPT_UNIX, script_abort_now, TEPAL_ETIMEDOUT);
}

static void abort_cleanly(script *self) {
    self->user = self;
    CALL_VOID(self, tepal_transport_abort(self->transport, 0));
}

SCRIPT_TEST(write_owned, an_abort_without_a_code_releases_with_ECLOSED) {
    check_ending(SCRIPT_TCP, abort_cleanly, TEPAL_ECLOSED);
}

static void do_nothing(script *self) {
    (void)self;
}

SCRIPT_TEST(write_owned, the_end_of_the_loop_releases_with_ECLOSED) {
    NEEDS_SENDS_AT_ONCE();
    check_ending(SCRIPT_TCP, do_nothing, TEPAL_ECLOSED);
    check_ending(SCRIPT_UNIX, script_close_now, TEPAL_ECLOSED);
}

static void reset_and_wait(script *self) {
    script_reset(self);
    RUN_UNTIL(self->loop, self->losts == 1);
}

SCRIPT_TEST(write_owned, a_reset_by_the_peer_releases_with_its_error) {
    check_ending(SCRIPT_TCP, reset_and_wait, TEPAL_SYSTEM(ECONNRESET));
}

static void count_release(void *argument, int status) {
    loan *lent = argument;

    lent->released++;
    lent->status = status;
}

SCRIPT_TEST(write_owned, an_empty_write_is_released_at_once) {
    script self = {0};
    const struct iovec empty = {.iov_base = NULL};
    loan none = {0}, one = {0};

    script_open(&self, SCRIPT_TCP);
    CHECK_OK(CALL(&self, tepal_transport_write_owned(self.transport, NULL, 0, count_release, &none)));
    CHECK_OK(CALL(&self, tepal_transport_write_owned(self.transport, &empty, 1, count_release, &one)));
    CHECK_EQ(none.released, 1);
    CHECK_EQ(one.released, 1);
    CHECK_EQ(one.status, 0);
    script_close(&self);
}

SCRIPT_TEST(write_owned, a_refused_write_is_not_released) {
    const tepal_transport_options options = {.size = sizeof options, .write_cap = 70000};
    script self = {.options = &options};
    loan lent;

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(lend(&self, &lent, 70001), TEPAL_ENOBUFS);
    CHECK_OK(tepal_transport_write_eof(self.transport));
    CHECK_EQ(lend(&self, &lent, 1), TEPAL_EPIPE);
    script_close_now(&self);
    CHECK_EQ(lend(&self, &lent, 1), TEPAL_ECLOSED);
    settle(self.loop);
    script_close(&self);
}

SCRIPT_TEST(write_owned, without_memory_the_write_is_refused_and_nothing_is_lost) {
    NEEDS_SENDS_AT_ONCE();
    for (size_t n = 1; n <= 2; n++) {
        script self = {.loop = plumbing_quiet_loop()};
        loan lent;

        script_open(&self, SCRIPT_TCP);
        script_write(&self, 100);
        test_alloc_fail_at(n, true);
        CHECK_EQ(lend(&self, &lent, 1000), TEPAL_ENOMEM);
        test_alloc_fail_at(0, false);
        CHECK_OK(lend(&self, &lent, 1000));
        CHECK_EQ(lent.released, 1);
        script_take_until(&self, 1100);
        script_close(&self);
    }
}

SCRIPT_TEST(write_owned, a_close_waits_for_it_and_releases_cleanly) {
    script self = {0};
    loan lent;

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    CHECK_OK(lend(&self, &lent, 1 << 20));
    CHECK_EQ(lent.released, 0);
    script_close_now(&self);
    script_take_end(&self);
    CHECK_EQ(self.taken, 1 << 20);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(lent.released, 1);
    CHECK_EQ(lent.status, 0);
    script_close(&self);
}

SCRIPT_TEST(write_owned, partial_sends_of_every_size_are_in_order_with_other_writes) {
    static const size_t limits[] = {1, 3, 333, 5000};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        script self = {0};
        loan lent[30];

        script_open(&self, SCRIPT_TCP);
        sends_limit(limits[i]);
        for (int k = 0; k < 30; k++) {
            CHECK_OK(lend(&self, &lent[k], (size_t)(1 + k * 7)));
            script_write(&self, (size_t)(k * 3));
        }
        script_take_until(&self, self.sent);
        RUN_UNTIL(self.loop, lent[29].released == 1);
        sends_limit(0);
        for (int k = 0; k < 30; k++) {
            CHECK_EQ(lent[k].released, 1);
            CHECK_EQ(lent[k].status, 0);
        }
        script_close(&self);
    }
}
