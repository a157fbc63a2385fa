/*
 * What the library itself asks of addresses, beside the public functions.
 */
#ifndef TPI_ADDRESS_H
#define TPI_ADDRESS_H

#include <tepal/base.h>

/* Whether both are IPv4, or both IPv6, with the same address and port. */
bool tpi_address_is_same_port(const tepal_address *a, const tepal_address *b);

#endif
