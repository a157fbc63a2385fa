/* The epoll driver (Linux, epoll(7)). */
#ifndef TPI_EPOLL_H
#define TPI_EPOLL_H

#include "driver/driver.h"

extern const tpi_driver_ops tpi_epoll_driver;

#endif
