/*
 * The bottom of a transport: what the driver tells it, the chain of output that waits for the kernel, EOF, and the
 * end, but for its lingering (linger.c). It knows nothing of corks, and of filters only that they may stand between it and the protocol.
 */
#include "net/cork.h"

static const tpi_driver_ops *ops(const tepal_transport *transport) {
    return transport->loop->driver->ops;
}

/* Reading */

void tpi_stream_update_reading(tepal_transport *transport) {
    uint32_t flags = transport->flags;
    uint32_t stops =
        TPI_ENDED | TPI_CLOSE_DUE | (transport->filters == NULL ? TPI_HELD_BACK | TPI_CLOSING : TPI_BELOW_PAUSED);
    if (transport->object.kind == 0) {
        return;
    }
    if (flags & TPI_MADE && !(flags & stops)) {
        ops(transport)->read_start(transport->loop->driver, &transport->object);
    } else {
        ops(transport)->read_stop(transport->loop->driver, &transport->object);
    }
}

void tpi_stream_update_direct(tepal_transport *transport) {
    const tepal_protocol_type *type = transport->protocol->type;
    transport->object.direct = transport->filters == NULL && type->get_buffer != NULL;
}

/* Debug: the driver was told to read nothing more, so it has nothing to say. Above filters it may still be read. */
static void check_wanted(const tepal_transport *transport) {
    const uint32_t unwanted = TPI_HELD_BACK | TPI_CLOSING | TPI_EOF_RECEIVED;
    TPI_INVARIANT(transport->loop, 2, transport->filters != NULL || !(transport->flags & unwanted));
}

/* Debug: what the driver takes for used the protocol was given, once. Above filters it is another stream. */
static void check_told(const tepal_transport *transport, bool bare, uint64_t before, int64_t used) {
    if (bare && transport->filters == NULL && transport->extras != NULL && used >= 0 &&
        !(transport->flags & TPI_CLOSING)) {
        TPI_INVARIANT(transport->loop, 2, transport->extras->told - before == (uint64_t)used);
    }
}

static __attribute__((noinline)) size_t data_in_general(tepal_transport *transport, const uint8_t *data,
                                                        size_t length) {
    if (transport->flags & TPI_LINGERING) {
        return length;
    }
    check_wanted(transport);
    const bool bare = transport->filters == NULL;
    const uint64_t before = transport->extras == NULL ? 0 : transport->extras->told;
    int64_t began = tpi_upcall_begins(transport);
    int64_t used =
        bare ? tpi_protocol_received(transport, data, length) : tpi_filters_received(transport, data, length);
    check_told(transport, bare, before, used);
    tpi_upcall_ends(transport->loop, began, "data_received");
    return used < 0 ? length : (size_t)used;
}

static size_t stream_data(tpi_object *object, const uint8_t *data, size_t length) {
    tepal_transport *transport = (tepal_transport *)object;
    uint32_t unusual = TPI_SPECIAL | TPI_LINGERING | TPI_HELD_BACK | TPI_CLOSING | TPI_EOF_RECEIVED;
    if (__builtin_expect(transport->flags & unusual, 0)) {
        return data_in_general(transport, data, length); /* a lingering one has no protocol any more */
    }
    int (*received)(tepal_protocol *, const void *, size_t) = transport->protocol->type->data_received;
    if (__builtin_expect(received == NULL, 0)) {
        return data_in_general(transport, data, length);
    }
    int code = received(transport->protocol, data, length);
    if (__builtin_expect(code < 0, 0)) {
        tepal_transport_abort(transport, code);
    }
    tpi_cork_flush_after(transport);
    return length;
}

static void stream_get_buffer(tpi_object *object, size_t hint, void **buffer, size_t *length) {
    tepal_transport *transport = (tepal_transport *)object;
    if (transport->flags & TPI_LINGERING) {
        return;
    }
    tepal_protocol *protocol = transport->protocol;
    int code = protocol->type->get_buffer(protocol, hint, buffer, length);
    if (code < 0) {
        *length = 0;
        tepal_transport_abort(transport, code);
    }
    tpi_loop_flush(transport->loop);
    if (transport->protocol != protocol || transport->filters != NULL) {
        *length = 0; /* replaced inside, or in what the flush called up: what comes is the new one's */
    }
}

static void stream_filled(tpi_object *object, size_t length) {
    tepal_transport *transport = (tepal_transport *)object;
    tepal_protocol *protocol = transport->protocol;
    check_wanted(transport);
    int64_t began = tpi_upcall_begins(transport);
    int code = protocol->type->buffer_updated == NULL ? 0 : protocol->type->buffer_updated(protocol, length);
    if (code < 0) {
        tepal_transport_abort(transport, code);
    }
    tpi_upcall_ends(transport->loop, began, "buffer_updated");
}

static void stream_eof(tpi_object *object) {
    tepal_transport *transport = (tepal_transport *)object;
    if (transport->flags & TPI_LINGERING) {
        tpi_linger_ends(transport);
        return;
    }
    check_wanted(transport);
    int64_t began = tpi_upcall_begins(transport);
    if (transport->filters == NULL) {
        (void)tpi_protocol_received_eof(transport);
    } else {
        (void)tpi_filters_received_eof(transport);
    }
    tpi_upcall_ends(transport->loop, began, "eof_received");
}

static void stream_error(tpi_object *object, int code) {
    tepal_transport *transport = (tepal_transport *)object;
    if (transport->flags & TPI_LINGERING) {
        tpi_linger_ends(transport);
        return;
    }
    tpi_transport_fail(transport, code);
    if (code == TEPAL_SYSTEM(ECONNRESET)) {
        transport->flags &= ~(uint32_t)TPI_RESET; /* the peer has, so closing has nothing left to reset */
    }
}

/* Output */

uint64_t tpi_stream_waiting(const tepal_transport *transport) {
    return (transport->sending == NULL ? 0 : transport->sending->output.bytes) +
           (transport->flight == NULL ? 0 : transport->flight->rest.iov_len);
}

/* Whether something is before what is written now. */
static bool has_waiting(const tepal_transport *transport) {
    return transport->sending != NULL || transport->flight != NULL;
}

static void account(tepal_transport *transport, uint64_t taken, uint64_t handed, uint64_t discarded) {
    tpi_extras *extras = transport->extras;
    if (__builtin_expect(!transport->loop->debug || extras == NULL, 1)) {
        return;
    }
    extras->taken += taken;
    extras->handed += handed;
    extras->discarded += discarded;
}

static void check_account(const tepal_transport *transport) {
    if (__builtin_expect(transport->loop->debug, 0) && transport->extras != NULL) {
        const tpi_extras *extras = transport->extras;
        TPI_INVARIANT(transport->loop, 3,
                      extras->taken == extras->handed + tpi_stream_waiting(transport) + extras->discarded);
        TPI_INVARIANT(transport->loop, 3, extras->discarded == 0 || transport->flags & TPI_ENDED);
    }
}

static tpi_sending *sending_of(tepal_transport *transport) {
    if (transport->sending == NULL) {
        transport->sending = tpi_alloc_zero(transport->loop->realloc, sizeof *transport->sending);
        tpi_transport_update_special(transport);
    }
    return transport->sending;
}

static void free_sending(tepal_transport *transport) {
    tpi_free(transport->loop->realloc, transport->sending);
    transport->sending = NULL;
    tpi_transport_update_special(transport);
}

static void land(tepal_transport *transport) {
    tpi_chunk_give(transport->loop, transport->flight);
    transport->flight = NULL;
    tpi_transport_update_special(transport);
}

void tpi_stream_discard(tepal_transport *transport) {
    if (!has_waiting(transport) || transport->object.sending != NULL) {
        return; /* in flight: the driver looks at it until sent() or closed() */
    }
    account(transport, 0, 0, tpi_stream_waiting(transport));
    if (transport->flight != NULL) {
        land(transport);
    }
    if (transport->sending != NULL) {
        int status = transport->code < 0 ? transport->code : TEPAL_ECLOSED;
        tpi_output_discard(&transport->sending->output, transport->loop->realloc, status);
        free_sending(transport);
    }
    check_account(transport);
}

/* The chain is empty: what waited for that. */
static void drained(tepal_transport *transport) {
    if (transport->sending != NULL) {
        free_sending(transport);
    }
    if (transport->flags & TPI_EOF_DUE && !(transport->flags & TPI_EOF_SENT)) {
        transport->flags |= TPI_EOF_SENT;
        /* A peer that has reset is found by reading. */
        (void)ops(transport)->shutdown(transport->loop->driver, &transport->object);
    }
    if (transport->flags & TPI_CLOSE_DUE) {
        tpi_transport_end(transport);
    }
}

/* Hand the chain to the driver until it has all of it or wants to be waited for. */
static void push(tepal_transport *transport) {
    tpi_sending *sending = transport->sending;
    while (sending->output.bytes > 0) {
        size_t count = tpi_output_gather(&sending->output, sending->pieces, TPI_SEND_PIECES);
        sending->message = (tpi_message){.pieces = sending->pieces, .count = count};
        int64_t sent = ops(transport)->send(transport->loop->driver, &transport->object, &sending->message);
        if (sent == TPI_PENDING) {
            return;
        }
        if (sent < 0) {
            tpi_transport_fail(transport, (int)sent);
            return;
        }
        account(transport, 0, (uint64_t)sent, 0);
        tpi_output_consume(&sending->output, transport->loop->realloc, (uint64_t)sent);
    }
    drained(transport);
}

static void tell_fallen(tepal_transport *transport) {
    int64_t began = tpi_upcall_begins(transport);
    if (transport->filters != NULL) {
        tpi_filters_writable(transport);
    } else {
        tpi_flow_fallen(transport);
    }
    tpi_upcall_ends(transport->loop, began, "resume_writing");
}

bool tpi_stream_may_fly(const tepal_transport *transport) {
    return transport->filters == NULL && !has_waiting(transport) && !(transport->flags & TPI_ENDED);
}

void tpi_stream_fly(tepal_transport *transport, tpi_chunk *chunk) {
    account(transport, chunk->used, 0, 0);
    int64_t sent = ops(transport)->send(transport->loop->driver, &transport->object, tpi_cork_fly(transport, chunk));
    if (sent != TPI_PENDING) {
        tpi_stream_flown(transport, sent);
    }
    check_account(transport);
}

void tpi_stream_flown(tepal_transport *transport, int64_t result) {
    tpi_chunk *chunk = transport->flight;
    while (result > 0) {
        account(transport, 0, (uint64_t)result, 0);
        chunk->rest.iov_base = (uint8_t *)chunk->rest.iov_base + result;
        chunk->rest.iov_len -= (size_t)result;
        if (chunk->rest.iov_len == 0) {
            land(transport);
            if (transport->sending != NULL) {
                push(transport);
            } else {
                drained(transport);
            }
            return;
        }
        result = ops(transport)->send(transport->loop->driver, &transport->object, &chunk->message);
    }
    if (result != TPI_PENDING) {
        tpi_transport_fail(transport, (int)result);
    }
}

static __attribute__((noinline)) void sent_in_general(tepal_transport *transport, int64_t result) {
    if (transport->flags & TPI_ENDED) {
        tpi_stream_discard(transport);
        return;
    }
    if (result < 0) {
        tpi_transport_fail(transport, (int)result);
        return;
    }
    TPI_INVARIANT(transport->loop, 5, has_waiting(transport));
    if (transport->flight != NULL) {
        tpi_stream_flown(transport, result);
    } else {
        account(transport, 0, (uint64_t)result, 0);
        tpi_output_consume(&transport->sending->output, transport->loop->realloc, (uint64_t)result);
        push(transport);
    }
    check_account(transport);
    tell_fallen(transport);
}

static void stream_sent(tpi_object *object, int64_t result) {
    tepal_transport *transport = (tepal_transport *)object;
    tpi_chunk *chunk = transport->flight;
    const uint32_t unusual = TPI_ENDED | TPI_EOF_DUE | TPI_CLOSE_DUE;
    if (__builtin_expect(
            (transport->flags & (TPI_FLYING | unusual)) == TPI_FLYING && result == (int64_t)chunk->rest.iov_len, 1)) {
        transport->flight = NULL;
        transport->flags &= ~(uint32_t)(TPI_SPECIAL | TPI_FLYING);
        tpi_chunk_give(transport->loop, chunk);
        return;
    }
    sent_in_general(transport, result);
}

/* Queue what the driver did not take at once; push it unless something waited before. */
static int queue_rest(tepal_transport *transport, const struct iovec *pieces, size_t count, uint64_t sent) {
    bool waited = has_waiting(transport);
    tpi_sending *sending = sending_of(transport);
    int code = sending == NULL
                   ? TEPAL_ENOMEM
                   : tpi_output_copy(&sending->output, transport->loop->realloc, pieces, count, (size_t)sent);
    if (code < 0) {
        account(transport, 0, 0, tpi_pieces_bytes(pieces, count) - sent);
        tpi_transport_fail(transport, code); /* part of it may have left: the stream cannot go on */
        return code;
    }
    if (!waited) {
        push(transport);
    }
    check_account(transport);
    return transport->flags & TPI_ENDED ? transport->code : 0;
}

int tpi_stream_write_rest(tepal_transport *transport, const struct iovec *pieces, size_t count, int64_t sent) {
    uint64_t length = tpi_pieces_bytes(pieces, count);
    account(transport, length, sent > 0 ? (uint64_t)sent : 0, 0);
    if (sent < 0 && sent != TPI_PENDING) {
        account(transport, 0, 0, length);
        tpi_transport_fail(transport, (int)sent);
        return (int)sent;
    }
    transport->flags |= TPI_HAS_SENT;
    if (sent == (int64_t)length) {
        check_account(transport);
        return 0;
    }
    return queue_rest(transport, pieces, count, sent > 0 ? (uint64_t)sent : 0);
}

int tpi_stream_write(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    if (transport->flags & TPI_ENDED) {
        return TEPAL_ECLOSED;
    }
    uint64_t length = tpi_pieces_bytes(pieces, count);
    if (length == 0) {
        return 0;
    }
    if (!has_waiting(transport)) {
        tpi_driver *driver = transport->loop->driver;
        int64_t sent = count == 1 ? driver->ops->offer(driver, &transport->object, pieces->iov_base, pieces->iov_len)
                                  : driver->ops->offer_pieces(driver, &transport->object, pieces, count);
        return tpi_stream_write_rest(transport, pieces, count, sent);
    }
    account(transport, length, 0, 0);
    return queue_rest(transport, pieces, count, 0);
}

/* Hand down what the kernel takes at once, and have the driver wait for the rest. */
static void offer_chain(tepal_transport *transport) {
    tpi_sending *sending = transport->sending;
    size_t count = tpi_output_gather(&sending->output, sending->pieces, TPI_SEND_PIECES);
    int64_t sent = ops(transport)->offer_pieces(transport->loop->driver, &transport->object, sending->pieces, count);
    if (sent > 0) {
        account(transport, 0, (uint64_t)sent, 0);
        tpi_output_consume(&sending->output, transport->loop->realloc, (uint64_t)sent);
    }
    if (sent > 0 || sent == TPI_PENDING) {
        push(transport);
    } else {
        tpi_transport_fail(transport, (int)sent);
    }
}

int tpi_stream_write_owned(tepal_transport *transport, const struct iovec *pieces, size_t count, tepal_release release,
                           void *argument) {
    uint64_t length = tpi_pieces_bytes(pieces, count);
    tpi_sending *sending = sending_of(transport); /* first: after a byte has moved nothing may fail */
    if (sending == NULL) {
        return TEPAL_ENOMEM;
    }
    bool waiting = sending->output.bytes > 0 || transport->flight != NULL;
    int code = tpi_output_own(&sending->output, transport->loop->realloc, pieces, count, 0, release, argument);
    if (code < 0) {
        if (sending->output.bytes == 0) {
            free_sending(transport);
        }
        return code;
    }
    account(transport, length, 0, 0);
    transport->flags |= TPI_HAS_SENT;
    if (!waiting) {
        offer_chain(transport);
    }
    check_account(transport);
    return 0;
}

void tpi_stream_write_eof(tepal_transport *transport) {
    transport->flags |= TPI_EOF_DUE;
    if (!has_waiting(transport)) {
        drained(transport);
    }
}

void tpi_stream_close(tepal_transport *transport) {
    transport->flags |= TPI_CLOSE_DUE;
    if (!has_waiting(transport)) {
        drained(transport);
    }
    tpi_stream_update_reading(transport);
}

/* The end */

/* The descriptor is gone. A server, and who counts transports, has waited for that: also for a lingering end. */
static void last_word(tepal_transport *transport) {
    TPI_INVARIANT(transport->loop, 1, (transport->flags & (TPI_MADE | TPI_LOST)) != TPI_MADE);
    transport->object.sending = NULL;
    tpi_stream_discard(transport);
    transport->loop->stats.transports--;
    if (transport->flags & TPI_ACCEPTED) {
        transport->flags &= ~(uint32_t)TPI_ACCEPTED;
        tpi_server_connection_lost(transport->owner);
    }
    tepal_transport_unref(transport); /* the loop's */
}

static void stream_closed(tpi_object *object) {
    last_word((tepal_transport *)object);
}

static void stream_released(tpi_object *object, int fd, const uint8_t *held, size_t length) {
    tepal_transport *transport = (tepal_transport *)object;
    tpi_extras *extras = transport->extras;
    (void)held;
    (void)length; /* read, and never asked for by the protocol */
    if (extras != NULL && extras->released != NULL) {
        extras->released(extras->released_argument, fd);
        tpi_loop_flush(transport->loop);
    }
    last_word(transport);
}

/* Whether the kernel has all of the flight, though sent() has not told yet. */
static bool has_landed(const tepal_transport *transport) {
    tpi_driver *driver = transport->loop->driver;
    int64_t sent = 0;
    return transport->flight != NULL && driver->ops->query(driver, &transport->object, TPI_QUERY_SENT, &sent) == 0 &&
           sent == (int64_t)transport->flight->rest.iov_len;
}

void tpi_stream_flush(tepal_transport *transport) {
    tpi_sending *sending = transport->sending;
    if (sending == NULL || transport->flags & TPI_ENDED || !has_landed(transport)) {
        return;
    }
    const size_t count = tpi_output_gather(&sending->output, sending->pieces, TPI_SEND_PIECES);
    const int64_t sent =
        ops(transport)->offer_pieces(transport->loop->driver, &transport->object, sending->pieces, count);
    if (sent > 0) { /* a failure is found again by the send that follows the flight */
        account(transport, 0, (uint64_t)sent, 0);
        tpi_output_consume(&sending->output, transport->loop->realloc, (uint64_t)sent);
    }
    check_account(transport);
}

/* At the end of the loop: whether the kernel has taken everything, or takes it now. */
static bool is_all_taken(tepal_transport *transport) {
    tpi_driver *driver = transport->loop->driver;
    if (has_landed(transport)) {
        const uint64_t sent = transport->flight->rest.iov_len;
        uint64_t left = tepal_transport_write_buffer_size(transport) - sent; /* in all layers */
        if (left == 0 || transport->filters != NULL) {
            return left == 0;
        }
        tpi_sending *sending = transport->sending;
        size_t count = tpi_output_gather(&sending->output, sending->pieces, TPI_SEND_PIECES);
        return driver->ops->offer_pieces(driver, &transport->object, sending->pieces, count) == (int64_t)left;
    }
    return tepal_transport_write_buffer_size(transport) == 0;
}

/* The loop closes: no time is left to send or to linger. */
static void stream_ending(tpi_object *object) {
    tepal_transport *transport = (tepal_transport *)object;
    if (transport->flags & TPI_LINGERING) {
        tpi_linger_ends(transport);
        return;
    }
    if (!(transport->flags & TPI_ENDED)) {
        const bool is_all_sent = is_all_taken(transport);
        tpi_transport_fail(transport, TEPAL_ECLOSED);
        if (is_all_sent) {
            transport->flags &= ~(uint32_t)TPI_RESET; /* nothing was discarded */
        }
    }
    tpi_transport_lose(transport);
    if (transport->flags & TPI_BORROWED) {
        ops(transport)->release(transport->loop->driver, object);
    } else {
        tpi_stream_close_object(transport);
    }
}

static void stream_abandoned(tpi_object *object) {
    tepal_transport *transport = (tepal_transport *)object;
    transport->object.sending = NULL;
    tpi_transport_forget(transport);
}

const tpi_upcalls tpi_stream_upcalls = {
    .data = stream_data,
    .get_buffer = stream_get_buffer,
    .filled = stream_filled,
    .eof = stream_eof,
    .error = stream_error,
    .sent = stream_sent,
    .released = stream_released,
    .closed = stream_closed,
    .ending = stream_ending,
    .abandoned = stream_abandoned,
};
