/*
 * What every driver over a real kernel does alike: the clock, randomness, waking by an eventfd(2), jobs on threads, and
 * the calls on a socket that no driver needs to do its own way.
 */
#ifndef TPI_SYSTEM_H
#define TPI_SYSTEM_H

#include "driver/driver.h"
#include "driver/offload.h"

/* Members of a driver's table, for a driver that has set driver->offload. */
#define TPI_SYSTEM_OPS                                                                                                 \
    .now = tpi_system_now, .random = tpi_system_random, .offload = tpi_system_offload,                                 \
    .offload_cancel = tpi_system_offload_cancel, .resolve = tpi_system_resolve,                                        \
    .resolve_cancel = tpi_system_resolve_cancel, .discard = tpi_system_discard, .refuse = tpi_system_refuse,           \
    .bind = tpi_system_bind, .listen = tpi_system_listen, .shutdown = tpi_system_shutdown, .set = tpi_system_set

int64_t tpi_system_now(tpi_driver *driver);
uint64_t tpi_system_random(tpi_driver *driver);
int tpi_system_offload(tpi_driver *driver, tpi_job *job);
void tpi_system_offload_cancel(tpi_driver *driver, tpi_job *job);
int tpi_system_resolve(tpi_driver *driver, tpi_resolve *request);
void tpi_system_resolve_cancel(tpi_driver *driver, tpi_resolve *request);
void tpi_system_discard(tpi_driver *driver, int fd);
void tpi_system_refuse(tpi_driver *driver, tpi_object *object);
int tpi_system_bind(tpi_driver *driver, tpi_object *object, const tepal_address *address);
int tpi_system_listen(tpi_driver *driver, tpi_object *object, int backlog);
int tpi_system_shutdown(tpi_driver *driver, tpi_object *object);
int tpi_system_set(tpi_driver *driver, tpi_object *object, tpi_option option, int value);

/* As the contract's query; held: bytes that the driver has read and not delivered. */
int tpi_system_query(const tpi_object *object, tpi_query what, size_t held, void *answer);

/* An eventfd(2) to be woken by, or an error. */
int tpi_wake_open(void);
/* Put a new eventfd under an old one's number: in a forked child, which shares the old one with its parent. */
int tpi_wake_renew(int fd);
/* Any thread, any signal handler. */
void tpi_wake_send(int fd);

/* A new stream socket, non-blocking and close-on-exec, or an error. */
int tpi_socket_open(int family);
/* Whether a descriptor that somebody else opened can be adopted as this kind; then makes it non-blocking and close-on-exec. */
int tpi_socket_adopt(int fd, tpi_kind kind);
/* Whether an error of accept(2) is of one connection, and not of the listener. */
bool tpi_is_of_one_connection(int error);
/* Whether a descriptor may be watched: TEPAL_EPERM for what is always ready, TEPAL_EBADF. */
int tpi_check_watchable(int fd);

#endif
