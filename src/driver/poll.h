/* The poll driver (POSIX, poll(2)): for systems with nothing better, and as the second opinion on every test. */
#ifndef TPI_POLL_H
#define TPI_POLL_H

#include "driver/driver.h"

extern const tpi_driver_ops tpi_poll_driver;

#endif
