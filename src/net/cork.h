/*
 * The cork: what one callback writes, joined in a chunk and handed down when the callback returns.
 *
 * A transport has a cork only between its first write in a callback and the flush after it. The first chunk of a
 * callback is the loop's spare one, which is what makes the common case (one upcall, one answer) cheap: no list, no
 * memory, two functions that the compiler can put in line. The rest is in write.c.
 */
#ifndef TPI_CORK_H
#define TPI_CORK_H

#include "net/stream.h"

struct tpi_chunk {
    tpi_chunk *next;            /* of the corked ones, in the order of their first write, or of the free ones */
    tepal_transport *transport; /* NULL: what was in it has been handed down or dropped already */
    uint32_t used;
    uint32_t limit;      /* up to which bytes may be added without further thought; 0: always think */
    struct iovec rest;   /* in flight: what the driver has not sent */
    tpi_message message; /* in flight: of that rest */
    uint8_t bytes[TPI_JOIN_BYTES];
};

/* A free chunk, or NULL; and back again. */
tpi_chunk *tpi_chunk_take(tepal_loop *loop);
void tpi_chunk_give(tepal_loop *loop, tpi_chunk *chunk);

/* Make the chunk what transport has in flight. It is in no list. */
static inline const tpi_message *tpi_cork_fly(tepal_transport *transport, tpi_chunk *chunk) {
    chunk->rest = (struct iovec){.iov_base = chunk->bytes, .iov_len = chunk->used};
    chunk->message = (tpi_message){.pieces = &chunk->rest, .count = 1};
    transport->flight = chunk;
    transport->flags |= TPI_HAS_SENT | TPI_SPECIAL;
    return &chunk->message;
}

/*
 * After an upcall: hand down what was corked. In line for the one transport that answered its own upcall, when the
 * driver takes all of it.
 */
static inline void tpi_cork_flush_after(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    tpi_chunk *chunk = loop->corked;
    if (chunk == NULL) {
        return;
    }
    if (__builtin_expect(chunk->transport == transport && chunk->next == NULL &&
                             !(transport->flags & (TPI_SPECIAL | TPI_ENDED)),
                         1)) {
        if (loop->driver->completes) {
            transport->cork = NULL;
            loop->corked = NULL;
            loop->spare = tpi_chunk_take(loop);
            int64_t done = loop->driver->ops->send(loop->driver, &transport->object, tpi_cork_fly(transport, chunk));
            if (__builtin_expect(done != TPI_PENDING, 0)) {
                tpi_stream_flown(transport, done);
            }
            return;
        }
        int64_t sent = loop->driver->ops->offer(loop->driver, &transport->object, chunk->bytes, chunk->used);
        if (__builtin_expect(sent == chunk->used, 1)) {
            transport->flags |= TPI_HAS_SENT;
            transport->cork = NULL;
            loop->corked = NULL;
            loop->spare = chunk; /* a list of one is the spare chunk */
            return;
        }
        tpi_cork_flush_rest(transport, sent);
        return;
    }
    tpi_corks_flush(loop);
}

#endif
