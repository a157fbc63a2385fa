/*
 * A server's inside, shared by server.c (its life) and listen.c (its making).
 */
#ifndef TPI_SERVER_H
#define TPI_SERVER_H

#include "net/setup.h"
#include "net/unix.h"

typedef struct tpi_server_waiter tpi_server_waiter;

/* One socket that listens. It lives until the driver has let go of its object. */
typedef struct tpi_listener {
    tpi_object object;     /* first: the driver's upcalls come with it; borrowed ones are released, never closed */
    tepal_server *server;  /* a reference */
    tepal_address address; /* what it was bound to; of no length if it is borrowed */
    tpi_unix_file file;
    bool listening;
    bool accepting; /* the driver accepts */
    bool stalled;   /* accepting stopped for lack of descriptors or memory; the retry timer starts it again */
    bool retired;   /* on its way out */
} tpi_listener;

/* References: the users', one per listener and one per connection. */
struct tepal_server {
    tepal_loop *loop; /* a reference */
    tepal_factory factory;
    void *argument;
    void (*accept_failed)(void *argument, const tepal_error *error);
    int (*accepted)(void *argument, int fd, const tepal_address *peer);
    tepal_transport_options transport;
    tpi_way *way; /* to set up TLS; NULL: none is wanted */
    int backlog;
    bool serving;
    bool closed;
    pid_t pid; /* whose sockets and paths they are: a forked child must leave them alone */
    size_t references;
    size_t connections;       /* alive */
    size_t alive;             /* listeners whose objects are not gone */
    tpi_listener **listeners; /* the ones in use, in the order of the options; NULL once closed */
    size_t listener_count;
    tpi_server_waiter *waiters; /* futures of wait_closed, oldest first */
    tepal_timer retry;          /* after a failed accept */
    int64_t retry_delay_ns;     /* of the last retry; 0 once one has succeeded */
    int64_t told_ns;            /* when accept_failed was last told of a failed accept */
    bool told;
};

/* An address to listen on. */
typedef struct tpi_place {
    tepal_address address;
    bool
        optional; /* one of several that a name or the wildcard stands for: left out if this machine has no such address */
} tpi_place;

typedef struct tpi_places {
    tpi_place *first;
    size_t count, room;
} tpi_places;

/* server.c: a server with one reference and room for so many listeners. NULL if memory is short. */
tepal_server *tpi_server_new(tepal_loop *loop, tepal_factory factory, void *argument,
                             const tepal_server_options *options, size_t room);

/* server.c: a listener of this server that is not open yet, not among its listeners. NULL if memory is short. */
tpi_listener *tpi_listener_new(tepal_server *server);

/* server.c: a listener whose object never opened. */
void tpi_listener_discard(tpi_listener *listener);

/* server.c: end a listener whose object is open: from its return the kernel refuses. */
void tpi_listener_retire(tpi_listener *listener);

/* listen.c: a checked copy of the options; transport is where the copied options' one points. 0 or TEPAL_EINVAL. */
int tpi_server_read_options(tepal_server_options *options, tepal_transport_options *transport,
                            const tepal_server_options *given);

/* listen.c: whether no host, path or descriptor is given. */
bool tpi_server_is_wildcard(const tepal_server_options *options);

/* listen.c: add an address, once; or those of the wildcard. 0 or TEPAL_ENOMEM. */
int tpi_places_add(tpi_places *places, tpi_realloc allocate, const tepal_address *address, bool optional);
int tpi_places_add_wildcard(tpi_places *places, tpi_realloc allocate, const tepal_server_options *options);

/*
 * listen.c: make the server of these options and places. On an error *error says which, with the address concerned,
 * which is one of places or path; the addresses' ports may have changed. It takes *way over, unless that is not NULL
 * afterwards.
 */
int tpi_server_make(tepal_loop *loop, tepal_factory factory, void *argument, const tepal_server_options *options,
                    tpi_places *places, tepal_address *path, tpi_way **way, tepal_server **server, tepal_error *error);

#endif
