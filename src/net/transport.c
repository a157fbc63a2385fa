/*
 * A transport's birth and end, its protocol, and what can be asked of it. Every upcall that a public function causes
 * is queued here as the transport's one event: what is due is in the flags, so events cannot pile up.
 */
#include "net/stream.h"
#include "base/options.h"

/* Memory */

static bool needs_extras(const tepal_loop *loop, const tepal_transport_options *options) {
    return loop->debug || options->write_high != 0 || options->write_low != 0 || options->write_cap != 0 ||
           options->linger_ns != 0 || options->borrow;
}

tpi_extras *tpi_transport_extras(tepal_transport *transport) {
    if (transport->extras == NULL) {
        tpi_extras *extras = tpi_alloc_zero(transport->loop->realloc, sizeof *extras);
        if (extras == NULL) {
            return NULL;
        }
        extras->transport = transport;
        extras->high = TPI_WRITE_HIGH;
        extras->low = TPI_WRITE_HIGH / 4;
        extras->cap = TPI_WRITE_CAP;
        transport->extras = extras;
        tpi_transport_update_special(transport);
    }
    return transport->extras;
}

static int take_options(tepal_transport *transport, const tepal_transport_options *options) {
    if (!needs_extras(transport->loop, options)) {
        return 0;
    }
    tpi_extras *extras = tpi_transport_extras(transport);
    if (extras == NULL) {
        return TEPAL_ENOMEM;
    }
    uint64_t default_high =
        options->write_cap != 0 && options->write_cap < TPI_WRITE_HIGH ? options->write_cap : TPI_WRITE_HIGH;
    extras->high = options->write_high == 0 ? default_high : options->write_high;
    extras->low = options->write_low == 0 ? extras->high / 4 : options->write_low;
    extras->cap = options->write_cap != 0        ? options->write_cap
                  : extras->high > TPI_WRITE_CAP ? extras->high
                                                 : TPI_WRITE_CAP;
    extras->linger_ns = options->linger_ns;
    extras->released = options->released;
    extras->released_argument = options->argument;
    return extras->low <= extras->high && extras->high <= extras->cap ? 0 : TEPAL_EINVAL;
}

int tpi_transport_new(tepal_loop *loop, const tepal_transport_options *options, const tpi_upcalls *up,
                      tepal_transport **transport) {
    tepal_transport_options own = {0};
    int code = tpi_options_copy(&own, sizeof own, options);
    if (code < 0) {
        return code;
    }
    code = tpi_corks_init(loop);
    tepal_transport *made = code < 0 ? NULL : tpi_alloc_zero(loop->realloc, sizeof *made);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    made->object.up = up;
    made->object.fd = -1;
    made->object.borrowed = own.borrow;
    made->loop = tepal_loop_ref(loop);
    made->object.references = 1;
    made->flags = (own.borrow ? TPI_BORROWED : 0u) | (own.abort_without_reset ? TPI_NO_RESET : 0u);
    tpi_transport_update_special(made);
    code = take_options(made, &own);
    if (code < 0) {
        tpi_transport_discard(made);
        return code;
    }
    *transport = made;
    return 0;
}

void tpi_transport_configure(tepal_transport *transport, const tepal_transport_options *options, int family) {
    const tpi_driver_ops *ops = transport->loop->driver->ops;
    if (family != AF_INET && family != AF_INET6) {
        transport->flags |= TPI_IS_UNIX;
        return;
    }
    tepal_transport_options own = {0};
    (void)tpi_options_copy(&own, sizeof own, options); /* it was accepted when the transport was made */
    /* A system that refuses one of these still has a working connection. */
    if (!own.nagle) {
        (void)ops->set(transport->loop->driver, &transport->object, TPI_OPTION_NO_DELAY, 1);
    }
    if (own.keep_alive) {
        (void)ops->set(transport->loop->driver, &transport->object, TPI_OPTION_KEEP_ALIVE, 1);
    }
}

static void free_transport(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_free(loop->realloc, transport->extras);
    tpi_free(loop->realloc, transport);
    tepal_loop_unref(loop);
}

void tpi_transport_discard(tepal_transport *transport) {
    free_transport(transport);
}

void tpi_transport_forget(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    if (transport->sending != NULL) {
        tpi_output_forget(&transport->sending->output, loop->realloc);
        tpi_free(loop->realloc, transport->sending);
        transport->sending = NULL;
    }
    tpi_free(loop->realloc, transport->flight);
    transport->flight = NULL;
    tpi_transport_drop_cork(transport);
    transport->flags |= TPI_CLOSING | TPI_ENDED | TPI_LOST;
    if (transport->flags & TPI_PIPED) {
        tpi_pipe_forget(transport);
    }
    if (transport->flags & TPI_SETTING_UP) {
        tpi_setup_forget(transport);
    }
    tpi_filters_forget(transport);
    tpi_producer_forget(transport);
    tpi_flow_lost(transport, NULL);
    if (transport->event.state != TPI_WORK_IDLE) {
        tepal_transport_unref(transport); /* the ready queue never runs again */
    }
    tepal_transport_unref(transport);
}

tepal_transport *tepal_transport_ref(tepal_transport *transport) {
    transport->object.references++;
    return transport;
}

void tepal_transport_unref(tepal_transport *transport) {
    if (transport != NULL && --transport->object.references == 0) {
        free_transport(transport);
    }
}

/* The event */

static void event_run(tepal_work *work, int status);

void tpi_transport_queue_event(tepal_transport *transport) {
    if (transport->event.state == TPI_WORK_IDLE) {
        transport->event.run = event_run;
        tepal_transport_ref(transport);
        tpi_loop_queue(transport->loop, &transport->event);
    }
}

static void event_run(tepal_work *work, int status) {
    tepal_transport *transport = (tepal_transport *)(void *)((char *)work - offsetof(tepal_transport, event));
    uint32_t due = transport->flags; /* what this brings about waits for the next event */
    if (status == 0 && !(due & TPI_LOST)) {
        if (!(due & TPI_MADE)) {
            tpi_transport_made(transport, transport->protocol);
            if (due & TPI_ENDED) {
                tpi_transport_queue_event(transport); /* it was ended before, and this event was taken for that one */
            }
        } else {
            if (due & TPI_EOF_HELD && !(transport->flags & TPI_HELD_BACK)) {
                transport->flags &= ~(uint32_t)TPI_EOF_HELD;
                (void)tpi_protocol_received_eof(transport);
            }
            if (due & TPI_SETUP_DUE && !(transport->flags & TPI_ENDED)) {
                transport->flags &= ~(uint32_t)TPI_SETUP_DUE;
                tpi_setup_run(transport);
            }
            if (due & TPI_STOP_PRODUCER) {
                transport->flags &= ~(uint32_t)TPI_STOP_PRODUCER;
                tpi_producer_stop(transport);
            }
            if (due & TPI_ENDED && !(transport->flags & TPI_LOST)) {
                tpi_transport_lose(transport);
                tpi_stream_retire(transport);
            }
        }
    }
    tepal_transport_unref(transport);
}

/* Upcalls */

int64_t tpi_upcall_begins(const tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    if (__builtin_expect(!loop->debug, 1)) {
        return 0;
    }
    TPI_INVARIANT(loop, 1, (transport->flags & (TPI_MADE | TPI_LOST)) == TPI_MADE);
    TPI_INVARIANT(loop, 6, !loop->in_upcall);
    loop->in_upcall = true;
    return tpi_debug_begin(loop);
}

void tpi_upcall_ends(tepal_loop *loop, int64_t began_ns, const char *what) {
    if (__builtin_expect(loop->debug, 0)) {
        loop->in_upcall = false;
        tpi_debug_end(loop, began_ns, what);
    }
    tpi_loop_flush(loop);
}

/* Birth */

void tpi_transport_made(tepal_transport *transport, tepal_protocol *protocol) {
    tepal_loop *loop = transport->loop;
    TPI_INVARIANT(loop, 1, !(transport->flags & (TPI_MADE | TPI_LOST)));
    transport->object.up = &tpi_stream_upcalls;
    transport->flags |= TPI_MADE;
    loop->stats.transports++;
    tpi_transport_greet(transport, protocol);
}

void tpi_transport_greet(tepal_transport *transport, tepal_protocol *protocol) {
    tepal_loop *loop = transport->loop;
    transport->protocol = protocol;
    tpi_stream_update_direct(transport);
    int64_t began = tpi_upcall_begins(transport);
    int code = protocol->type->connection_made == NULL ? 0 : protocol->type->connection_made(protocol, transport);
    if (code < 0) {
        tepal_transport_abort(transport, code);
    }
    tpi_flow_grown(transport); /* by what was written before there was anybody to tell */
    tpi_stream_update_reading(transport);
    tpi_upcall_ends(loop, began, "connection_made");
}

void tpi_transport_made_soon(tepal_transport *transport, tepal_protocol *protocol) {
    transport->protocol = protocol;
    transport->object.up = &tpi_stream_upcalls;
    tpi_transport_queue_event(transport);
}

int tepal_loop_adopt(tepal_loop *loop, int fd, tepal_protocol *protocol, const tepal_transport_options *options,
                     tepal_transport **transport) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    if (protocol == NULL || protocol->type == NULL) {
        return TEPAL_EINVAL;
    }
    tepal_transport *made;
    code = tpi_transport_new(loop, options, &tpi_stream_upcalls, &made);
    if (code < 0) {
        return code;
    }
    code = loop->driver->ops->adopt(loop->driver, &made->object, fd, TPI_STREAM, 0);
    if (code < 0) {
        tpi_transport_discard(made);
        return code;
    }
    tepal_address local;
    code = loop->driver->ops->query(loop->driver, &made->object, TPI_QUERY_LOCAL, &local);
    tpi_transport_configure(made, options, code < 0 ? AF_UNIX : local.storage.ss_family);
    tpi_transport_made_soon(made, protocol);
    if (transport != NULL) {
        *transport = made;
    }
    return 0;
}

/* The end */

void tpi_transport_end(tepal_transport *transport) {
    if (transport->flags & TPI_ENDED) {
        return;
    }
    transport->flags |= TPI_CLOSING | TPI_ENDED;
    tpi_stream_update_reading(transport);
    tpi_transport_queue_event(transport);
}

void tpi_transport_fail(tepal_transport *transport, int code) {
    if (transport->flags & TPI_ENDED) {
        return;
    }
    if (!(transport->flags & TPI_NO_RESET)) {
        transport->flags |= TPI_RESET; /* what is discarded must not look like a clean end */
    }
    transport->code = code;
    tpi_transport_drop_cork(transport);
    tpi_transport_end(transport);
    tpi_stream_discard(transport);
    if (transport->filters != NULL) {
        tpi_filters_abort(transport, code);
    }
}

void tpi_transport_lose(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tepal_error error = {.code = transport->code, .text = tepal_strerror(transport->code)};
    const tepal_error *told = transport->code == 0 ? NULL : &error;
    if (!(transport->flags & TPI_MADE)) {
        tpi_transport_made(transport,
                           transport->protocol); /* the loop closes first: lost, but not without being made */
    }
    int64_t began = tpi_upcall_begins(transport);
    transport->flags |= TPI_LOST | TPI_CLOSING | TPI_ENDED;
    tpi_producer_stop(transport);
    tpi_filters_lost(transport, told);
    tpi_flow_lost(transport, told);
    tepal_protocol *protocol = transport->protocol;
    if (protocol->type->connection_lost != NULL) {
        protocol->type->connection_lost(protocol, told);
    }
    transport->protocol = NULL;
    tpi_upcall_ends(loop, began, "connection_lost");
}

static bool may_call(const tepal_transport *transport) {
    return tpi_loop_check(transport->loop) != TEPAL_ETHREAD;
}

void tepal_transport_close(tepal_transport *transport) {
    if (transport->flags & TPI_CLOSING || !may_call(transport)) {
        return;
    }
    tpi_transport_drain_cork(transport);
    if (transport->flags & TPI_CLOSING) {
        return; /* it ended while it was drained */
    }
    transport->flags |= TPI_CLOSING;
    tpi_transport_drain_cork(transport); /* what a pause_writing wrote meanwhile */
    if (transport->extras != NULL && transport->extras->producer != NULL) {
        transport->flags |= TPI_STOP_PRODUCER;
        tpi_transport_queue_event(transport);
    }
    if (transport->filters == NULL) {
        tpi_stream_close(transport);
    } else {
        if (transport->flags & TPI_HELD_BACK) {
            /* A filter may need the peer's answer to end; what it delivers on the way is dropped. */
            transport->flags &= ~(uint32_t)TPI_HELD_BACK;
            tpi_filters_resume(transport);
        }
        tpi_filters_close(transport);
        tpi_stream_update_reading(transport);
    }
}

void tepal_transport_abort(tepal_transport *transport, int code) {
    if (transport->flags & TPI_ENDED || !may_call(transport)) {
        return;
    }
    tpi_transport_fail(transport, code);
}

int tepal_transport_write_eof(tepal_transport *transport) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (transport->flags & TPI_CLOSING) {
        return TEPAL_ECLOSED;
    }
    if (transport->flags & TPI_EOF_WANTED) {
        return 0;
    }
    if (!tepal_transport_can_write_eof(transport)) {
        return TEPAL_ENOTSUP;
    }
    tpi_transport_drain_cork(transport);
    if (transport->flags & TPI_CLOSING) {
        return 0; /* it failed while it was drained: connection_lost tells */
    }
    if (transport->flags & TPI_EOF_WANTED) {
        return 0; /* done by what the draining called up */
    }
    transport->flags |= TPI_EOF_WANTED;
    tpi_transport_drain_cork(transport); /* what a pause_writing wrote meanwhile */
    if (transport->flags & TPI_EOF_RECEIVED) {
        tepal_transport_close(transport); /* both sides have ended */
        return 0;
    }
    if (transport->filters == NULL) {
        tpi_stream_write_eof(transport);
        return 0;
    }
    code = tpi_filters_write_eof(transport);
    if (code < 0) {
        transport->flags &= ~(uint32_t)TPI_EOF_WANTED;
    }
    return code;
}

bool tepal_transport_can_write_eof(const tepal_transport *transport) {
    return !(transport->flags & TPI_CLOSING) && (transport->filters == NULL || tpi_filters_can_write_eof(transport));
}

/* The protocol */

static int protocol_failed(tepal_transport *transport, int code) {
    tepal_transport_abort(transport, code);
    return code;
}

/* Debug: how much the protocol is given of what comes in one upcall. */
static void note_told(tepal_transport *transport, size_t length) {
    if (__builtin_expect(transport->loop->debug, 0) && transport->extras != NULL) {
        transport->extras->told += length;
    }
}

/* For a protocol that only lends buffers, above a filter: the bytes are there already and are copied. */
static int64_t fill_buffers(tepal_transport *transport, const uint8_t *data, size_t length) {
    tepal_protocol *protocol = transport->protocol;
    const tepal_filter *top = transport->filters;
    size_t used = 0;
    while (used < length && !(transport->flags & (TPI_HELD_BACK | TPI_CLOSING)) && transport->protocol == protocol &&
           transport->filters == top) {
        void *buffer = NULL;
        size_t size = 0;
        int code = protocol->type->get_buffer(protocol, length - used, &buffer, &size);
        if (transport->flags & (TPI_HELD_BACK | TPI_CLOSING) || transport->protocol != protocol ||
            transport->filters != top) {
            size = 0; /* by what it did inside: the buffer is given back unused */
        } else if (code >= 0 && size == 0) {
            code = TEPAL_EINVAL; /* it declines, and has no data_received to go to */
        }
        if (code >= 0 && size > 0) {
            size = size < length - used ? size : length - used;
            memcpy(buffer, data + used, size);
            used += size;
            note_told(transport, size);
            code = protocol->type->buffer_updated == NULL ? 0 : protocol->type->buffer_updated(protocol, size);
        }
        if (code < 0) {
            return protocol_failed(transport, code);
        }
    }
    if (transport->flags & TPI_CLOSING) {
        return (int64_t)length;
    }
    if (used < length && !(transport->flags & TPI_HELD_BACK)) { /* the rest is its successor's, or a new filter's */
        int64_t rest = tpi_filters_received_above(transport, top, data + used, length - used);
        return rest < 0 ? rest : (int64_t)used + rest;
    }
    return (int64_t)used;
}

int64_t tpi_protocol_received(tepal_transport *transport, const uint8_t *data, size_t length) {
    if (__builtin_expect(transport->flags & (TPI_HELD_BACK | TPI_CLOSING | TPI_EOF_RECEIVED), 0)) {
        return transport->flags & TPI_HELD_BACK && !(transport->flags & TPI_CLOSING) ? 0 : (int64_t)length;
    }
    tepal_protocol *protocol = transport->protocol;
    const tepal_protocol_type *type = protocol->type;
    if (__builtin_expect(type->data_received == NULL, 0)) {
        if (type->get_buffer != NULL) {
            return fill_buffers(transport, data, length);
        }
        note_told(transport, length); /* it does not want to know */
        return (int64_t)length;
    }
    note_told(transport, length);
    int code = type->data_received(protocol, data, length);
    if (__builtin_expect(code < 0, 0)) {
        return protocol_failed(transport, code);
    }
    return (int64_t)length;
}

int tpi_protocol_received_eof(tepal_transport *transport) {
    if (transport->flags & (TPI_CLOSING | TPI_EOF_RECEIVED)) {
        return 0;
    }
    if (transport->flags & TPI_HELD_BACK) {
        transport->flags |= TPI_EOF_HELD;
        return TEPAL_KEEP_OPEN;
    }
    transport->flags |= TPI_EOF_RECEIVED;
    tepal_protocol *protocol = transport->protocol;
    int code = protocol->type->eof_received == NULL ? 0 : protocol->type->eof_received(protocol);
    if (code < 0) {
        return protocol_failed(transport, code);
    }
    if (code != TEPAL_KEEP_OPEN || transport->flags & TPI_EOF_WANTED || !tepal_transport_can_write_eof(transport)) {
        tepal_transport_close(transport);
        return 0;
    }
    return TEPAL_KEEP_OPEN;
}

/* Where the program's protocol stands: a pipe puts its own in front of it. */
static tepal_protocol **protocol_slot(tepal_transport *transport) {
    return transport->flags & TPI_PIPED ? tpi_pipe_aside(transport) : &transport->protocol;
}

tepal_protocol *tepal_transport_protocol(const tepal_transport *transport) {
    return *protocol_slot((tepal_transport *)(uintptr_t)transport);
}

int tepal_transport_set_protocol(tepal_transport *transport, tepal_protocol *protocol, tepal_protocol **old) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (protocol == NULL || protocol->type == NULL) {
        return TEPAL_EINVAL;
    }
    if (transport->flags & TPI_LOST) {
        return TEPAL_ECLOSED;
    }
    tepal_protocol **slot = protocol_slot(transport);
    if (old != NULL) {
        *old = *slot;
    }
    *slot = protocol;
    tpi_stream_update_direct(transport);
    if (transport->flags & TPI_PAUSED_WRITING && protocol->type->pause_writing != NULL) {
        protocol->type->pause_writing(protocol);
    }
    return 0;
}

/* Questions and options */

tepal_loop *tepal_transport_loop(const tepal_transport *transport) {
    return transport->loop;
}

bool tepal_transport_is_closing(const tepal_transport *transport) {
    return (transport->flags & TPI_CLOSING) != 0;
}

static bool is_gone(const tepal_transport *transport) {
    return transport->object.kind == 0 || (transport->flags & TPI_LOST && transport->protocol == NULL);
}

static int query(const tepal_transport *transport, tpi_query what, void *answer) {
    int code = tpi_loop_check(transport->loop);
    if (code == TEPAL_ETHREAD || is_gone(transport)) {
        return code == TEPAL_ETHREAD ? code : TEPAL_ECLOSED;
    }
    return transport->loop->driver->ops->query(transport->loop->driver, &transport->object, what, answer);
}

int tepal_transport_peer(const tepal_transport *transport, tepal_address *address) {
    return query(transport, TPI_QUERY_PEER, address);
}

int tepal_transport_local(const tepal_transport *transport, tepal_address *address) {
    return query(transport, TPI_QUERY_LOCAL, address);
}

int tepal_transport_fd(const tepal_transport *transport) {
    return is_gone(transport) ? TEPAL_ECLOSED : transport->object.fd;
}

static int set(tepal_transport *transport, tpi_option option, int value) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0 || is_gone(transport)) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    if (transport->flags & TPI_IS_UNIX) {
        return TEPAL_ENOTSUP;
    }
    return transport->loop->driver->ops->set(transport->loop->driver, &transport->object, option, value);
}

int tepal_transport_set_no_delay(tepal_transport *transport, bool on) {
    return set(transport, TPI_OPTION_NO_DELAY, on);
}

int tepal_transport_set_keep_alive(tepal_transport *transport, bool on, unsigned idle, unsigned interval,
                                   unsigned count) {
    if (idle > INT32_MAX || interval > INT32_MAX || count > INT32_MAX) {
        return TEPAL_EINVAL;
    }
    int code = set(transport, TPI_OPTION_KEEP_ALIVE, on);
    if (code == 0 && idle > 0) {
        code = set(transport, TPI_OPTION_KEEP_ALIVE_IDLE, (int)idle);
    }
    if (code == 0 && interval > 0) {
        code = set(transport, TPI_OPTION_KEEP_ALIVE_INTERVAL, (int)interval);
    }
    if (code == 0 && count > 0) {
        code = set(transport, TPI_OPTION_KEEP_ALIVE_COUNT, (int)count);
    }
    return code;
}
