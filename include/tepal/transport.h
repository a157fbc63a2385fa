/**
 * Transports: one end of a connection. Writing, flow control, half-close, closing, and what can be asked of it.
 *
 * A transport belongs to the loop from connection_made to the return of connection_lost. Every function here is for
 * the loop's thread, and none runs an upcall inside itself but pause_writing, resume_writing and a producer's.
 */
#ifndef TEPAL_TRANSPORT_H
#define TEPAL_TRANSPORT_H

#include <tepal/base.h>
#include <tepal/error.h>
#include <tepal/protocol.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Told that the pieces of an owned write are no longer needed: status 0 when all were handed to the kernel. */
typedef void (*tepal_release)(void *argument, int status);

/** How a transport behaves; zero is the default of each member. A time of 0 means the default, a negative one none. */
typedef struct tepal_transport_options {
    size_t size;
    bool nagle;               /**< leave Nagle's algorithm on; TCP_NODELAY is set otherwise */
    bool keep_alive;          /**< SO_KEEPALIVE */
    bool borrow;              /**< adopt only: the descriptor is given back through released, never closed */
    bool abort_without_reset; /**< abort() closes in the ordinary way instead of resetting TCP */
    int64_t linger_ns;        /**< how long unread input is drained after close so that output arrives; 0: 2 s */
    uint64_t
        write_high; /**< write buffer's high mark in bytes; 0: 64 KiB. A mark of 0: tepal_transport_set_write_limits() */
    uint64_t write_low; /**< its low mark; 0: a quarter of the high one */
    uint64_t write_cap; /**< hard cap in bytes; 0: 16 MiB, UINT64_MAX: none */
    void (*released)(void *argument,
                     int fd); /**< borrow: the descriptor is the caller's again, from the loop's thread */
    void *argument;           /**< for released */
} tepal_transport_options;

/** Hold a transport beyond connection_lost; what is called on it then fails with TEPAL_ECLOSED. Returns transport. */
TEPAL_API tepal_transport *tepal_transport_ref(tepal_transport *transport);

/** Give back a reference; NULL is allowed. It does not close the transport. */
TEPAL_API void tepal_transport_unref(tepal_transport *transport);

/** The loop of a transport; borrowed. */
TEPAL_API tepal_loop *tepal_transport_loop(const tepal_transport *transport);

/** The protocol now; NULL once the connection is lost. */
TEPAL_API tepal_protocol *tepal_transport_protocol(const tepal_transport *transport);

/**
 * Put another protocol on a live transport. The old one (old may be NULL) gets no further upcall and is its owner's;
 * the new one gets no connection_made, but pause_writing when writing is paused now. Returns 0, TEPAL_EINVAL or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_transport_set_protocol(tepal_transport *transport, tepal_protocol *protocol, tepal_protocol **old);

/**
 * Write length bytes; they are copied, or taken by the kernel at once. A length of 0 does nothing.
 *
 * What one upcall or callback writes leaves when it returns, joined, or earlier where it is long. Returns 0;
 * TEPAL_ECLOSED once closing; TEPAL_EPIPE after write_eof; TEPAL_ENOBUFS past the write cap; TEPAL_ENOMEM. On an error
 * nothing was queued.
 */
TEPAL_API int tepal_transport_write(tepal_transport *transport, const void *data, size_t length);

/** Write count pieces (any number), in order, as one write. Otherwise as tepal_transport_write(). */
TEPAL_API int tepal_transport_writev(tepal_transport *transport, const struct iovec *pieces, size_t count);

/**
 * Write pieces without copying them: they must stay as they are until release is called, exactly once.
 *
 * The array of pieces itself is copied. status is 0 once every byte was handed to the kernel, or the code with which
 * the transport ended. release may run inside this call and must not touch the transport; it never runs if this
 * returns an error. With a filter on the transport the bytes pass through it and may be released at once. Otherwise as
 * tepal_transport_write(), and TEPAL_ENOMEM.
 */
TEPAL_API int tepal_transport_write_owned(tepal_transport *transport, const struct iovec *pieces, size_t count,
                                          tepal_release release, void *argument);

/** Hand what is written to the kernel now instead of when this callback returns: for callbacks that go on for long. Returns 0 or TEPAL_ECLOSED. */
TEPAL_API int tepal_transport_flush(tepal_transport *transport);

/**
 * A future that is done when writing is not paused: at once, or with the next resume_writing. Its error is the
 * connection's, TEPAL_ECLOSED after a clean end. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_transport_drain(tepal_transport *transport, tepal_future **future);

/**
 * End the writing side after what is buffered (half-close). Reading goes on. Twice is harmless. Once both sides have
 * ended, by write_eof here and the peer's EOF, the transport closes by itself.
 *
 * Returns 0; TEPAL_ENOTSUP where tepal_transport_can_write_eof() is false, and nothing is lost; TEPAL_ECLOSED.
 */
TEPAL_API int tepal_transport_write_eof(tepal_transport *transport);

/** Whether write_eof works, as things stand now (a TLS filter answers by the version it negotiated). */
TEPAL_API bool tepal_transport_can_write_eof(const tepal_transport *transport);

/** Whether close, abort or an error has begun the end. */
TEPAL_API bool tepal_transport_is_closing(const tepal_transport *transport);

/** Whether data is delivered now: not paused, no EOF yet, not closing. */
TEPAL_API bool tepal_transport_is_reading(const tepal_transport *transport);

/**
 * Stop delivering data to the protocol until tepal_transport_resume_reading().
 *
 * After this returns no data upcall runs, even for bytes that the driver already holds: they are kept and delivered
 * first on resume. Pausing twice is harmless. The peer is slowed by TCP, not cut off. Returns 0, or TEPAL_ECLOSED once
 * the transport is closing.
 */
TEPAL_API int tepal_transport_pause_reading(tepal_transport *transport);

/** Deliver data again, from the next turn on. Twice is harmless. Returns 0, or TEPAL_ECLOSED once closing. */
TEPAL_API int tepal_transport_resume_reading(tepal_transport *transport);

/**
 * Close after what is buffered is sent. connection_lost(NULL) comes from the ready queue. Twice is harmless.
 *
 * If input is left unread, the descriptor lingers for up to linger_ns after connection_lost, so that a reset does not
 * overtake what was sent; tepal_loop_close() cuts that short. tepal_server_wait_closed() waits for it.
 */
TEPAL_API void tepal_transport_close(tepal_transport *transport);

/**
 * End at once: what is buffered is discarded, TCP is reset. connection_lost gets code (negative), or NULL for code 0.
 * Also ends a close() that is still sending. Twice is harmless; the first code counts. What fails by itself, for want of
 * memory, say, ends in the same way: what the peer has got must not look like all there was.
 */
TEPAL_API void tepal_transport_abort(tepal_transport *transport, int code);

/**
 * Set the marks of the write buffer, in bytes: low <= high <= cap, or TEPAL_EINVAL. high 0 pauses at every byte that
 * the kernel does not take. cap UINT64_MAX means none. Takes effect at once. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_transport_set_write_limits(tepal_transport *transport, uint64_t high, uint64_t low, uint64_t cap);

/** Read the marks of the write buffer; each pointer may be NULL. */
TEPAL_API void tepal_transport_get_write_limits(const tepal_transport *transport, uint64_t *high, uint64_t *low,
                                                uint64_t *cap);

/** Bytes written and not yet taken by the kernel, in all layers. */
TEPAL_API uint64_t tepal_transport_write_buffer_size(const tepal_transport *transport);

/** The peer's address. Returns 0, TEPAL_ECLOSED after connection_lost, or the system's error. */
TEPAL_API int tepal_transport_peer(const tepal_transport *transport, tepal_address *address);

/** The local address. Returns as tepal_transport_peer(). */
TEPAL_API int tepal_transport_local(const tepal_transport *transport, tepal_address *address);

/** The descriptor, which stays the transport's: for getsockopt(2) and the like. TEPAL_ECLOSED after connection_lost, TEPAL_ENOTSUP on a driver without descriptors. */
TEPAL_API int tepal_transport_fd(const tepal_transport *transport);

/** TCP_NODELAY on or off. Returns 0, TEPAL_ENOTSUP if it is no TCP, or TEPAL_ECLOSED. */
TEPAL_API int tepal_transport_set_no_delay(tepal_transport *transport, bool on);

/**
 * SO_KEEPALIVE on or off; idle and interval in seconds and count of probes, each 0 for the system's default
 * (tcp(7)). Returns 0, TEPAL_ENOTSUP if it is no TCP, TEPAL_EINVAL or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_transport_set_keep_alive(tepal_transport *transport, bool on, unsigned idle, unsigned interval,
                                             unsigned count);

/**
 * Make a transport of a connected stream socket that is open already (accepted elsewhere, inherited, a socketpair).
 *
 * The descriptor is made non-blocking and close-on-exec and is the transport's from success on (options->borrow: it is
 * given back). connection_made comes from the ready queue. options and transport may be NULL. Returns 0;
 * TEPAL_EBADF; TEPAL_EINVAL if it is no connected stream socket; TEPAL_EBUSY if the loop has it already; TEPAL_ENOMEM;
 * TEPAL_ECLOSED. On an error nothing was changed but the descriptor's flags.
 */
TEPAL_API int tepal_loop_adopt(tepal_loop *loop, int fd, tepal_protocol *protocol,
                               const tepal_transport_options *options, tepal_transport **transport);

#ifdef __cplusplus
}
#endif
#endif
