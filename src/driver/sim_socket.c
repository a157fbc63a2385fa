/*
 * Simulated sockets, from a descriptor to the last reference: addresses, binding, listening, connecting, closing. A
 * socket outlives its descriptor as long as something of it is on its way.
 */
#include "driver/sim.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>

#define CONNECT_LIMIT_NS TEPAL_SEC(127) /* tcp(7), tcp_syn_retries */
#define SYN_AGAIN_NS TEPAL_SEC(1)
#define BACKLOG_MOST 4096
#define EPHEMERAL_PORTS (60999 - 32768 + 1) /* ip(7) */

/* Addresses */

static struct sockaddr_in *inet(tepal_address *address) {
    return (struct sockaddr_in *)&address->storage;
}

static struct sockaddr_in6 *inet6(tepal_address *address) {
    return (struct sockaddr_in6 *)&address->storage;
}

void tpi_sim_host_address(const tpi_sim_host *host, int family, uint16_t port, tepal_address *address) {
    *address = (tepal_address){.length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)};
    address->storage.ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        inet(address)->sin_addr.s_addr = htonl(UINT32_C(0x0a000000) + host->id);
        inet(address)->sin_port = htons(port);
    } else {
        struct in6_addr *bytes = &inet6(address)->sin6_addr;
        bytes->s6_addr[0] = 0xfd;
        bytes->s6_addr[14] = (uint8_t)(host->id >> 8);
        bytes->s6_addr[15] = (uint8_t)host->id;
        inet6(address)->sin6_port = htons(port);
    }
}

static void set_port(tepal_address *address, uint16_t port) {
    if (address->storage.ss_family == AF_INET) {
        inet(address)->sin_port = htons(port);
    } else {
        inet6(address)->sin6_port = htons(port);
    }
}

/* The IPv4 address in it, be it mapped; 0: none. */
static uint32_t four_bytes(const tepal_address *address) {
    tepal_address copy = *address;
    if (address->storage.ss_family == AF_INET) {
        return ntohl(inet(&copy)->sin_addr.s_addr);
    }
    const struct in6_addr *bytes = &inet6(&copy)->sin6_addr;
    return IN6_IS_ADDR_V4MAPPED(bytes) ? (uint32_t)bytes->s6_addr[12] << 24 | (uint32_t)bytes->s6_addr[13] << 16 |
                                             (uint32_t)bytes->s6_addr[14] << 8 | bytes->s6_addr[15]
                                       : 0;
}

static bool is_wildcard(const tepal_address *address) {
    tepal_address copy = *address;
    if (address->storage.ss_family == AF_INET) {
        return inet(&copy)->sin_addr.s_addr == 0;
    }
    return address->storage.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&inet6(&copy)->sin6_addr);
}

static bool is_same(const tepal_address *a, const tepal_address *b) {
    return a->length == b->length && memcmp(&a->storage, &b->storage, a->length) == 0;
}

tpi_sim_host *tpi_sim_route(tpi_sim_host *from, const tepal_address *address) {
    tepal_sim *sim = from->sim;
    uint32_t bytes = four_bytes(address);
    unsigned id = 0;
    if (address->storage.ss_family == AF_UNIX || bytes >> 24 == 127 || is_wildcard(address)) {
        return from;
    }
    if (bytes != 0) {
        id = bytes >> 24 == 10 ? bytes & 0xffffff : 0;
    } else {
        tepal_address copy = *address;
        const struct in6_addr *six = &inet6(&copy)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(six)) {
            return from;
        }
        tepal_address own;
        id = (unsigned)six->s6_addr[14] << 8 | six->s6_addr[15];
        if (id >= 1 && id <= sim->host_count) {
            tpi_sim_host_address(sim->hosts[id - 1], AF_INET6, 0, &own);
            id = memcmp(six, &inet6(&own)->sin6_addr, sizeof *six) == 0 ? id : 0;
        }
    }
    return id >= 1 && id <= sim->host_count ? sim->hosts[id - 1] : NULL;
}

/* As an IPv6 socket sees an IPv4 address. */
static void map(tepal_address *address) {
    tepal_address mapped = {.length = sizeof(struct sockaddr_in6)};
    struct in6_addr *bytes = &inet6(&mapped)->sin6_addr;
    mapped.storage.ss_family = AF_INET6;
    inet6(&mapped)->sin6_port = inet(address)->sin_port;
    bytes->s6_addr[10] = bytes->s6_addr[11] = 0xff;
    memcpy(&bytes->s6_addr[12], &inet(address)->sin_addr, 4);
    *address = mapped;
}

/* References */

tpi_sim_socket *tpi_sim_socket_ref(tpi_sim_socket *socket) {
    socket->references++;
    return socket;
}

void tpi_sim_socket_unref(tpi_sim_socket *socket) {
    if (--socket->references == 0) {
        tpi_realloc allocate = socket->host->sim->realloc;
        tpi_free(allocate, socket->bytes);
        tpi_free(allocate, socket);
    }
}

tpi_sim_socket *tpi_sim_socket_at(const tpi_sim_driver *driver, int fd) {
    unsigned index = (unsigned)fd - TPI_SIM_FD;
    return fd < TPI_SIM_FD || index >= driver->table_room ? NULL : driver->table[index];
}

tpi_sim_socket *tpi_sim_socket_new(tpi_sim_host *host, tpi_kind kind, int family) {
    tepal_sim *sim = host->sim;
    tpi_sim_socket *socket = tpi_alloc_zero(sim->realloc, sizeof *socket);
    if (socket == NULL) {
        return NULL;
    }
    socket->references = 1;
    socket->host = host;
    socket->fd = -1;
    socket->kind = (uint8_t)kind;
    socket->family = family;
    socket->capacity = host->capacity > 0
                           ? host->capacity
                           : (size_t)tpi_sim_between(sim, (int64_t)sim->min_capacity, (int64_t)sim->max_capacity);
    socket->keep_idle_s = 7200; /* tcp(7) */
    socket->keep_interval_s = 75;
    socket->keep_count = 9;
    socket->local.length = sizeof(sa_family_t);
    socket->local.storage.ss_family = (sa_family_t)family;
    return socket;
}

/* The lowest number that is free, as everywhere. */
int tpi_sim_socket_open(tpi_sim_socket *socket, tpi_sim_driver *driver) {
    tpi_sim_host *host = driver->host;
    tepal_sim *sim = host->sim;
    if (driver->open >= host->limit || tpi_sim_chance(sim, TPI_RATE_EMFILE)) {
        sim->stats.faults++;
        tpi_sim_trace(sim, host, "has no descriptor left");
        return TEPAL_SYSTEM(EMFILE);
    }
    unsigned index = 0;
    while (index < driver->table_room && driver->table[index] != NULL) {
        index++;
    }
    if (index == driver->table_room) {
        unsigned room = driver->table_room == 0 ? 16 : 2 * driver->table_room;
        tpi_sim_socket **table = sim->realloc(driver->table, room * sizeof(tpi_sim_socket *));
        if (table == NULL) {
            return TEPAL_ENOMEM;
        }
        memset(table + driver->table_room, 0, (room - driver->table_room) * sizeof(tpi_sim_socket *));
        driver->table = table;
        driver->table_room = room;
    }
    driver->table[index] = tpi_sim_socket_ref(socket);
    driver->open++;
    socket->driver = driver;
    socket->fd = (int)(TPI_SIM_FD + index);
    return socket->fd;
}

/* Names */

static bool conflicts(const tpi_sim_socket *a, const tepal_address *address, const tpi_sim_socket *b) {
    if (a->family == AF_UNIX || b->family == AF_UNIX) {
        return a->family == b->family && is_same(&a->local, address);
    }
    if (tepal_address_port(&a->local) != tepal_address_port(address) || (a->reuse_port && b->reuse_port)) {
        return false;
    }
    if (a->family != b->family) {
        const tpi_sim_socket *six = a->family == AF_INET6 ? a : b;
        const tepal_address *name = six == a ? &a->local : address;
        return !six->ipv6_only && is_wildcard(name);
    }
    return is_wildcard(&a->local) || is_wildcard(address) || is_same(&a->local, address);
}

/* Who has this name already. A socket that is not listening any more gives its path up to who comes next. */
static tpi_sim_socket *find_conflict(const tpi_sim_socket *socket, const tepal_address *address) {
    tpi_sim_socket *other = socket->host->bound;
    while (other != NULL && !conflicts(other, address, socket)) {
        other = other->next_bound;
    }
    return other;
}

static void unbind(tpi_sim_socket *socket) {
    if (socket->bound_link != NULL) {
        *socket->bound_link = socket->next_bound;
        if (socket->next_bound != NULL) {
            socket->next_bound->bound_link = socket->bound_link;
        }
        socket->bound_link = NULL;
    }
}

static uint16_t next_port(tpi_sim_host *host) {
    host->port = host->port >= 60999 || host->port < 32768 ? 32768 : (uint16_t)(host->port + 1); /* ip(7) */
    return host->port;
}

int tpi_sim_socket_bind(tpi_sim_socket *socket, const tepal_address *address) {
    tpi_sim_host *host = socket->host;
    tepal_address name = *address;
    if (socket->bound_link != NULL || address->storage.ss_family != socket->family) {
        return TEPAL_EINVAL;
    }
    if (socket->family != AF_UNIX) {
        if (tpi_sim_route(host, address) != host) {
            return TEPAL_SYSTEM(EADDRNOTAVAIL);
        }
        if (tepal_address_port(address) == 0) {
            int tries = EPHEMERAL_PORTS;
            do {
                set_port(&name, next_port(host));
            } while (find_conflict(socket, &name) != NULL && --tries > 0);
        }
    }
    if (find_conflict(socket, &name) != NULL) {
        return TEPAL_SYSTEM(EADDRINUSE);
    }
    socket->local = name;
    socket->next_bound = host->bound;
    socket->bound_link = &host->bound;
    if (host->bound != NULL) {
        host->bound->bound_link = &socket->next_bound;
    }
    host->bound = socket;
    return 0;
}

int tpi_sim_socket_listen(tpi_sim_socket *socket, int backlog) {
    if (socket->bound_link == NULL) {
        return TEPAL_EINVAL;
    }
    socket->listening = true;
    socket->backlog = backlog < 1 ? 1 : backlog > BACKLOG_MOST ? BACKLOG_MOST : backlog;
    return 0;
}

/* Connecting */

static tpi_sim_socket *find_listener(const tpi_sim_host *host, const tepal_address *address) {
    tpi_sim_socket *found = NULL;
    for (tpi_sim_socket *other = host->bound; other != NULL; other = other->next_bound) {
        if (!other->listening) {
            continue;
        }
        if (address->storage.ss_family == AF_UNIX || other->family == AF_UNIX) {
            if (is_same(&other->local, address)) {
                return other;
            }
        } else if (tepal_address_port(&other->local) == tepal_address_port(address)) {
            bool same_family = other->family == address->storage.ss_family;
            if (same_family && is_same(&other->local, address)) {
                return other; /* the most exact one */
            }
            if (is_wildcard(&other->local) && (same_family || (other->family == AF_INET6 && !other->ipv6_only))) {
                found = other;
            }
        }
    }
    return found;
}

/* The server's end of a new connection, in the listener's backlog. NULL: no memory. */
static tpi_sim_socket *meet(tpi_sim_socket *listener, tpi_sim_socket *client) {
    tepal_sim *sim = listener->host->sim;
    tpi_sim_socket *server = tpi_sim_socket_new(listener->host, TPI_STREAM, listener->family);
    if (server == NULL) {
        return NULL;
    }
    server->local = listener->family == AF_UNIX ? listener->local : client->remote;
    server->remote = client->local;
    if (listener->family == AF_INET6 && client->family == AF_INET) {
        map(&server->local);
        map(&server->remote);
    }
    server->connected = true;
    server->peer = tpi_sim_socket_ref(client);
    client->peer = tpi_sim_socket_ref(server);
    if (listener->first_waiting == NULL) {
        listener->first_waiting = server;
    } else {
        listener->last_waiting->next = server;
    }
    listener->last_waiting = server; /* with its reference */
    listener->waiting++;
    sim->stats.connections++;
    if (listener->accepting) {
        tpi_sim_list(listener);
    }
    return server;
}

static void answer(tepal_sim *sim, tpi_sim_socket *from, tpi_sim_host *host, tpi_sim_socket *to, tpi_sim_happening what,
                   int error) {
    tpi_sim_event *event = tpi_sim_at(sim, tpi_sim_travel(sim, host, to->host, 0), what, from, to);
    if (event != NULL) {
        event->host = host;
        event->length = (size_t)error;
    }
}

void tpi_sim_syn_arrives(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *client = event->from;
    if (!client->connecting) {
        return; /* given up meanwhile */
    }
    tpi_sim_host *host = tpi_sim_route(client->host, &client->remote);
    if (host == NULL) {
        answer(sim, NULL, client->host, client, TPI_REFUSED, EHOSTUNREACH);
        return;
    }
    tpi_sim_socket *listener = find_listener(host, &client->remote);
    if (listener == NULL || host->refuses) {
        answer(sim, NULL, host, client, TPI_REFUSED, ECONNREFUSED);
        return;
    }
    if (listener->waiting >= listener->backlog) {
        (void)tpi_sim_at(sim, sim->now_ns + SYN_AGAIN_NS, TPI_SYN, client, NULL);
        return;
    }
    tpi_sim_socket *server = meet(listener, client);
    if (server != NULL) {
        tpi_sim_trace(sim, host, "is called by %s", client->host->name);
        answer(sim, server, host, client, TPI_ESTABLISHED, 0);
    }
}

void tpi_sim_connect_ends(tpi_sim_socket *socket, int error) {
    if (!socket->connecting) {
        return;
    }
    tpi_sim_waits(socket, &socket->connecting, false);
    socket->connected = error == 0;
    socket->say_connected = true;
    socket->connect_code = error == 0 ? 0 : TEPAL_SYSTEM(error);
    tpi_sim_trace(socket->host->sim, socket->host, "fd %d %s", tpi_sim_number(socket),
                  error == 0 ? "is connected" : "could not connect");
    tpi_sim_list(socket);
}

/* unix(7): it is in no file system, so it is never a name that is not found. */
static bool is_abstract(const tepal_address *address) {
    return ((const struct sockaddr_un *)&address->storage)->sun_path[0] == '\0';
}

static int connect_unix(tpi_sim_socket *socket) {
    tpi_sim_host *host = socket->host;
    tpi_sim_socket *listener = find_listener(host, &socket->remote);
    if (listener == NULL) {
        for (const tpi_sim_socket *other = host->bound; other != NULL; other = other->next_bound) {
            if (is_same(&other->local, &socket->remote)) {
                return TEPAL_SYSTEM(ECONNREFUSED);
            }
        }
        return is_abstract(&socket->remote) ? TEPAL_SYSTEM(ECONNREFUSED) : TEPAL_ENOENT;
    }
    if (host->refuses) {
        return TEPAL_SYSTEM(ECONNREFUSED);
    }
    if (listener->waiting >= listener->backlog) {
        return TEPAL_SYSTEM(EAGAIN);
    }
    if (meet(listener, socket) == NULL) {
        return TEPAL_ENOMEM;
    }
    if (tpi_sim_chance(host->sim, TPI_RATE_LATE)) {
        tpi_sim_waits(socket, &socket->connecting, true);
        tpi_sim_connect_ends(socket, 0);
        return TPI_PENDING;
    }
    socket->connected = true;
    return 0;
}

/* The name of a socket that has none, as its peer sees it. */
static void choose_name(tpi_sim_socket *socket, const tpi_sim_host *there) {
    tpi_sim_host *host = socket->host;
    uint16_t port = socket->bound_link == NULL ? next_port(host) : (uint16_t)tepal_address_port(&socket->local);
    if (socket->bound_link != NULL && !is_wildcard(&socket->local)) {
        return;
    }
    if (there == host) {
        socket->local = socket->remote; /* itself, under the same name */
        set_port(&socket->local, port);
    } else {
        tpi_sim_host_address(host, socket->family, port, &socket->local);
    }
}

int tpi_sim_socket_connect(tpi_sim_socket *socket, const tepal_address *address) {
    tpi_sim_host *host = socket->host;
    tepal_sim *sim = host->sim;
    if (address->storage.ss_family != socket->family) {
        return TEPAL_SYSTEM(EAFNOSUPPORT);
    }
    socket->remote = *address;
    if (tpi_sim_chance(sim, TPI_RATE_ENOBUFS)) {
        sim->stats.faults++;
        return TEPAL_SYSTEM(ENOBUFS);
    }
    if (socket->family == AF_UNIX) {
        return connect_unix(socket);
    }
    if (is_wildcard(&socket->remote)) { /* it means the host itself */
        tpi_sim_host_address(host, socket->family, (uint16_t)tepal_address_port(address), &socket->remote);
    }
    const tpi_sim_host *there = tpi_sim_route(host, &socket->remote);
    choose_name(socket, there);
    tpi_sim_waits(socket, &socket->connecting, true);
    tpi_sim_trace(sim, host, "fd %d calls %s", tpi_sim_number(socket), there == NULL ? "nobody" : there->name);
    if (tpi_sim_at(sim, sim->now_ns + CONNECT_LIMIT_NS, TPI_CONNECT_LIMIT, NULL, socket) == NULL) {
        return TEPAL_ENOMEM;
    }
    if (tpi_sim_chance(sim, TPI_RATE_TIMEOUT)) {
        sim->stats.faults++;
        tpi_sim_trace(sim, host, "fd %d will not be answered", tpi_sim_number(socket));
        return TPI_PENDING;
    }
    if (tpi_sim_chance(sim, TPI_RATE_REFUSE)) {
        sim->stats.faults++;
        answer(sim, NULL, host, socket, TPI_REFUSED, ECONNREFUSED);
        return TPI_PENDING;
    }
    int64_t at_ns = tpi_sim_travel(sim, host, there == NULL ? host : there, 0);
    return tpi_sim_at(sim, at_ns, TPI_SYN, socket, NULL) == NULL ? TEPAL_ENOMEM : TPI_PENDING;
}

static tpi_sim_socket *pair_end(tpi_sim_host *host, int family) {
    tpi_sim_socket *socket = tpi_sim_socket_new(host, TPI_STREAM, family);
    if (socket != NULL) {
        socket->connected = true;
        if (family != AF_UNIX) {
            tpi_sim_host_address(host, family, next_port(host), &socket->local);
        }
    }
    return socket;
}

int tpi_sim_socket_pair(tpi_sim_driver *driver, int family, int fds[2]) {
    tpi_sim_host *host = driver->host;
    tpi_sim_socket *a = pair_end(host, family), *b = pair_end(host, family);
    int code = a == NULL || b == NULL ? TEPAL_ENOMEM : tpi_sim_socket_open(a, driver);
    if (code >= 0) {
        code = tpi_sim_socket_open(b, driver);
        if (code < 0) {
            tpi_sim_socket_close(a);
        }
    }
    if (code >= 0) {
        a->remote = b->local;
        b->remote = a->local;
        a->peer = tpi_sim_socket_ref(b);
        b->peer = tpi_sim_socket_ref(a);
        host->sim->stats.connections++;
        fds[0] = a->fd;
        fds[1] = b->fd;
        code = 0;
    }
    if (a != NULL) {
        tpi_sim_socket_unref(a);
    }
    if (b != NULL) {
        tpi_sim_socket_unref(b);
    }
    return code;
}

/* Closing */

/* Nobody has it any more. What is on its way between two ends that are both closed needs neither to know the other. */
static void end(tpi_sim_socket *socket) {
    socket->closed = true;
    socket->count = socket->arrived = 0;
    if (socket->peer != NULL && socket->peer->closed) {
        tpi_sim_sever(socket);
    }
}

/* Connections that nobody has accepted. */
static void drop_backlog(tpi_sim_socket *socket, bool silently) {
    while (socket->first_waiting != NULL) {
        tpi_sim_socket *waiting = socket->first_waiting;
        socket->first_waiting = waiting->next;
        waiting->next = NULL;
        if (!silently) {
            tpi_sim_stream_reset(waiting);
        }
        waiting->dead = true;
        end(waiting);
        tpi_sim_socket_unref(waiting);
    }
    socket->waiting = 0;
    socket->listening = false;
}

static void say_goodbye(tpi_sim_socket *socket) {
    tpi_sim_trace(socket->host->sim, socket->host, "fd %d is closed", tpi_sim_number(socket));
    unbind(socket);
    drop_backlog(socket, false);
    if (socket->connecting || socket->error != 0) {
        tpi_sim_waits(socket, &socket->connecting, false); /* an answer that comes now is answered with a reset */
        socket->dead = true;
    } else if (socket->reset_on_close || socket->arrived > 0) {
        tpi_sim_stream_reset(socket); /* tcp(7): what came and was not read must not seem to have been */
        socket->dead = true;
    } else {
        tpi_sim_stream_fin(socket);
    }
    end(socket);
}

void tpi_sim_socket_close(tpi_sim_socket *socket) {
    tpi_sim_driver *driver = socket->driver;
    (void)tpi_sim_socket_ref(socket);
    if (!socket->closed) {
        say_goodbye(socket);
    }
    driver->table[socket->fd - TPI_SIM_FD] = NULL;
    driver->open--;
    socket->fd = -1;
    tpi_sim_socket_unref(socket); /* the descriptor's */
    tpi_sim_socket_unref(socket);
}

static void die(tpi_sim_socket *socket) {
    (void)tpi_sim_socket_ref(socket);
    unbind(socket);
    drop_backlog(socket, true);
    tpi_sim_stream_probe(socket);
    socket->dead = true;
    tpi_sim_waits(socket, &socket->connecting, false);
    end(socket);
    tpi_sim_socket_unref(socket);
}

void tpi_sim_host_crash(tpi_sim_host *host) {
    tpi_sim_driver *driver = host->driver;
    host->crashed = true;
    if (driver != NULL) {
        driver->crashed = true;
    }
    for (unsigned i = 0; driver != NULL && i < driver->table_room; i++) {
        if (driver->table[i] != NULL) {
            die(driver->table[i]);
        }
    }
}
