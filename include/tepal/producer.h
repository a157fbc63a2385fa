/**
 * Producers, as in Twisted: who is told to stop and go on when a transport's write buffer fills and drains; and pipes,
 * which move everything from one transport to another on top of them.
 */
#ifndef TEPAL_PRODUCER_H
#define TEPAL_PRODUCER_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Something that writes to a transport and is told when. Embed it in a struct of yours, set size and the functions.
 *
 * A push producer (streaming) writes on its own until pause, and again after resume. A pull producer is asked by each
 * resume for one portion and is asked again once that has left the buffer (one that writes nothing, in the next turn).
 * The calls may run inside a write; they may write, close and abort. Once the writing side is ended or closing neither
 * resume nor pause comes. One that is unregistered, or was told to stop, is never called again.
 */
typedef struct tepal_producer {
    size_t size;                                     /**< sizeof(tepal_producer) */
    void (*resume)(struct tepal_producer *producer); /**< go on; pull: write one portion now */
    void (*pause)(struct tepal_producer *producer);  /**< push only: write no more */
    void (*stop)(struct tepal_producer *producer);   /**< the transport is closing or gone: for ever */
} tepal_producer;

/**
 * Register the one producer of a transport. It is the caller's and must live until unregistered or stopped.
 *
 * streaming: a push producer, called pause at once if writing is paused now; else a pull producer, asked from the next
 * turn on. After close() and abort() it is told to stop, from the ready queue: a closing transport accepts nothing. Returns 0;
 * TEPAL_EBUSY if there is one; TEPAL_EINVAL if a function is missing; TEPAL_ENOMEM; on a closing transport
 * TEPAL_ECLOSED, after write_eof TEPAL_EPIPE, and stop is not called.
 */
TEPAL_API int tepal_transport_register_producer(tepal_transport *transport, tepal_producer *producer, bool streaming);

/** Unregister the producer: it is not called again. Returns 0 or TEPAL_ENOENT. */
TEPAL_API int tepal_transport_unregister_producer(tepal_transport *transport);

/** How a pipe behaves; zero is the default of each member. */
typedef struct tepal_pipe_options {
    size_t size;
    bool keep_sink_open; /**< at the source's end leave the sink as it is, instead of ending its writing side */
} tepal_pipe_options;

/** What a pipe has moved: the value of its future. */
typedef struct tepal_pipe_result {
    uint64_t bytes; /**< bytes read from the source and accepted by the sink */
    bool eof;       /**< the source's peer ended it: nothing is missing */
} tepal_pipe_result;

/**
 * Move everything from source to sink until source ends: one direction; a second pipe the other way makes a relay.
 *
 * The source's protocol is set aside (no data or EOF upcall) until the pipe ends and is put back then; the sink's
 * protocol stays in place, and the pipe is its producer. When the sink's buffer is above its high mark the source is
 * paused, so no more than that mark plus one read is ever held; a sink whose cap does not allow that much may fail with
 * TEPAL_ENOBUFS, and both sides with it. Pausing the source yourself counts beside that: it waits until you resume it.
 *
 * At the source's EOF the sink gets write_eof (or, where it cannot half-close, close), and the source stays half-open
 * for the other direction; a source that both directions have finished is closed. If you close the source, the sink
 * ends as at EOF. If the source is lost with an error the sink is aborted with its code; if the sink is lost, the
 * source is aborted (clean end: closed). Each protocol gets its connection_lost as always.
 *
 * The future's value is a tepal_pipe_result, its error that of the side that failed. Cancelling it stops the pipe:
 * both protocols go on. Returns 0; TEPAL_EBUSY if sink has a producer or source is piped already; TEPAL_EINVAL if both
 * are one, or of different loops; TEPAL_ENOMEM; TEPAL_ECLOSED; TEPAL_EPIPE if the sink's writing side has been ended.
 */
TEPAL_API int tepal_pipe(tepal_transport *source, tepal_transport *sink, const tepal_pipe_options *options,
                         tepal_future **future);

/** What a pipe that is still running has moved so far, in bytes; the final count once it is done; 0 for a future that is no pipe's. */
TEPAL_API uint64_t tepal_pipe_bytes(const tepal_future *future);

#ifdef __cplusplus
}
#endif
#endif
