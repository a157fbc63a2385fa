/*
 * Writing: what one callback writes is corked, joined in a chunk of 16 KiB, and leaves when the callback returns. What
 * would not fit leaves at once, gathered with the caller's memory, so that only what the kernel refuses is copied.
 *
 * Corks are the loop's: a transport has one only between its first write in a callback and the flush after it.
 */
#include "net/stream.h"

#define FREE_CHUNKS 16 /* kept for reuse */
#define CORKS 64 /* transports corked at once at most: a callback that writes to thousands needs no chunk for each */

struct tpi_chunk {
    tpi_chunk *next, *previous; /* of the corked ones, in the order of their first write; free ones by next alone */
    tepal_transport *transport;
    uint32_t used;
    uint32_t room; /* bytes that need no further thought; 0: always think (see room_for) */
    uint8_t bytes[TPI_JOIN_BYTES];
};

/* What the transports of a loop share: loop->net. */
typedef struct tpi_corks {
    tpi_chunk *first, *last;
    tpi_chunk *free;
    unsigned count, free_count;
} tpi_corks;

static void flush_all(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    while (corks->first != NULL) {
        tpi_transport_drain_cork(corks->first->transport);
    }
}

static void free_all(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    while (corks->free != NULL) {
        tpi_chunk *next = corks->free->next;
        tpi_free(loop->realloc, corks->free);
        corks->free = next;
    }
    tpi_free(loop->realloc, corks);
    loop->net = NULL;
}

static tpi_corks *corks_of(tepal_loop *loop) {
    if (__builtin_expect(loop->net == NULL, 0)) {
        loop->net = tpi_alloc_zero(loop->realloc, sizeof(tpi_corks));
        loop->net_free = free_all;
        loop->flush_corked = flush_all;
        if (loop->net == NULL) {
            loop->net_free = NULL;
        }
    }
    return loop->net;
}

static tpi_chunk *take_chunk(tepal_loop *loop, tpi_corks *corks) {
    tpi_chunk *chunk = corks->free;
    if (__builtin_expect(chunk == NULL, 0)) {
        return loop->realloc(NULL, sizeof *chunk);
    }
    corks->free = chunk->next;
    corks->free_count--;
    return chunk;
}

static void give_chunk(tepal_loop *loop, tpi_chunk *chunk) {
    tpi_corks *corks = loop->net;
    if (corks->free_count >= FREE_CHUNKS) {
        tpi_free(loop->realloc, chunk);
        return;
    }
    chunk->next = corks->free;
    corks->free = chunk;
    corks->free_count++;
}

/* How much one cork holds at most: no more than may wait without a pause. */
static uint32_t cork_limit(const tepal_transport *transport) {
    uint64_t high = tpi_flow_high(transport);
    return high < TPI_JOIN_BYTES ? (uint32_t)high : TPI_JOIN_BYTES;
}

static int cork(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_corks *corks = corks_of(loop);
    if (corks == NULL) {
        return TEPAL_ENOMEM;
    }
    if (__builtin_expect(corks->count >= CORKS, 0)) {
        tpi_transport_drain_cork(corks->first->transport);
    }
    tpi_chunk *chunk = take_chunk(loop, corks);
    if (chunk == NULL) {
        return TEPAL_ENOMEM;
    }
    chunk->transport = transport;
    chunk->used = 0;
    chunk->room = 0;
    chunk->next = NULL;
    chunk->previous = corks->first == NULL ? NULL : corks->last;
    if (chunk->previous == NULL) {
        corks->first = chunk;
    } else {
        chunk->previous->next = chunk;
    }
    corks->last = chunk;
    corks->count++;
    loop->corked = corks->first;
    transport->cork = chunk;
    return 0;
}

/* Take the cork out of the list; its chunk is the caller's. */
static tpi_chunk *uncork(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_corks *corks = loop->net;
    tpi_chunk *chunk = transport->cork;
    transport->cork = NULL;
    if (chunk->previous == NULL) {
        corks->first = chunk->next;
    } else {
        chunk->previous->next = chunk->next;
    }
    if (chunk->next == NULL) {
        corks->last = chunk->previous;
    } else {
        chunk->next->previous = chunk->previous;
    }
    corks->count--;
    loop->corked = corks->first;
    return chunk;
}

/* After something was handed down. */
static void tell_flow(tepal_transport *transport) {
    if (__builtin_expect(transport->sending != NULL || transport->filters != NULL, 0)) {
        tpi_flow_grown(transport);
    }
    if (__builtin_expect(transport->extras != NULL && transport->sending == NULL, 0)) {
        tpi_flow_fallen(transport); /* a pull producer's portion has left */
    }
}

static int hand_down(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    int code = transport->filters == NULL ? tpi_stream_write(transport, pieces, count)
                                          : tpi_filters_write(transport, pieces, count);
    tell_flow(transport);
    return code;
}

void tpi_transport_drain_cork(tepal_transport *transport) {
    if (transport->cork == NULL) {
        return;
    }
    tepal_loop *loop = transport->loop;
    tpi_chunk *chunk = uncork(transport);
    struct iovec piece = {.iov_base = chunk->bytes, .iov_len = chunk->used};
    (void)hand_down(transport, &piece, 1); /* a failure has ended the transport, which is how it is told */
    give_chunk(loop, chunk);
}

void tpi_transport_drop_cork(tepal_transport *transport) {
    if (transport->cork != NULL) {
        give_chunk(transport->loop, uncork(transport));
    }
}

uint32_t tpi_transport_corked(const tepal_transport *transport) {
    return transport->cork == NULL ? 0 : transport->cork->used;
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
    if (__builtin_expect(length > TPI_JOIN_BYTES || transport->sending != NULL || transport->filters != NULL ||
                             transport->extras != NULL,
                         0)) {
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
            chunk->used += (uint32_t)pieces[i].iov_len;
        }
    }
}

/* Write what fits a cork, which has been checked. */
static int write_corked(tepal_transport *transport, const struct iovec *pieces, size_t count, uint32_t limit) {
    if (transport->cork == NULL) {
        int code = cork(transport);
        if (code < 0) {
            return code;
        }
    }
    tpi_chunk *chunk = transport->cork;
    append(chunk, pieces, count);
    if (__builtin_expect(transport->sending == NULL && transport->filters == NULL && !transport->loop->debug, 1)) {
        chunk->room = limit - chunk->used; /* nothing waits, so within the limit no mark can be passed */
    } else {
        tpi_flow_grown(transport);
    }
    return 0;
}

/* Write more than a cork holds: it leaves at once, behind what was written before. */
static void write_through(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    if (transport->cork == NULL) {
        (void)hand_down(transport, pieces, count);
        return;
    }
    tepal_loop *loop = transport->loop;
    tpi_chunk *chunk = uncork(transport);
    struct iovec all[TPI_SEND_PIECES + 1];
    all[0] = (struct iovec){.iov_base = chunk->bytes, .iov_len = chunk->used};
    memcpy(all + 1, pieces, count * sizeof *pieces);
    (void)hand_down(transport, all, count + 1);
    give_chunk(loop, chunk);
}

static int write_pieces(tepal_transport *transport, const struct iovec *pieces, size_t count, uint64_t length) {
    int code = check_write(transport, length);
    if (code < 0 || length == 0) {
        return code;
    }
    uint32_t limit = cork_limit(transport);
    if (tpi_transport_corked(transport) + length <= limit) {
        return write_corked(transport, pieces, count, limit);
    }
    write_through(transport, pieces, count);
    return 0;
}

int tepal_transport_write(tepal_transport *transport, const void *data, size_t length) {
    tpi_chunk *chunk = transport->cork;
    if (__builtin_expect(chunk != NULL && length <= chunk->room, 1) && length > 0) {
        memcpy(chunk->bytes + chunk->used, data, length);
        chunk->used += (uint32_t)length;
        chunk->room -= (uint32_t)length;
        return 0;
    }
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    return write_pieces(transport, &piece, 1, length);
}

int tepal_transport_writev(tepal_transport *transport, const struct iovec *pieces, size_t count) {
    uint64_t length = tpi_pieces_bytes(pieces, count);
    if (count <= TPI_SEND_PIECES) {
        return write_pieces(transport, pieces, count, length);
    }
    /* More than one call can gather: joined in the cork on the way. Judged as a whole first, so it is all or nothing. */
    int code = check_write(transport, length);
    tepal_transport_ref(transport);
    for (size_t i = 0; i < count && code == 0; i += TPI_SEND_PIECES) {
        size_t some = count - i < TPI_SEND_PIECES ? count - i : TPI_SEND_PIECES;
        code = write_pieces(transport, pieces + i, some, tpi_pieces_bytes(pieces + i, some));
        if (code < 0 && i > 0) {
            /* It ended, or was ended by a pause_writing, in between: connection_lost tells. Memory that ran out ends it. */
            if (code != TEPAL_ECLOSED && code != TEPAL_EPIPE) {
                tpi_transport_fail(transport, code);
            }
            code = 0;
            break;
        }
    }
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
        if (code >= 0) {
            release(argument, 0);
            tell_flow(transport);
        }
        return code < 0 ? code : 0;
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
    tepal_transport_unref(transport);
    return 0;
}
