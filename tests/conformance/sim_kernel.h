/*
 * The sockets of a simulated network, to tests that use plain system calls: what is called on a simulated descriptor,
 * and what makes one while the test runs on the simulator, comes here instead of to the kernel. So the other end of a
 * connection is a plain socket on every driver. A call that would block lets the network go on meanwhile.
 *
 * The wrappers of the system calls (faults.h) ask sim_kernel_has() or sim_kernel_is_on() first.
 */
#ifndef TEPAL_TESTS_SIM_KERNEL_H
#define TEPAL_TESTS_SIM_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Whether the test has a loop in a network of its own, whose sockets are meant. */
bool sim_kernel_is_on(void);
/* Whether fd is one of a simulated network. */
bool sim_kernel_has(int fd);

int sim_kernel_socket(int family, int type);
int sim_kernel_bind(int fd, const struct sockaddr *address, socklen_t length);
int sim_kernel_listen(int fd, int backlog);
int sim_kernel_connect(int fd, const struct sockaddr *address, socklen_t length);
int sim_kernel_accept(int fd, struct sockaddr *address, socklen_t *length, int flags);
ssize_t sim_kernel_send(int fd, const struct iovec *pieces, size_t count, int flags);
ssize_t sim_kernel_recv(int fd, void *data, size_t length, int flags);
int sim_kernel_shutdown(int fd, int how);
int sim_kernel_close(int fd);
int sim_kernel_name(int fd, bool peer, struct sockaddr *address, socklen_t *length);
int sim_kernel_setsockopt(int fd, int level, int option, const void *value, socklen_t length);
int sim_kernel_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int sim_kernel_fcntl(int fd, int command, long argument);
int sim_kernel_unread(int fd);

#endif
