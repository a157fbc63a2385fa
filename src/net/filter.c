/*
 * The stack of filters: who is above and below whom, and how a call passes by those that do not care for it. A call
 * upwards ends at the protocol, a call downwards at the stream.
 */
#include "net/stream.h"
#include "future/future.h"

/* tepal_filter.reserved */
enum {
    WANTS_NO_BYTES = 1, /* the layer below was asked to pause: by the filter, or ... */
    LEFT_BYTES = 2      /* ... on its behalf, since it left bytes there; undone when the layer above resumes */
};

/* The nearest neighbour that has the function; NULL: the protocol or the socket. */
#define ABOVE(filter, member) nearest_##member((filter)->above, true)
#define DEFINE_NEAREST(member)                                                                                         \
    static tepal_filter *nearest_##member(tepal_filter *filter, bool upwards) {                                        \
        while (filter != NULL && filter->type->member == NULL) {                                                       \
            filter = upwards ? filter->above : filter->below;                                                          \
        }                                                                                                              \
        return filter;                                                                                                 \
    }

DEFINE_NEAREST(received)
DEFINE_NEAREST(received_eof)
DEFINE_NEAREST(writable)
DEFINE_NEAREST(established)
DEFINE_NEAREST(write)
DEFINE_NEAREST(write_eof)
DEFINE_NEAREST(flush)
DEFINE_NEAREST(close)

static tepal_filter *lowest(const tepal_transport *transport) {
    tepal_filter *filter = transport->filters;
    while (filter != NULL && filter->below != NULL) {
        filter = filter->below;
    }
    return filter;
}

/* Inbound: each takes the first filter that may care, which may be NULL. */

static bool is_pushed(const tepal_transport *transport, const tepal_filter *filter) {
    const tepal_filter *at = transport->filters;
    while (at != NULL && at != filter) {
        at = at->below;
    }
    return filter != NULL && at == filter;
}

static int64_t refuse(tepal_transport *transport, int code) {
    tepal_transport_abort(transport, code);
    return code;
}

static int64_t received(tepal_transport *transport, tepal_filter *filter, const uint8_t *data, size_t length);

/* The filter, which stood on below, has not used all. Both may have been popped, and freed, by what it called up. */
static int64_t leave_bytes(tepal_transport *transport, tepal_filter *filter, tepal_filter *below, const uint8_t *data,
                           size_t length, size_t used) {
    if (transport->flags & TPI_ENDED) {
        return (int64_t)used;
    }
    if (!is_pushed(transport, filter)) {
        if (below != NULL && !is_pushed(transport, below)) {
            return (int64_t)used; /* who stands in their place is found for the one below */
        }
        int64_t rest = tpi_filters_received_above(transport, below, data + used, length - used);
        return rest < 0 ? rest : (int64_t)used + rest;
    }
    if (!(filter->reserved & WANTS_NO_BYTES)) {
        if (!tepal_filter_is_paused(filter)) {
            return refuse(transport, TEPAL_EINVAL); /* nobody would ever ask for the rest */
        }
        tepal_filter_down_pause(filter); /* it has left that to us */
        filter->reserved |= LEFT_BYTES;
    }
    return (int64_t)used;
}

static int64_t received(tepal_transport *transport, tepal_filter *filter, const uint8_t *data, size_t length) {
    filter = nearest_received(filter, true);
    if (filter == NULL) {
        return tpi_protocol_received(transport, data, length);
    }
    tepal_filter *below = filter->below;
    int64_t used = filter->type->received(filter, data, length);
    if (used < 0 || (size_t)used > length) {
        return refuse(transport, used < 0 ? (int)used : TEPAL_EINVAL);
    }
    return (size_t)used == length ? used : leave_bytes(transport, filter, below, data, length, (size_t)used);
}

static int received_eof(tepal_transport *transport, tepal_filter *filter) {
    filter = nearest_received_eof(filter, true);
    if (filter == NULL) {
        return tpi_protocol_received_eof(transport);
    }
    int code = filter->type->received_eof(filter);
    if (code < 0) {
        tepal_transport_abort(transport, code);
    } else if (code == 0) {
        tepal_transport_close(transport); /* harmless if it has passed the end up, where that was done */
    }
    return code;
}

static void writable(tepal_transport *transport, tepal_filter *filter) {
    filter = nearest_writable(filter, true);
    if (filter == NULL) {
        tpi_flow_fallen(transport);
    } else {
        filter->type->writable(filter);
    }
}

int64_t tpi_filters_received(tepal_transport *transport, const uint8_t *data, size_t length) {
    return received(transport, lowest(transport), data, length);
}

int64_t tpi_filters_received_above(tepal_transport *transport, const tepal_filter *below, const uint8_t *data,
                                   size_t length) {
    tepal_filter *above = below == NULL ? lowest(transport) : is_pushed(transport, below) ? below->above : NULL;
    return received(transport, above, data, length);
}

int tpi_filters_received_eof(tepal_transport *transport) {
    return received_eof(transport, lowest(transport));
}

void tpi_filters_writable(tepal_transport *transport) {
    writable(transport, lowest(transport));
}

int64_t tepal_filter_up_received(tepal_filter *self, const void *data, size_t length) {
    if (self->transport == NULL) {
        return TEPAL_ECLOSED; /* popped by what it called up before */
    }
    if (tepal_filter_is_paused(self)) {
        return 0;
    }
    return received(self->transport, self->above, data, length);
}

int tepal_filter_up_received_eof(tepal_filter *self) {
    if (self->transport == NULL) {
        return TEPAL_ECLOSED;
    }
    return received_eof(self->transport, self->above);
}

void tepal_filter_up_writable(tepal_filter *self) {
    writable(self->transport, self->above);
}

/* Whether a future waits for this filter, or for one above it to which next, the first to care, does not stand in the way. */
static bool is_awaited(const tepal_filter *self, const tepal_filter *next) {
    const tpi_extras *extras = self->transport->extras;
    if (extras == NULL || extras->established == NULL) {
        return false;
    }
    const tepal_filter *at = self;
    while (at != NULL && at != next && at != extras->awaited) {
        at = at->above;
    }
    return (at != next || next == NULL) && at == extras->awaited;
}

void tepal_filter_up_established(tepal_filter *self) {
    tepal_transport *transport = self->transport;
    tepal_filter *filter = ABOVE(self, established);
    if (is_awaited(self, filter)) {
        tepal_future *future = transport->extras->established;
        transport->extras->established = NULL;
        (void)tepal_future_set_result(future, NULL, NULL); /* done already: it was cancelled */
        tepal_future_unref(future);
        tpi_flow_hold_setup(transport); /* until its callbacks have run, which may put another protocol here */
        tpi_setup_established(transport);
    }
    if (filter != NULL) {
        filter->type->established(filter);
    } else if (transport->flags & TPI_SETTING_UP) {
        tpi_setup_established(transport);
    }
}

bool tepal_filter_is_paused(const tepal_filter *self) {
    if (self->transport == NULL) {
        return true;
    }
    return self->above != NULL ? (self->above->reserved & WANTS_NO_BYTES) != 0
                               : (self->transport->flags & TPI_HELD_BACK) != 0;
}

/* Outbound */

static int write_down(tepal_transport *transport, tepal_filter *filter, const struct iovec *pieces, size_t count) {
    filter = nearest_write(filter, false);
    if (filter == NULL) {
        return tpi_stream_write(transport, pieces, count);
    }
    int code = filter->type->write(filter, pieces, count);
    if (code < 0) {
        tepal_transport_abort(transport, code);
    }
    return code;
}

static int write_eof_down(tepal_transport *transport, tepal_filter *filter) {
    filter = nearest_write_eof(filter, false);
    if (filter != NULL) {
        return filter->type->write_eof(filter);
    }
    if (transport->flags & TPI_ENDED) {
        return TEPAL_ECLOSED;
    }
    tpi_stream_write_eof(transport);
    return 0;
}

static void close_down(tepal_transport *transport, tepal_filter *filter) {
    filter = nearest_close(filter, false);
    if (filter == NULL) {
        tpi_stream_close(transport);
    } else {
        filter->type->close(filter);
    }
}

static void flush_down(tepal_filter *filter) {
    filter = nearest_flush(filter, false);
    if (filter != NULL) {
        filter->type->flush(filter);
    }
}

/* Pausing leaves a mark on each filter that it passes, so that is_paused() can answer for the one below. */
static void pause_down(tepal_transport *transport, tepal_filter *filter) {
    if (filter == NULL) {
        transport->flags |= TPI_BELOW_PAUSED;
        tpi_stream_update_reading(transport);
    } else if (filter->type->pause != NULL) {
        filter->type->pause(filter);
    } else {
        tepal_filter_down_pause(filter);
    }
}

static void resume_down(tepal_transport *transport, tepal_filter *filter) {
    if (filter == NULL) {
        transport->flags &= ~(uint32_t)TPI_BELOW_PAUSED;
        tpi_stream_update_reading(transport);
    } else if (filter->type->resume != NULL) {
        filter->type->resume(filter);
    } else {
        tepal_filter_down_resume(filter);
    }
    if (filter != NULL && filter->reserved & LEFT_BYTES) {
        tepal_filter_down_resume(filter);
    }
}

int tpi_filters_write(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    return write_down(transport, transport->filters, pieces, count);
}

int tpi_filters_write_eof(tepal_transport *transport) {
    return write_eof_down(transport, transport->filters);
}

void tpi_filters_close(tepal_transport *transport) {
    close_down(transport, transport->filters);
}

void tpi_filters_flush(tepal_transport *transport) {
    flush_down(transport->filters);
}

void tpi_filters_pause(tepal_transport *transport) {
    pause_down(transport, transport->filters);
}

void tpi_filters_resume(tepal_transport *transport) {
    resume_down(transport, transport->filters);
}

int tepal_filter_down_write(tepal_filter *self, const struct iovec *pieces, size_t count) {
    return write_down(self->transport, self->below, pieces, count);
}

int tepal_filter_down_write_eof(tepal_filter *self) {
    return write_eof_down(self->transport, self->below);
}

void tepal_filter_down_close(tepal_filter *self) {
    close_down(self->transport, self->below);
}

void tepal_filter_down_flush(tepal_filter *self) {
    flush_down(self->below);
}

void tepal_filter_down_pause(tepal_filter *self) {
    self->reserved = WANTS_NO_BYTES;
    pause_down(self->transport, self->below);
}

void tepal_filter_down_resume(tepal_filter *self) {
    self->reserved = 0;
    resume_down(self->transport, self->below);
}

void tepal_filter_abort(tepal_filter *self, int code) {
    tepal_transport_abort(self->transport, code);
}

/* Questions */

bool tpi_filters_can_write_eof(const tepal_transport *transport) {
    for (const tepal_filter *filter = transport->filters; filter != NULL; filter = filter->below) {
        if (filter->type->can_write_eof != NULL && !filter->type->can_write_eof(filter)) {
            return false;
        }
    }
    return true;
}

uint64_t tpi_filters_buffered(const tepal_transport *transport) {
    uint64_t bytes = 0;
    for (const tepal_filter *filter = transport->filters; filter != NULL; filter = filter->below) {
        bytes += filter->type->buffered == NULL ? 0 : filter->type->buffered(filter);
    }
    return bytes;
}

int tepal_transport_info(const tepal_transport *transport, const char *what, const void **answer) {
    if (transport->flags & TPI_LOST) {
        return TEPAL_ECLOSED;
    }
    for (const tepal_filter *filter = transport->filters; filter != NULL; filter = filter->below) {
        if (filter->type->info != NULL) {
            int code = filter->type->info(filter, what, answer);
            if (code != TEPAL_ENOENT) {
                return code;
            }
        }
    }
    return TEPAL_ENOENT;
}

/* Coming and going */

static void fail_established(tepal_transport *transport, int code) {
    if (transport->extras != NULL && transport->extras->established != NULL) {
        tepal_future *future = transport->extras->established;
        transport->extras->established = NULL;
        (void)tepal_future_set_code(future, code);
        tepal_future_unref(future);
    }
}

void tpi_filters_abort(tepal_transport *transport, int code) {
    for (tepal_filter *filter = transport->filters, *next; filter != NULL; filter = next) {
        next = filter->below;
        if (filter->type->abort != NULL) {
            filter->type->abort(filter, code);
        }
    }
}

void tpi_filters_lost(tepal_transport *transport, const tepal_error *error) {
    tepal_filter *filter = lowest(transport);
    transport->filters = NULL;
    while (filter != NULL) {
        tepal_filter *above = filter->above;
        filter->above = filter->below = NULL;
        filter->transport = NULL;
        if (filter->type->lost != NULL) {
            filter->type->lost(filter, error); /* it frees itself here */
        }
        filter = above;
    }
    fail_established(transport, error == NULL ? TEPAL_ECLOSED : error->code);
}

void tpi_filters_forget(tepal_transport *transport) {
    for (tepal_filter *filter = transport->filters, *below; filter != NULL; filter = below) {
        below = filter->below;
        const size_t known = filter->type->size;
        if (known > offsetof(tepal_filter_type, forget) && filter->type->forget != NULL) {
            filter->type->forget(filter);
        }
    }
    transport->filters = NULL;
    fail_established(transport, TEPAL_ECLOSED);
}

/* A future for the filter being set up. */
static int expect_established(tepal_transport *transport, tepal_filter *filter, tepal_future **established) {
    tpi_extras *extras = tpi_transport_extras(transport);
    if (extras == NULL) {
        return TEPAL_ENOMEM;
    }
    if (extras->established != NULL) {
        return TEPAL_EBUSY;
    }
    tepal_future *future;
    int code = tepal_future_new(transport->loop, &future);
    if (code == 0) {
        extras->established = tepal_future_ref(future);
        extras->awaited = filter;
        *established = future;
    }
    return code;
}

int tepal_transport_push_filter(tepal_transport *transport, tepal_filter *filter, tepal_future **established) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (filter == NULL || filter->type == NULL) {
        return TEPAL_EINVAL;
    }
    if (filter->transport != NULL) {
        return TEPAL_EBUSY;
    }
    tpi_transport_drain_cork(transport);
    if (transport->flags & (TPI_CLOSING | TPI_EOF_WANTED)) {
        return TEPAL_ECLOSED;
    }
    code = established == NULL ? 0 : expect_established(transport, filter, established);
    if (code < 0) {
        return code;
    }
    if (transport->flags & TPI_HELD_BACK && transport->filters != NULL) {
        tpi_filters_resume(transport); /* from now on it is the new filter that pauses it, or does not */
    }
    filter->transport = transport;
    filter->reserved = 0;
    filter->above = NULL;
    filter->below = transport->filters;
    if (filter->below != NULL) {
        filter->below->above = filter;
    } else {
        transport->flags &= ~(uint32_t)TPI_BELOW_PAUSED; /* of filters that are gone */
    }
    transport->filters = filter;
    tpi_transport_update_special(transport);
    tpi_stream_update_direct(transport);
    if (transport->flags & TPI_HELD_BACK) {
        tpi_filters_pause(transport);
    }
    tpi_stream_update_reading(transport);
    return 0;
}

int tepal_transport_pop_filter(tepal_transport *transport, tepal_filter *filter) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (filter == NULL || transport->filters != filter) {
        return TEPAL_EINVAL;
    }
    tpi_transport_drain_cork(transport);
    if (transport->filters == filter) { /* else a resume_writing has popped it, and it may be gone */
        flush_down(filter);
    }
    if (transport->flags & TPI_CLOSING || transport->filters != filter) {
        return TEPAL_ECLOSED;
    }
    if (filter->type->buffered != NULL && filter->type->buffered(filter) > 0) {
        return TEPAL_EBUSY; /* it would take that with it */
    }
    transport->filters = filter->below;
    tpi_transport_update_special(transport);
    if (filter->below != NULL) {
        filter->below->above = NULL;
    }
    bool had_paused = (filter->reserved & WANTS_NO_BYTES) != 0;
    filter->below = NULL;
    filter->transport = NULL;
    if (transport->extras != NULL && transport->extras->awaited == filter) {
        transport->extras->awaited = NULL; /* whoever is established next will do */
    }
    if (filter->type->detach != NULL) {
        filter->type->detach(filter);
    }
    tpi_stream_update_direct(transport);
    /* What the filter asked of the layer below is forgotten: that layer now answers to the protocol. */
    bool pauses = (transport->flags & TPI_HELD_BACK) != 0;
    if (transport->filters == NULL) {
        transport->flags &= ~(uint32_t)TPI_BELOW_PAUSED;
    } else if (pauses && !had_paused) {
        tpi_filters_pause(transport);
    } else if (!pauses && had_paused) {
        tpi_filters_resume(transport);
    }
    tpi_stream_update_reading(transport);
    tpi_flow_fallen(transport);
    return 0;
}
