/* A protocol may close or abort in every upcall, and in the callback of its future. FIELD rows 4 and 21 under TLS. */
#include "conformance/tls_pair.h"

typedef enum deed { CLOSES, ABORTS, CLOSES_AND_ABORTS, PAUSES_AND_CLOSES, DEEDS } deed;
typedef enum place { IN_MADE, IN_DATA, IN_EOF, IN_PAUSE, IN_RESUME, IN_LOST, IN_FUTURE, PLACES } place;

#define ABORT_CODE TEPAL_ERROR(TEPAL_DOMAIN_USER, 9)

static void act(tls_end *self) {
    const deed *what = self->user;

    if (*what == PAUSES_AND_CLOSES && self->losts == 0) {
        (void)tepal_transport_pause_reading(self->transport);
        self->wants_no_data = true;
    }
    if (*what != ABORTS) {
        tepal_transport_close(self->transport);
    }
    if (*what == ABORTS || *what == CLOSES_AND_ABORTS) {
        tepal_transport_abort(self->transport, ABORT_CODE);
    }
}

static void act_later(tepal_future *future, void *argument) {
    tls_end *self = argument;

    if (tepal_future_error(future) == NULL) {
        act(self);
    }
}

static void fill(tls_end *self) {
    for (int i = 0; i < 4 && !tepal_transport_is_closing(self->transport); i++) {
        tls_end_write(self, 1 << 20); /* more than the kernel takes, and above the high mark */
    }
}

static void put_hook(tls_end *self, place where, deed *what) {
    void (**const hooks[])(tls_end *) = {&self->on_made,  &self->on_data,   &self->on_eof,
                                         &self->on_pause, &self->on_resume, &self->on_lost};

    self->user = what;
    if (where < IN_FUTURE) {
        *hooks[where] = act;
    } else {
        CHECK_OK(tepal_future_add_done_callback(self->future, act_later, self));
    }
}

static void try(tepal_tls_version version, bool server, place where, deed what) {
    tls_pair self = {.version = version, .way = TLS_OVER_UNIX};
    tls_end *const own = tls_side(&self, server), *const other = tls_side(&self, !server);

    if (where != IN_MADE) {
        own->on_made = fill;
    }
    other->on_made = fill;
    other->closes_at_eof = own->closes_at_eof = true;
    tls_start(&self);
    put_hook(own, where, &what);
    if (where == IN_EOF || where == IN_LOST) {
        TLS_UNTIL(&self, other->received > 100000);
        tepal_transport_close(other->transport);
    }
    TLS_UNTIL(&self, own->losts == 1);
    tls_shake(&self);
    TLS_UNTIL(&self, other->losts == other->made);
    if (where != IN_LOST && what != CLOSES_AND_ABORTS) {
        CHECK_EQ(own->lost_code, what == ABORTS ? ABORT_CODE : 0);
    } else if (where != IN_LOST) {
        CHECK(own->lost_code == ABORT_CODE ||
              own->lost_code == 0); /* closing was done with, if nothing was left to send */
    }
    if (what == ABORTS && where != IN_EOF && where != IN_LOST) {
        CHECK_EQ(other->eofs, 0);
    }
    tls_close(&self);
}

static void try_all(place where) {
    test_set_timeout(60);
    EACH_VERSION(version) {
        for (int server = 0; server < 2; server++) {
            for (deed what = CLOSES; what < DEEDS; what++) {
                try(version, server, where, what);
            }
        }
    }
}

SCRIPT_TEST(tls_upcalls, connection_made_may_close_and_abort) {
    try_all(IN_MADE);
}

SCRIPT_TEST(tls_upcalls, data_received_may_close_and_abort) {
    try_all(IN_DATA);
}

SCRIPT_TEST(tls_upcalls, eof_received_may_close_and_abort) {
    try_all(IN_EOF);
}

SCRIPT_TEST(tls_upcalls, pause_writing_may_close_and_abort) {
    try_all(IN_PAUSE);
}

SCRIPT_TEST(tls_upcalls, resume_writing_may_close_and_abort) {
    try_all(IN_RESUME);
}

SCRIPT_TEST(tls_upcalls, connection_lost_may_close_and_abort_what_is_gone) {
    try_all(IN_LOST);
}

SCRIPT_TEST(tls_upcalls, the_futures_callback_may_close_and_abort) {
    try_all(IN_FUTURE);
}
