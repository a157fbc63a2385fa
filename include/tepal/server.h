/**
 * Servers: listening sockets, and a protocol for each connection that comes.
 */
#ifndef TEPAL_SERVER_H
#define TEPAL_SERVER_H

#include <tepal/base.h>
#include <tepal/error.h>
#include <tepal/protocol.h>
#include <tepal/tls.h>
#include <tepal/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where and how to listen. Any mix of hosts, a Unix path and open descriptors. Strings are copied. */
typedef struct tepal_server_options {
    size_t size;
    const char *const
        *hosts; /**< literal addresses (create_server: names too); none of any kind: the wildcard ones, IPv6 and IPv4 */
    size_t host_count;
    uint16_t port; /**< 0: chosen by the system, the same for all hosts where it can be */
    const char *
        unix_path; /**< a path, or an abstract name with "@" for its leading NUL; a dead socket's file there is replaced */
    const int *
        fds; /**< bound or listening stream sockets that stay the caller's: made non-blocking, never closed or shut down */
    size_t fd_count;
    int backlog;                              /**< 0: SOMAXCONN */
    bool no_reuse_address;                    /**< leave SO_REUSEADDR off */
    bool reuse_port;                          /**< SO_REUSEPORT: several sockets share one port */
    bool ipv4_mapped;                         /**< let IPv6 sockets take IPv4 too; IPV6_V6ONLY is set otherwise */
    bool do_not_start;                        /**< bind and listen at tepal_server_start_serving() */
    const tepal_transport_options *transport; /**< for each connection; copied */
    void (*accept_failed)(
        void *argument,
        const tepal_error *error); /**< told of failed accepts (EMFILE: at most once a second) and factories */
    int (*accepted)(void *argument, int fd,
                    const tepal_address
                        *peer); /**< asked first: 0 makes a connection of it; 1: fd is yours now; below 0 closes it */
    const tepal_tls_options
        *tls; /**< copied: TLS, set up before the factory is called; accept_failed hears of handshakes that fail */
} tepal_server_options;

/**
 * Listen on literal addresses, paths and descriptors, at once. Each connection gets a protocol from factory(argument).
 *
 * All or nothing. The server belongs to the caller: tepal_server_close() and tepal_server_unref(). Returns 0; TEPAL_EINVAL
 * (a name, or an option out of range); the system's error (EADDRINUSE, EACCES ...); TEPAL_ENOMEM; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_listen(tepal_loop *loop, tepal_factory factory, void *argument,
                                const tepal_server_options *options, tepal_server **server);

/** As tepal_loop_listen(), for names too: through a future, read with tepal_server_result(). Its error names the address that failed. */
TEPAL_API int tepal_loop_create_server(tepal_loop *loop, tepal_factory factory, void *argument,
                                       const tepal_server_options *options, tepal_future **future);

/** The server of a create_server future, with a reference for the caller. Returns 0, TEPAL_EPENDING or the error. Loop thread. */
TEPAL_API int tepal_server_result(tepal_future *future, tepal_server **server);

/** One more reference. Returns server. Loop thread. */
TEPAL_API tepal_server *tepal_server_ref(tepal_server *server);

/** Give back a reference; NULL is allowed. A server that nobody holds goes on serving until it or its loop is closed. Loop thread. */
TEPAL_API void tepal_server_unref(tepal_server *server);

/** Start accepting, if it does not. Returns 0, the system's error from listen(2), or TEPAL_ECLOSED. Loop thread. */
TEPAL_API int tepal_server_start_serving(tepal_server *server);

/** Whether it accepts connections. */
TEPAL_API bool tepal_server_is_serving(const tepal_server *server);

/** How many sockets it listens on; 0 once closed. */
TEPAL_API size_t tepal_server_socket_count(const tepal_server *server);

/** The descriptor of socket index; it stays the server's. TEPAL_EINVAL past the end. */
TEPAL_API int tepal_server_socket(const tepal_server *server, size_t index);

/** The local address of socket index, with the port that the system chose. Returns 0, TEPAL_EINVAL past the end, or the system's error. */
TEPAL_API int tepal_server_local(const tepal_server *server, size_t index, tepal_address *address);

/** How many of its connections are alive: made, and their descriptor not closed (one that lingers counts). */
TEPAL_API size_t tepal_server_connection_count(const tepal_server *server);

/**
 * Stop listening: when this returns the kernel refuses connections (borrowed sockets are only no longer accepted
 * from). Connections go on. A Unix path that it made is removed if it is still its own. Twice is harmless. Loop thread.
 */
TEPAL_API void tepal_server_close(tepal_server *server);

/** tepal_transport_close() on each of its connections. Loop thread. */
TEPAL_API void tepal_server_close_clients(tepal_server *server);

/** tepal_transport_abort(TEPAL_ECLOSED) on each of its connections. Loop thread. */
TEPAL_API void tepal_server_abort_clients(tepal_server *server);

/** A future that is done once the server is closed and the descriptor of its last connection too (after any lingering). Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED. Loop thread. */
TEPAL_API int tepal_server_wait_closed(tepal_server *server, tepal_future **future);

#ifdef __cplusplus
}
#endif
#endif
