/*
 * Resolving names by getaddrinfo(3) on the offload threads: a driver's resolve and resolve_cancel.
 */
#ifndef TPI_RESOLVE_H
#define TPI_RESOLVE_H

#include "driver/offload.h"

/* As the driver contract's resolve. Returns what tpi_offload_submit() does; done is then not called. */
int tpi_resolve_submit(tpi_offload *offload, tpi_resolve *request);

/* As the driver contract's resolve_cancel: done comes with TEPAL_ECANCELED, once the thread has let go of request. */
void tpi_resolve_cancel(tpi_offload *offload, tpi_resolve *request);

#endif
