/*
 * Flow control, both ways: the marks of the write buffer with pause_writing and resume_writing, and pausing and
 * resuming what is read. What it calls up may write, close and abort, so it looks at the flags again after each call.
 */
#include "net/stream.h"

/* A future of tepal_transport_drain(). */
struct tpi_drain {
    tpi_drain *next;
    tepal_future *future;
};

uint64_t tpi_flow_high(const tepal_transport *transport) {
    return transport->extras == NULL ? TPI_WRITE_HIGH : transport->extras->high;
}

uint64_t tpi_flow_low(const tepal_transport *transport) {
    return transport->extras == NULL ? TPI_WRITE_HIGH / 4 : transport->extras->low;
}

uint64_t tpi_flow_cap(const tepal_transport *transport) {
    return transport->extras == NULL ? TPI_WRITE_CAP : transport->extras->cap;
}

uint64_t tepal_transport_write_buffer_size(const tepal_transport *transport) {
    if (transport->flags & TPI_ENDED) {
        return 0;
    }
    uint64_t bytes = tpi_transport_corked(transport);
    bytes += tpi_stream_waiting(transport);
    bytes += transport->filters == NULL ? 0 : tpi_filters_buffered(transport);
    return bytes;
}

/*
 * Debug: whoever is above the high mark has been paused, whoever is at the low one has been resumed. A filter's part of
 * the buffer moves without a word, so with filters nothing can be said here.
 */
static void check_marks(const tepal_transport *transport, bool has_fallen) {
    uint32_t ready = TPI_MADE | TPI_ENDED | TPI_GATHERING;
    if (!transport->loop->debug || transport->filters != NULL || (transport->flags & ready) != TPI_MADE) {
        return;
    }
    uint64_t buffered = tepal_transport_write_buffer_size(transport);
    bool is_paused = (transport->flags & TPI_PAUSED_WRITING) != 0;
    TPI_INVARIANT(transport->loop, 4, is_paused || buffered <= tpi_flow_high(transport));
    TPI_INVARIANT(transport->loop, 4, !has_fallen || !is_paused || buffered > tpi_flow_low(transport));
}

void tpi_flow_grown(tepal_transport *transport) {
    if (transport->flags & (TPI_PAUSED_WRITING | TPI_ENDED | TPI_GATHERING) || !(transport->flags & TPI_MADE) ||
        tepal_transport_write_buffer_size(transport) <= tpi_flow_high(transport)) {
        return;
    }
    transport->flags |= TPI_PAUSED_WRITING;
    tepal_protocol *protocol = transport->protocol;
    if (protocol->type->pause_writing != NULL) {
        protocol->type->pause_writing(protocol);
    }
    if (transport->extras != NULL && transport->flags & TPI_PAUSED_WRITING) {
        tpi_producer_pause(transport);
    }
    check_marks(transport, false);
}

static void finish_drains(tepal_transport *transport, const tepal_error *error) {
    tpi_drain *drain = transport->extras->drains;
    transport->extras->drains = NULL;
    while (drain != NULL) {
        tpi_drain *next = drain->next;
        if (error == NULL) {
            (void)tepal_future_set_result(drain->future, NULL, NULL); /* done already: it was cancelled */
        } else {
            (void)tepal_future_set_error(drain->future, error);
        }
        tepal_future_unref(drain->future);
        tpi_free(transport->loop->realloc, drain);
        drain = next;
    }
}

void tpi_flow_fallen(tepal_transport *transport) {
    if (transport->flags & (TPI_ENDED | TPI_GATHERING)) {
        return;
    }
    uint64_t buffered = tepal_transport_write_buffer_size(transport);
    if (transport->flags & TPI_PAUSED_WRITING && buffered <= tpi_flow_low(transport)) {
        transport->flags &= ~(uint32_t)TPI_PAUSED_WRITING;
        tepal_protocol *protocol = transport->protocol;
        if (protocol->type->resume_writing != NULL) {
            protocol->type->resume_writing(protocol);
        }
        if (transport->extras != NULL && !(transport->flags & (TPI_PAUSED_WRITING | TPI_CLOSING))) {
            tpi_producer_resume(transport);
        }
        if (transport->extras != NULL && !(transport->flags & (TPI_PAUSED_WRITING | TPI_ENDED))) {
            finish_drains(transport, NULL);
        }
        buffered = tepal_transport_write_buffer_size(transport);
    }
    if (buffered == 0 && transport->extras != NULL && !(transport->flags & TPI_CLOSING)) {
        tpi_producer_drained(transport);
    }
    check_marks(transport, true);
}

void tpi_flow_lost(tepal_transport *transport, const tepal_error *error) {
    if (transport->extras != NULL) {
        tepal_error closed = {.code = TEPAL_ECLOSED, .text = tepal_strerror(TEPAL_ECLOSED)};
        finish_drains(transport, error == NULL ? &closed : error);
    }
}

int tepal_transport_drain(tepal_transport *transport, tepal_future **future) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0 || transport->flags & TPI_ENDED) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    tepal_future *made;
    code = tepal_future_new(transport->loop, &made);
    if (code < 0) {
        return code;
    }
    if (!(transport->flags & TPI_PAUSED_WRITING)) {
        (void)tepal_future_set_result(made, NULL, NULL);
        *future = made;
        return 0;
    }
    tpi_extras *extras = tpi_transport_extras(transport);
    tpi_drain *drain = extras == NULL ? NULL : transport->loop->realloc(NULL, sizeof *drain);
    if (drain == NULL) {
        tepal_future_unref(made);
        return TEPAL_ENOMEM;
    }
    *drain = (tpi_drain){.next = NULL, .future = tepal_future_ref(made)};
    tpi_drain **end = &extras->drains;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = drain;
    *future = made;
    return 0;
}

int tepal_transport_set_write_limits(tepal_transport *transport, uint64_t high, uint64_t low, uint64_t cap) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (low > high || high > cap) {
        return TEPAL_EINVAL;
    }
    if (transport->flags & TPI_ENDED) {
        return TEPAL_ECLOSED;
    }
    tpi_extras *extras = tpi_transport_extras(transport);
    if (extras == NULL) {
        return TEPAL_ENOMEM;
    }
    tpi_transport_drain_cork(transport); /* it was judged by the old marks */
    extras->high = high;
    extras->low = low;
    extras->cap = cap;
    tpi_flow_grown(transport);
    tpi_flow_fallen(transport);
    return 0;
}

void tepal_transport_get_write_limits(const tepal_transport *transport, uint64_t *high, uint64_t *low, uint64_t *cap) {
    if (high != NULL) {
        *high = tpi_flow_high(transport);
    }
    if (low != NULL) {
        *low = tpi_flow_low(transport);
    }
    if (cap != NULL) {
        *cap = tpi_flow_cap(transport);
    }
}

/* Deliver nothing to the protocol for this reason (one of TPI_HELD_BACK). */
static void hold_back(tepal_transport *transport, uint32_t reason) {
    bool before = (transport->flags & TPI_HELD_BACK) != 0;
    transport->flags |= reason;
    if (before) {
        return;
    }
    if (transport->filters == NULL) {
        tpi_stream_update_reading(transport);
    } else {
        tpi_filters_pause(transport);
    }
}

static void go_on(tepal_transport *transport, uint32_t reason) {
    bool before = (transport->flags & TPI_HELD_BACK) != 0;
    transport->flags &= ~reason;
    if (!before || transport->flags & TPI_HELD_BACK) {
        return;
    }
    if (transport->flags & TPI_EOF_HELD) {
        tpi_transport_queue_event(transport);
    }
    if (transport->filters == NULL) {
        tpi_stream_update_reading(transport);
    } else {
        tpi_filters_resume(transport);
    }
}

int tepal_transport_pause_reading(tepal_transport *transport) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0 || transport->flags & TPI_CLOSING) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    hold_back(transport, TPI_PAUSED_READING);
    return 0;
}

int tepal_transport_resume_reading(tepal_transport *transport) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0 || transport->flags & TPI_CLOSING) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    go_on(transport, TPI_PAUSED_READING);
    return 0;
}

void tpi_flow_hold(tepal_transport *transport) {
    hold_back(transport, TPI_HELD_READING);
}

void tpi_flow_let_go(tepal_transport *transport) {
    go_on(transport, TPI_HELD_READING);
}

void tpi_flow_hold_setup(tepal_transport *transport) {
    hold_back(transport, TPI_HELD_SETUP);
}

void tpi_flow_let_setup_go(tepal_transport *transport) {
    go_on(transport, TPI_HELD_SETUP);
}

bool tepal_transport_is_reading(const tepal_transport *transport) {
    uint32_t stops = TPI_PAUSED_READING | TPI_HELD_READING | TPI_EOF_RECEIVED | TPI_CLOSING;
    return transport->flags & TPI_MADE && !(transport->flags & stops);
}
