/* Another protocol on a live transport. */
#include "conformance/script.h"

#include <poll.h>

/* A pair of protocols for one transport: the second is put on when the test says so. */
typedef struct relayed {
    script first, second;
} relayed;

static void swap(script *from, script *to) {
    tepal_protocol *old = NULL;

    /* What the one knows of the connection, the other goes on with. */
    to->loop = from->loop;
    to->transport = from->transport;
    to->fd = from->fd;
    to->peer = from->peer;
    to->made = 1;
    to->received = from->received;
    to->fed = from->fed;
    to->sent = from->sent;
    to->wants_no_data = from->wants_no_data;
    CHECK_OK(tepal_transport_set_protocol(from->transport, &to->protocol, &old));
    CHECK(old == &from->protocol);
    CHECK(tepal_transport_protocol(from->transport) == &to->protocol);
    from->losts = 1; /* any further upcall fails the test */
}

static void swap_now(script *self) {
    relayed *all = self->user;

    if (self == &all->first && self->losts == 0) {
        swap(&all->first, &all->second);
    }
}

static void open_relayed(relayed *all, const tepal_protocol_type *first, const tepal_protocol_type *second) {
    all->first.protocol.type = first;
    all->second.protocol.type = second;
    all->first.buffer_size = all->second.buffer_size = 1000;
    all->first.user = all->second.user = all;
    script_open(&all->first, SCRIPT_TCP);
}

static void close_relayed(relayed *all) {
    script_close(&all->second);
}

static const tepal_protocol_type *const kinds[] = {&script_type, &script_lending_type, &script_both_type};

SCRIPT_TEST(protocol_swap, between_two_turns_every_kind_takes_over_from_every_kind) {
    for (int from = 0; from < 3; from++) {
        for (int to = 0; to < 3; to++) {
            relayed all = {0};

            open_relayed(&all, kinds[from], kinds[to]);
            script_feed_all(&all.first, 10000);
            RUN_UNTIL(all.first.loop, all.first.received == 10000);
            swap_now(&all.first);
            script_feed_all(&all.second, 10000);
            RUN_UNTIL(all.second.loop, all.second.received == 20000);
            CHECK_EQ(all.second.made, 1);
            close_relayed(&all);
        }
    }
}

SCRIPT_TEST(protocol_swap, inside_data_the_next_bytes_are_the_new_ones) {
    for (int from = 0; from < 3; from++) {
        for (int to = 0; to < 3; to++) {
            relayed all = {.first.on_data = swap_now};

            open_relayed(&all, kinds[from], kinds[to]);
            script_feed_all(&all.first, 200000);
            all.second.fed = all.first.fed;
            RUN_UNTIL(all.first.loop, all.second.received == 200000);
            CHECK_GT(all.first.received, 0);
            close_relayed(&all);
        }
    }
}

SCRIPT_TEST(protocol_swap, inside_get_buffer_the_buffer_lent_stays_unused) {
    for (int to = 0; to < 3; to++) {
        relayed all = {.first.on_asked = swap_now};

        open_relayed(&all, &script_lending_type, kinds[to]);
        script_feed_all(&all.first, 10000);
        RUN_UNTIL(all.first.loop, all.second.received == 10000);
        CHECK_EQ(all.first.received, 0);
        close_relayed(&all);
    }
}

SCRIPT_TEST(protocol_swap, while_reading_is_paused_nothing_comes_until_resume) {
    for (int to = 0; to < 3; to++) {
        relayed all = {0};

        open_relayed(&all, &script_type, kinds[to]);
        script_pause(&all.first);
        script_feed(&all.first, 1000);
        test_poll(all.first.fd, POLLIN);
        swap_now(&all.first);
        settle(all.first.loop);
        CHECK_EQ(all.second.received, 0);
        script_resume(&all.second);
        RUN_UNTIL(all.first.loop, all.second.received == 1000);
        close_relayed(&all);
    }
}

SCRIPT_TEST(protocol_swap, the_new_one_is_told_that_writing_is_paused) {
    relayed all = {0};

    open_relayed(&all, &script_type, &script_type);
    script_narrow(&all.first);
    script_fill(&all.first);
    swap_now(&all.first);
    CHECK_EQ(all.second.pauses, 1);
    script_take_all(&all.second);
    RUN_UNTIL(all.second.loop, all.second.resumes == 1);
    CHECK_EQ(all.first.resumes, 0);
    close_relayed(&all);
}

SCRIPT_TEST(protocol_swap, inside_pause_writing_the_new_one_is_told_too_and_gets_the_resume) {
    relayed all = {.first.on_pause = swap_now};

    open_relayed(&all, &script_type, &script_type);
    script_narrow(&all.first);
    script_fill(&all.first);
    CHECK_EQ(all.second.pauses, 1);
    all.second.sent = all.first.sent;
    script_take_all(&all.second);
    RUN_UNTIL(all.second.loop, all.second.resumes == 1);
    close_relayed(&all);
}

SCRIPT_TEST(protocol_swap, the_new_one_gets_the_end_and_connection_lost) {
    relayed all = {0};

    open_relayed(&all, &script_type, &script_type);
    swap_now(&all.first);
    script_hang_up(&all.second);
    RUN_UNTIL(all.second.loop, all.second.losts == 1);
    CHECK_STR(all.second.log, "EL");
    CHECK_STR(all.first.log, "M");
    close_relayed(&all);
}

SCRIPT_TEST(protocol_swap, of_a_closing_transport_the_new_one_gets_connection_lost) {
    relayed all = {0};

    open_relayed(&all, &script_type, &script_type);
    script_close_now(&all.first);
    swap_now(&all.first);
    RUN_UNTIL(all.second.loop, all.second.losts == 1);
    CHECK_STR(all.second.log, "L");
    close_relayed(&all);
}

SCRIPT_TEST(protocol_swap, before_connection_made_the_new_one_is_made) {
    script first = {0}, second = {.protocol.type = &script_type};

    script_start(&first, SCRIPT_TCP);
    second.transport = first.transport;
    second.loop = first.loop;
    second.peer = first.peer;
    CHECK_OK(tepal_transport_set_protocol(first.transport, &second.protocol, NULL));
    RUN_UNTIL(first.loop, second.made == 1);
    CHECK_EQ(first.made, 0);
    script_close(&second);
}

SCRIPT_TEST(protocol_swap, nothing_is_put_on_by_wrong_arguments) {
    script self = {0};
    tepal_protocol empty = {0};
    tepal_protocol *old = &empty;

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(tepal_transport_set_protocol(self.transport, NULL, &old), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_set_protocol(self.transport, &empty, &old), TEPAL_EINVAL);
    CHECK(old == &empty);
    CHECK(tepal_transport_protocol(self.transport) == &self.protocol);
    script_close(&self);
}
