/* See sim_kernel.h. */
#include "conformance/sim_kernel.h"
#include "driver/sim.h"
#include "harness/test.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#define MOMENT_NS 100000          /* of the network's time, between two looks: what was sent has come then */
#define BUFFERS (3u << 20)        /* as much as loopback TCP holds, about: tests feed that to who does not read */
#define LEAST_BUFFER 4608         /* socket(7) */
#define LONGEST_NS TEPAL_SEC(600) /* what would block for longer has failed */

enum { DESCRIPTORS = 4096 };

/* The network that was made last, by a loop that is alone in it. */
static _Atomic(tepal_sim *) world; /* loops of several threads make them */
/* Of the test's own sockets; the library's do not block. */
static bool blocking[DESCRIPTORS], shut_down[DESCRIPTORS];

int __real_tpi_sim_create(tepal_sim **sim, const tepal_sim_options *options, uint64_t seed);
int __wrap_tpi_sim_create(tepal_sim **sim, const tepal_sim_options *options, uint64_t seed);

int __wrap_tpi_sim_create(tepal_sim **sim, const tepal_sim_options *options, uint64_t seed) {
    const int code = __real_tpi_sim_create(sim, options, seed);
    if (code == 0) {
        world = *sim;
    }
    return code;
}

int __real_tpi_sim_host_new(tepal_sim *sim, const char *name, tpi_sim_host **host);
int __wrap_tpi_sim_host_new(tepal_sim *sim, const char *name, tpi_sim_host **host);

int __wrap_tpi_sim_host_new(tepal_sim *sim, const char *name, tpi_sim_host **host) {
    const int code = __real_tpi_sim_host_new(sim, name, host);
    if (code == 0 && test_driver() != NULL && strcmp(test_driver(), "sim") == 0) {
        (*host)->limit = DESCRIPTORS;
        sim->min_capacity = sim->max_capacity = BUFFERS;
    }
    return code;
}

void __real_tpi_sim_unref(tepal_sim *sim);
void __wrap_tpi_sim_unref(tepal_sim *sim);

void __wrap_tpi_sim_unref(tepal_sim *sim) {
    if (sim == world && sim->references == 1) {
        world = NULL;
    }
    __real_tpi_sim_unref(sim);
}

static tpi_sim_driver *process(void) {
    if (world == NULL || world->host_count == 0) {
        return NULL;
    }
    return world->hosts[0]->driver;
}

bool sim_kernel_is_on(void) {
    const tpi_sim_driver *driver = process();
    return driver != NULL && driver->alone;
}

bool sim_kernel_has(int fd) {
    return fd >= TPI_SIM_FD;
}

/* NULL, with errno: there is no such descriptor. */
static tpi_sim_socket *socket_of(int fd) {
    const tpi_sim_driver *driver = process();
    tpi_sim_socket *socket = driver == NULL ? NULL : tpi_sim_socket_at(driver, fd);
    if (socket == NULL) {
        errno = EBADF;
    }
    return socket;
}

/* What the library says, as a system call does. */
static int answer(int64_t code) {
    if (code < 0) {
        errno = tepal_error_value((int)code);
        return -1;
    }
    return (int)code;
}

static void pass_a_moment(void) {
    const int code = tpi_sim_drive(world, NULL, world->now_ns + MOMENT_NS);
    CHECK_GE(code, 0);
    world->now_ns += code == 1 ? MOMENT_NS : 0;
}

static bool blocks(int fd, int flags) {
    return blocking[fd - TPI_SIM_FD] && !(flags & MSG_DONTWAIT);
}

int sim_kernel_socket(int family, int type) {
    tpi_sim_driver *driver = process();
    tpi_sim_socket *socket = tpi_sim_socket_new(driver->host, TPI_STREAM, family);
    CHECK(socket != NULL);
    const int fd = tpi_sim_socket_open(socket, driver);
    tpi_sim_socket_unref(socket);
    if (fd >= 0) {
        CHECK_LT(fd - TPI_SIM_FD, DESCRIPTORS);
        blocking[fd - TPI_SIM_FD] = (type & SOCK_NONBLOCK) == 0;
        shut_down[fd - TPI_SIM_FD] = false;
    }
    return answer(fd);
}

static int pair_simulated(int family, int type, int fds[2]) {
    const int code = tpi_sim_socket_pair(process(), family, fds);
    for (int i = 0; code == 0 && i < 2; i++) {
        blocking[fds[i] - TPI_SIM_FD] = (type & SOCK_NONBLOCK) == 0;
        shut_down[fds[i] - TPI_SIM_FD] = false;
    }
    return answer(code);
}

static tepal_address to_address(const struct sockaddr *address, socklen_t length) {
    tepal_address result = {.length = length};
    CHECK_LE(length, sizeof result.storage);
    memcpy(&result.storage, address, length);
    return result;
}

static void from_address(const tepal_address *from, struct sockaddr *address, socklen_t *length) {
    if (address != NULL) {
        memcpy(address, &from->storage, from->length < *length ? from->length : *length);
        *length = from->length;
    }
}

int sim_kernel_bind(int fd, const struct sockaddr *address, socklen_t length) {
    tpi_sim_socket *socket = socket_of(fd);
    const tepal_address name = to_address(address, length);
    return socket == NULL ? -1 : answer(tpi_sim_socket_bind(socket, &name));
}

int sim_kernel_listen(int fd, int backlog) {
    tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    socket->kind = TPI_LISTENER;
    return answer(tpi_sim_socket_listen(socket, backlog));
}

int sim_kernel_connect(int fd, const struct sockaddr *address, socklen_t length) {
    tpi_sim_socket *socket = socket_of(fd);
    const tepal_address name = to_address(address, length);
    if (socket == NULL) {
        return -1;
    }
    int code = tpi_sim_socket_connect(socket, &name);
    if (code != TPI_PENDING) {
        return answer(code);
    }
    if (!blocks(fd, 0)) {
        errno = EINPROGRESS;
        return -1;
    }
    while (socket->connecting) {
        pass_a_moment();
    }
    socket->say_connected = false;
    return answer(socket->connect_code);
}

int sim_kernel_accept(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    tpi_sim_socket *listener = socket_of(fd);
    if (listener == NULL) {
        return -1;
    }
    while (listener->first_waiting == NULL) {
        if (!blocks(fd, 0)) {
            errno = EAGAIN;
            return -1;
        }
        pass_a_moment();
    }
    tpi_sim_socket *socket = listener->first_waiting;
    const int accepted = tpi_sim_socket_open(socket, process());
    if (accepted < 0) {
        return answer(accepted);
    }
    listener->first_waiting = socket->next;
    listener->waiting--;
    socket->next = NULL;
    tpi_sim_socket_unref(socket);
    from_address(&socket->remote, address, length);
    blocking[accepted - TPI_SIM_FD] = (flags & SOCK_NONBLOCK) == 0;
    shut_down[accepted - TPI_SIM_FD] = false;
    return accepted;
}

ssize_t sim_kernel_send(int fd, const struct iovec *pieces, size_t count, int flags) {
    tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    int64_t sent;
    while ((sent = tpi_sim_stream_send(socket, pieces, count)) == TPI_PENDING) {
        if (!blocks(fd, flags)) {
            errno = EAGAIN;
            return -1;
        }
        pass_a_moment();
    }
    pass_a_moment(); /* over the loopback what was sent is there at once */
    return answer(sent);
}

ssize_t sim_kernel_recv(int fd, void *data, size_t length, int flags) {
    tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    const int64_t began = world->now_ns;
    for (bool asked = false; socket->arrived == 0; asked = true) {
        if (socket->error != 0 && !socket->error_told) {
            socket->error_told = true;
            errno = socket->error;
            return -1;
        }
        if (socket->fin_arrived || socket->error != 0 || shut_down[fd - TPI_SIM_FD]) {
            return 0;
        }
        if (asked && !blocks(fd, flags)) {
            errno = EAGAIN;
            return -1;
        }
        pass_a_moment(); /* also where it does not block: what was sent before has come by now */
        CHECK_LT(world->now_ns - began, LONGEST_NS);
    }
    const size_t count = tpi_sim_stream_read(socket, data, length);
    if (flags & MSG_PEEK) {
        tpi_sim_stream_put_back(socket, data, count);
    } else {
        tpi_sim_stream_acknowledge(socket);
    }
    return (ssize_t)count;
}

int sim_kernel_shutdown(int fd, int how) {
    tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    if (how == SHUT_RD || how == SHUT_RDWR) {
        shut_down[fd - TPI_SIM_FD] = true;
    }
    if (how != SHUT_RD) {
        tpi_sim_stream_fin(socket);
        pass_a_moment();
    }
    return 0;
}

int sim_kernel_close(int fd) {
    tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    CHECK(socket->object == NULL); /* the loop's, and not the test's to close */
    blocking[fd - TPI_SIM_FD] = false;
    tpi_sim_socket_close(socket);
    pass_a_moment();
    return 0;
}

int sim_kernel_name(int fd, bool peer, struct sockaddr *address, socklen_t *length) {
    const tpi_sim_socket *socket = socket_of(fd);
    if (socket == NULL) {
        return -1;
    }
    if (peer && !socket->connected) {
        errno = ENOTCONN;
        return -1;
    }
    from_address(peer ? &socket->remote : &socket->local, address, length);
    return 0;
}

int sim_kernel_setsockopt(int fd, int level, int option, const void *value, socklen_t length) {
    tpi_sim_socket *socket = socket_of(fd);
    int number = 0;
    if (socket == NULL) {
        return -1;
    }
    memcpy(&number, value, length < sizeof number ? length : sizeof number);
    if (level == SOL_SOCKET && option == SO_LINGER) {
        socket->reset_on_close = number != 0;
    } else if (level == SOL_SOCKET && (option == SO_SNDBUF || option == SO_RCVBUF)) {
        tpi_sim_socket *sender = option == SO_SNDBUF ? socket : socket->peer;
        if (sender != NULL) {
            sender->capacity = number < LEAST_BUFFER ? LEAST_BUFFER : (size_t)number;
        }
    } else if (level == SOL_SOCKET && option == SO_REUSEPORT) {
        socket->reuse_port = number != 0;
    }
    return 0;
}

int sim_kernel_getsockopt(int fd, int level, int option, void *value, socklen_t *length) {
    const tpi_sim_socket *socket = socket_of(fd);
    int number = 0;
    if (socket == NULL) {
        return -1;
    }
    if (level == SOL_SOCKET && option == SO_ERROR) {
        number = socket->error;
    } else if (level == SOL_SOCKET && option == SO_ACCEPTCONN) {
        number = socket->listening;
    } else if (level == SOL_SOCKET && option == SO_KEEPALIVE) {
        number = socket->keep_alive;
    } else if (level == IPPROTO_TCP && option == TCP_NODELAY) {
        number = socket->no_delay;
    } else if (level == IPPROTO_TCP && option == TCP_KEEPIDLE) {
        number = socket->keep_idle_s;
    } else if (level == IPPROTO_TCP && option == TCP_KEEPINTVL) {
        number = socket->keep_interval_s;
    } else if (level == IPPROTO_TCP && option == TCP_KEEPCNT) {
        number = socket->keep_count;
    } else {
        number = 1; /* the simulator keeps no other */
    }
    memcpy(value, &number, sizeof number);
    *length = sizeof number;
    return 0;
}

int sim_kernel_fcntl(int fd, int command, long argument) {
    if (socket_of(fd) == NULL) {
        return -1;
    }
    if (command == F_SETFL) {
        blocking[fd - TPI_SIM_FD] = (argument & O_NONBLOCK) == 0;
    }
    if (command == F_GETFL) {
        return O_RDWR | (blocking[fd - TPI_SIM_FD] && socket_of(fd)->object == NULL ? 0 : O_NONBLOCK);
    }
    return command == F_GETFD ? FD_CLOEXEC : 0;
}

int sim_kernel_unread(int fd) {
    const tpi_sim_socket *socket = socket_of(fd);
    return socket == NULL ? -1 : (int)socket->arrived;
}

static short events_of(const tpi_sim_socket *socket) {
    short events = 0;
    if (socket->arrived > 0 || socket->fin_arrived || socket->error != 0 || socket->first_waiting != NULL) {
        events |= POLLIN;
    }
    if (socket->connected && !socket->fin_sent && (socket->capacity > socket->unread || socket->error != 0)) {
        events |= POLLOUT;
    }
    if (socket->error != 0 || (socket->fin_arrived && socket->fin_sent)) {
        events |= POLLHUP;
    }
    if (socket->error != 0 || socket->fin_arrived) {
        events |= POLLRDHUP;
    }
    if (socket->error != 0) {
        events |= POLLERR;
    }
    return events;
}

static int poll_simulated(struct pollfd *entries, nfds_t count, int limit_ms) {
    const int64_t until_ns = world->now_ns + (limit_ms < 0 ? LONGEST_NS : TEPAL_MS(limit_ms));
    for (;;) {
        int ready = 0;
        for (nfds_t i = 0; i < count; i++) {
            const tpi_sim_socket *socket = socket_of(entries[i].fd);
            const short wanted = entries[i].events | POLLHUP | POLLERR;
            entries[i].revents = socket == NULL ? POLLNVAL : (short)(events_of(socket) & wanted);
            ready += entries[i].revents != 0;
        }
        if (ready > 0 || world->now_ns >= until_ns) {
            return ready;
        }
        pass_a_moment();
    }
}

/* These the library does not call, so that they do not fail to order. */

int __real_poll(struct pollfd *entries, nfds_t count, int limit_ms);
int __wrap_poll(struct pollfd *entries, nfds_t count, int limit_ms);
int __real_socketpair(int family, int type, int protocol, int fds[2]);
int __wrap_socketpair(int family, int type, int protocol, int fds[2]);
int __real_accept(int fd, struct sockaddr *address, socklen_t *length);
int __wrap_accept(int fd, struct sockaddr *address, socklen_t *length);

int __wrap_poll(struct pollfd *entries, nfds_t count, int limit_ms) {
    return count > 0 && sim_kernel_has(entries[0].fd) ? poll_simulated(entries, count, limit_ms)
                                                      : __real_poll(entries, count, limit_ms);
}

int __wrap_socketpair(int family, int type, int protocol, int fds[2]) {
    return sim_kernel_is_on() ? pair_simulated(family, type, fds) : __real_socketpair(family, type, protocol, fds);
}

int __wrap_accept(int fd, struct sockaddr *address, socklen_t *length) {
    return sim_kernel_has(fd) ? sim_kernel_accept(fd, address, length, 0) : __real_accept(fd, address, length);
}
