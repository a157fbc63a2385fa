/*
 * Writing: what one callback writes is corked, joined in a chunk of 16 KiB, and leaves when the callback returns. What
 * would not fit, or comes first and is long, leaves at once, gathered with the caller's memory, so that only what the
 * kernel refuses is copied.
 *
 * Corks are the loop's: a transport has one only between its first write in a callback and the flush after it.
 */
#include "net/cork.h"

#define DIRECT_BYTES                                                                                                   \
    8192         /* a first write as long leaves at once: to copy it costs more than a call that might be spared */
#define CORKS 64 /* transports corked at once at most: a callback that writes to thousands needs no chunk for each */

static void free_chunks(tepal_loop *loop, tpi_chunk *chunk) {
    while (chunk != NULL) {
        tpi_chunk *next = chunk->next;
        tpi_free(loop->realloc, chunk);
        chunk = next;
    }
}

static void free_all(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    free_chunks(loop, corks->free);
    free_chunks(loop, corks->first); /* in a forked child, where nothing is handed down any more */
    tpi_free(loop->realloc, loop->chunk);
    tpi_free(loop->realloc, corks);
    loop->corked = NULL;
    loop->chunk = NULL;
    loop->net = NULL;
}

tpi_chunk *tpi_chunk_new(tepal_loop *loop) {
    tpi_chunk *chunk = loop->realloc(NULL, sizeof *chunk);
    if (chunk != NULL) {
        chunk->message = (tpi_message){.pieces = &chunk->rest, .count = 1};
    }
    return chunk;
}

int tpi_corks_init(tepal_loop *loop) {
    if (loop->net != NULL) {
        return 0;
    }
    tpi_corks *corks = tpi_alloc_zero(loop->realloc, sizeof *corks);
    tpi_chunk *chunk = tpi_chunk_new(loop);
    if (corks == NULL || chunk == NULL) {
        tpi_free(loop->realloc, corks);
        tpi_free(loop->realloc, chunk);
        return TEPAL_ENOMEM;
    }
    loop->net = corks;
    loop->net_free = free_all;
    loop->flush_corked = tpi_corks_flush;
    loop->chunk = chunk;
    return 0;
}

void tpi_chunk_give_rarely(tepal_loop *loop, tpi_chunk *chunk) {
    if (loop->chunk == NULL) {
        loop->chunk = chunk;
    } else {
        tpi_free(loop->realloc, chunk);
    }
}

static tpi_chunk *take_chunk(tepal_loop *loop) {
    tpi_chunk *chunk = loop->chunk;
    if (chunk == NULL) {
        return tpi_chunk_take(loop);
    }
    loop->chunk = NULL;
    return chunk;
}

/* The corks of the loop, the one that is outside the list moved into it. */
static tpi_corks *listed(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    if (loop->corked != NULL && loop->corked != corks) {
        tepal_transport *transport = loop->corked;
        tpi_chunk *chunk = loop->chunk;
        loop->chunk = NULL;
        chunk->next = NULL;
        chunk->transport = transport;
        chunk->limit = TPI_JOIN_BYTES;
        transport->cork = chunk;
        corks->first = chunk;
        loop->corked = corks;
    }
    return corks;
}

/* The chunk that holds what the transport has corked, in the list by now; NULL: nothing. */
static tpi_chunk *cork_of(tepal_transport *transport) {
    tpi_cork_settle(transport);
    return transport->cork;
}

void tpi_cork_settle(tepal_transport *transport) {
    if (transport->loop->corked == transport) {
        (void)listed(transport->loop);
    }
}

/* After something was handed down. */
static void tell_flow(tepal_transport *transport) {
    if (transport->flags & TPI_SPECIAL) {
        tpi_flow_grown(transport);
        tpi_flow_fallen(transport); /* a pull producer's portion may have left */
    }
}

static void hand_down(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    /* A failure has ended the transport, which is how it is told. */
    if (transport->filters == NULL) {
        (void)tpi_stream_write(transport, pieces, count);
    } else {
        (void)tpi_filters_write(transport, pieces, count);
    }
    tell_flow(transport);
}

static tpi_chunk *take_first(tepal_loop *loop, tpi_corks *corks) {
    tpi_chunk *chunk = corks->first;
    corks->first = chunk->next; /* now: what was written meanwhile is behind it */
    if (corks->first == NULL) {
        loop->corked = NULL;
    } else {
        corks->others--;
    }
    return chunk;
}

/* What was in the oldest chunk is handed down or dropped: it leaves the list. */
static void forget_first(tepal_loop *loop, tpi_corks *corks) {
    tpi_chunk_give(loop, take_first(loop, corks));
}

/* Hand down the oldest cork. */
static void flush_first(tepal_loop *loop, tpi_corks *corks) {
    const tpi_chunk *chunk = corks->first;
    tepal_transport *transport = chunk->transport;
    if (transport != NULL && loop->driver->completes && tpi_stream_may_fly(transport)) {
        if (loop->chunk == NULL) {
            loop->chunk = tpi_chunk_take(loop); /* one is always there */
        }
        if (loop->chunk != NULL) {
            transport->cork = NULL;
            tpi_stream_fly(transport, take_first(loop, corks));
            tell_flow(transport);
            return;
        }
    }
    if (transport != NULL) {
        tpi_transport_drain_cork(transport);
    }
    forget_first(loop, corks);
}

void tpi_corks_flush(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    if (loop->corked != corks) {
        tpi_cork_flush_after(loop->corked);
        return;
    }
    if (corks->flushing) {
        return; /* who flushes goes on until nothing is left */
    }
    corks->flushing = true;
    while (corks->first != NULL) {
        flush_first(loop, corks);
    }
    corks->flushing = false;
}

/* How much one cork holds at most: no more than may wait without a pause. */
static size_t cork_limit(const tepal_transport *transport) {
    uint64_t high = tpi_flow_high(transport);
    return high < TPI_JOIN_BYTES ? high : TPI_JOIN_BYTES;
}

static int cork(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_corks *corks = listed(loop);
    tpi_chunk *chunk = take_chunk(loop);
    if (chunk == NULL) {
        return TEPAL_ENOMEM;
    }
    chunk->transport = transport;
    chunk->next = NULL;
    chunk->used = 0;
    chunk->limit = 0;
    transport->cork = chunk;
    tpi_chunk *oldest = corks->first;
    if (oldest == NULL) {
        corks->first = chunk;
        loop->corked = corks;
        return 0;
    }
    tpi_chunk *last = oldest->next == NULL ? oldest : corks->last;
    last->next = chunk;
    corks->last = chunk;
    corks->others++;
    if (corks->others > CORKS && !corks->flushing) {
        corks->flushing = true;
        flush_first(loop, corks); /* another one's: its writes of this callback leave a little earlier */
        corks->flushing = false;
    }
    return 0;
}

/* Take the cork off. Its chunk keeps its place in the list, where the next flush finds it empty. */
static tpi_chunk *uncork(tepal_transport *transport) {
    tpi_chunk *chunk = cork_of(transport);
    transport->cork = NULL;
    chunk->transport = NULL;
    return chunk;
}

void tpi_transport_drain_cork(tepal_transport *transport) {
    if (cork_of(transport) != NULL) {
        const tpi_chunk *chunk = uncork(transport);
        struct iovec piece = {.iov_base = (void *)(uintptr_t)chunk->bytes, .iov_len = chunk->used};
        hand_down(transport, &piece, 1);
    }
}

/* Not in line: what it keeps in registers an epoll driver's way would save for nothing. */
void tpi_cork_send(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_driver *driver = loop->driver;
    tpi_chunk *chunk = loop->chunk;
    tpi_chunk *next = tpi_chunk_take(loop);
    if (__builtin_expect(next == NULL, 0)) {
        tpi_cork_flush_rest(transport, driver->ops->offer(driver, &transport->object, chunk->bytes, chunk->used));
        return;
    }
    loop->corked = NULL;
    loop->chunk = next;
    transport->flags |= TPI_FLYING;
    int64_t done = driver->ops->send(driver, &transport->object, tpi_cork_fly(transport, chunk));
    if (__builtin_expect(done != TPI_PENDING, 0)) {
        tpi_stream_flown(transport, done);
    }
}

void tpi_cork_flush_rest(tepal_transport *transport, int64_t sent) {
    tepal_loop *loop = transport->loop;
    tpi_corks *corks = listed(loop);
    const tpi_chunk *chunk = uncork(transport);
    struct iovec piece = {.iov_base = (void *)(uintptr_t)chunk->bytes, .iov_len = chunk->used};
    corks->flushing = true;
    (void)tpi_stream_write_rest(transport, &piece, 1, sent);
    tell_flow(transport);
    forget_first(loop, corks);
    corks->flushing = false;
    if (loop->corked != NULL) {
        tpi_corks_flush(loop);
    }
}

void tpi_transport_drop_cork(tepal_transport *transport) {
    if (cork_of(transport) != NULL) {
        (void)uncork(transport);
    }
}

size_t tpi_transport_corked(const tepal_transport *transport) {
    const tepal_loop *loop = transport->loop;
    const tpi_chunk *chunk = loop->corked == transport ? loop->chunk : transport->cork;
    return chunk == NULL ? 0 : chunk->used;
}

/* Whether length bytes may be written: the cap is judged before a byte moves. */
static int check_write(const tepal_transport *transport, uint64_t length) {
    if (__builtin_expect(transport->loop->debug, 0)) {
        int code = tpi_loop_check(transport->loop);
        if (code < 0) {
            return code;
        }
    }
    if (__builtin_expect(transport->flags & (TPI_CLOSING | TPI_EOF_WANTED), 0)) {
        return transport->flags & TPI_CLOSING ? TEPAL_ECLOSED : TEPAL_EPIPE;
    }
    if (__builtin_expect(length > TPI_JOIN_BYTES || transport->flags & TPI_SPECIAL, 0)) {
        uint64_t buffered = tepal_transport_write_buffer_size(transport);
        uint64_t cap = tpi_flow_cap(transport);
        if (buffered > cap || length > cap - buffered) {
            return TEPAL_ENOBUFS;
        }
    }
    return 0;
}

static void append(tpi_chunk *chunk, const struct iovec *pieces, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) {
            memcpy(chunk->bytes + chunk->used, pieces[i].iov_base, pieces[i].iov_len);
            chunk->used += pieces[i].iov_len;
        }
    }
}

static int write_pieces(tepal_transport *transport, const struct iovec *pieces, size_t count, uint64_t length);

/* Write what fits a cork, which has been checked. */
static int write_corked(tepal_transport *transport, const struct iovec *pieces, size_t count, size_t limit) {
    if (cork_of(transport) == NULL) {
        int code = cork(transport);
        if (code < 0) {
            return code;
        }
        if (__builtin_expect(transport->cork == NULL || transport->cork->used > 0, 0)) {
            /* What flushing another one called up has ended this one, or written to it: judge again. */
            return write_pieces(transport, pieces, count, tpi_pieces_bytes(pieces, count));
        }
    }
    tpi_chunk *chunk = transport->cork;
    append(chunk, pieces, count);
    if (transport->flags & TPI_SPECIAL) {
        tpi_flow_grown(transport);
    } else {
        chunk->limit = limit; /* nothing waits, so within the limit no mark can be passed */
    }
    return 0;
}

/* Write what is not to be corked: it leaves at once, behind what was written before. */
static void write_through(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    if (cork_of(transport) == NULL) {
        hand_down(transport, pieces, count);
        return;
    }
    const tpi_chunk *chunk = uncork(transport);
    struct iovec all[TPI_SEND_PIECES + 1];
    all[0] = (struct iovec){.iov_base = (void *)(uintptr_t)chunk->bytes, .iov_len = chunk->used};
    memcpy(all + 1, pieces, count * sizeof *pieces);
    hand_down(transport, all, count + 1);
}

/* What check_write has let pass, as a whole or in parts. */
static int write_checked(tepal_transport *transport, const struct iovec *pieces, size_t count, uint64_t length) {
    if (length == 0) {
        return 0;
    }
    size_t limit = cork_limit(transport);
    const size_t corked = tpi_transport_corked(transport);
    if (corked + length <= limit && (corked > 0 || length < DIRECT_BYTES)) {
        return write_corked(transport, pieces, count, limit);
    }
    write_through(transport, pieces, count);
    return 0;
}

static int write_pieces(tepal_transport *transport, const struct iovec *pieces, size_t count, uint64_t length) {
    int code = check_write(transport, length);
    return code < 0 ? code : write_checked(transport, pieces, count, length);
}

static __attribute__((noinline)) int write_in_general(tepal_transport *transport, const void *data, size_t length) {
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    return write_pieces(transport, &piece, 1, length);
}

/* Not the first write of this callback, or something is unusual. */
static __attribute__((noinline)) int write_more(tepal_transport *transport, const void *data, size_t length) {
    const bool is_alone = transport->loop->corked == transport;
    tpi_chunk *chunk = is_alone ? transport->loop->chunk : transport->cork;
    const size_t limit = is_alone ? TPI_JOIN_BYTES : chunk == NULL ? 0 : chunk->limit;
    if (__builtin_expect(length - 1 >= limit || chunk->used + length > limit, 0)) {
        return write_in_general(transport, data, length);
    }
    uint8_t *end = chunk->bytes + chunk->used;
    chunk->used += length;
    memcpy(end, data, length);
    return 0;
}

int tepal_transport_write(tepal_transport *transport, const void *data, size_t length) {
    tepal_loop *loop = transport->loop;
    if (__builtin_expect(loop->corked != NULL || transport->flags & (TPI_SPECIAL | TPI_CLOSING | TPI_EOF_WANTED) ||
                             length - 1 >= DIRECT_BYTES - 1,
                         0)) {
        return write_more(transport, data, length);
    }
    tpi_chunk *chunk = loop->chunk;
    loop->corked = transport;
    chunk->used = length;
    memcpy(chunk->bytes, data, length);
    return 0;
}

int tepal_transport_writev(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    uint64_t length = tpi_pieces_bytes(pieces, count);
    if (count <= TPI_SEND_PIECES) {
        return write_pieces(transport, pieces, count, length);
    }
    /*
     * More than one call can gather: joined in the cork on the way. Judged as a whole first, so it is all or nothing; and
     * nobody is told of marks on the way, who might write in between.
     */
    int code = check_write(transport, length);
    tepal_transport_ref(transport);
    transport->flags |= TPI_GATHERING;
    for (size_t i = 0; i < count && code == 0; i += TPI_SEND_PIECES) {
        size_t some = count - i < TPI_SEND_PIECES ? count - i : TPI_SEND_PIECES;
        /* Not judged by the cap again: what a filter adds to the first parts must not cut off the rest. */
        code = transport->flags & TPI_CLOSING
                   ? TEPAL_ECLOSED
                   : write_checked(transport, pieces + i, some, tpi_pieces_bytes(pieces + i, some));
        if (code < 0 && i > 0) {
            /* It ended in between, or memory ran out, which ends it: connection_lost tells. */
            tpi_transport_fail(transport, code);
            code = 0;
            break;
        }
    }
    transport->flags &= ~(uint32_t)TPI_GATHERING;
    tell_flow(transport);
    tepal_transport_unref(transport);
    return code;
}

int tepal_transport_write_owned(tepal_transport *transport, const struct iovec *pieces, size_t count,
                                tepal_release release, void *argument) {
    uint64_t length = tpi_pieces_bytes(pieces, count);
    int code = check_write(transport, length);
    if (code < 0) {
        return code;
    }
    tpi_transport_drain_cork(transport);
    code = check_write(transport, length); /* draining may have ended it */
    if (code < 0) {
        return code;
    }
    if (length == 0 || transport->filters != NULL) {
        /* A filter takes all within the call: copied, encrypted, counted in its buffer. */
        code = length == 0 ? 0 : tpi_filters_write(transport, pieces, count);
        release(argument, code < 0 ? code : 0);
        tell_flow(transport);
        return 0; /* part of it may have left before it failed, which ended the transport: connection_lost tells */
    }
    code = tpi_stream_write_owned(transport, pieces, count, release, argument);
    if (code == 0) {
        tell_flow(transport);
    }
    return code;
}

int tepal_transport_flush(tepal_transport *transport) {
    int code = tpi_loop_check(transport->loop);
    if (code < 0 || transport->flags & TPI_ENDED) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    tepal_transport_ref(transport);
    tpi_transport_drain_cork(transport);
    if (transport->filters != NULL) {
        tpi_filters_flush(transport);
    }
    transport->loop->driver->ops->flush(transport->loop->driver);
    tpi_stream_flush(transport);
    tepal_transport_unref(transport);
    return 0;
}
