/* The io_uring driver (Linux 6.1 and later, io_uring(7)). */
#ifndef TPI_URING_H
#define TPI_URING_H

#include "driver/driver.h"

extern const tpi_driver_ops tpi_uring_driver;

#endif
