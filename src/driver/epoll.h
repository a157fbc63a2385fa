/* The epoll driver (Linux, epoll(7)). */
#ifndef TPI_EPOLL_H
#define TPI_EPOLL_H

#include "driver/driver.h"

extern const tpi_driver_ops tpi_epoll_driver;

/* This number is another descriptor now: if it is watched, it no longer is. For a driver that runs this one inside. */
void tpi_epoll_forget_watch(tpi_driver *driver, int fd);

#endif
