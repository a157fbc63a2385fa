/**
 * Connecting: from a name or address to a transport and a protocol, through a future.
 */
#ifndef TEPAL_CONNECT_H
#define TEPAL_CONNECT_H

#include <tepal/base.h>
#include <tepal/error.h>
#include <tepal/protocol.h>
#include <tepal/tls.h>
#include <tepal/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where to connect. Either host and port, or unix_path, or fd. Strings are copied. */
typedef struct tepal_connect_options {
    size_t size;
    const char *host; /**< a literal address or a name of at most 253 bytes; NULL: the loopback addresses */
    uint16_t port;
    int family;                 /**< AF_INET or AF_INET6 only; 0: both */
    const char *unix_path;      /**< a path, or an abstract name with "@" for its leading NUL */
    const tepal_address *local; /**< bind to this first; of the same family as what is tried */
    int64_t limit_ns;           /**< for everything: resolving, connecting; 0: none but the system's, negative: none */
    int (*allow)(void *argument, const tepal_address *address); /**< asked before each attempt: below 0 refuses it */
    void *allow_argument;
    const tepal_transport_options *transport; /**< copied */
    const tepal_tls_options *tls;             /**< copied: TLS, set up before the factory is called; NULL: none */
    const int *fd; /**< a connected stream socket instead of host and unix_path; the loop's once this returns 0 */
} tepal_connect_options;

/**
 * Connect, make a protocol with factory(argument), call its connection_made, then complete the future.
 *
 * With tls the handshake comes between connecting and the factory: whoever gets a protocol has a verified peer, and a
 * handshake that fails is the future's error. No further address is tried then.
 *
 * A name is resolved on a thread (getaddrinfo(3)) and its addresses are tried in order. If all fail, the error has the
 * last attempt's code and text and, through next, the ones before, each with its address. A Unix socket whose backlog is
 * full is asked again until it has room, as a blocking connect(2) would wait; a TCP socket that meets itself counts as
 * refused. Cancelling the future ends the attempt; a connection that had just succeeded is closed without a word, but
 * once the factory has been called it is aborted with TEPAL_ECANCELED. Read the result with tepal_connection_result().
 *
 * Returns 0; TEPAL_EINVAL (a bad name: empty, too long, with a NUL or both kinds of address; the resolver's failures
 * come through the future); TEPAL_ENOMEM; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_create_connection(tepal_loop *loop, tepal_factory factory, void *argument,
                                           const tepal_connect_options *options, tepal_future **future);

/**
 * The transport and protocol of a connect future; either may be NULL. Both are borrowed: the transport is the
 * loop's, and the future holds a reference.
 *
 * Returns 0; TEPAL_EPENDING; TEPAL_ECLOSED if the connection has been lost since; or the error. Loop thread.
 */
TEPAL_API int tepal_connection_result(tepal_future *future, tepal_transport **transport, tepal_protocol **protocol);

/** The addresses of a name: the value of a getaddrinfo future. */
typedef struct tepal_addresses {
    size_t count;
    const tepal_address *address; /**< count of them */
} tepal_addresses;

/**
 * Resolve a name to stream addresses, in the order of getaddrinfo(3), on one of the loop's threads.
 *
 * host NULL means the loopback addresses (passive: the wildcard ones). The future's value is a tepal_addresses, owned by
 * it; its error is of TEPAL_DOMAIN_RESOLVER or the system's. Returns 0, TEPAL_EINVAL, TEPAL_ENOMEM or TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_getaddrinfo(tepal_loop *loop, const char *host, uint16_t port, int family, bool passive,
                                     tepal_future **future);

#ifdef __cplusplus
}
#endif
#endif
