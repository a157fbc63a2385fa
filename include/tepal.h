/**
 * Tepal: asynchronous I/O for C. One header that brings in the whole public surface.
 *
 * Contracts that hold everywhere (docs/guide tells them at length):
 *  - A fallible function returns 0 or a count, or a negative code (tepal/error.h). Outputs stay untouched on failure;
 *    errno is never an output. No function aborts, prints or exits.
 *  - One loop, one thread. Only functions that say "any thread" may be called from another one.
 *  - Times are nanoseconds in int64_t on the monotonic clock; TEPAL_MS(5) and TEPAL_SEC(1) make them.
 *  - Option structs begin with their size; every default is zero. TEPAL_OPTIONS(type, .member = value) fills one.
 *  - Upcalls (functions of yours that Tepal calls) run on the loop's thread, and never inside the call that caused
 *    them, but for those that say so.
 *  - Everything is there since 0.1.0 unless its comment says since when.
 */
#ifndef TEPAL_H
#define TEPAL_H

#include <tepal/base.h>
#include <tepal/error.h>
#include <tepal/loop.h>
#include <tepal/future.h>
#include <tepal/protocol.h>
#include <tepal/transport.h>
#include <tepal/filter.h>
#include <tepal/producer.h>
#include <tepal/connect.h>
#include <tepal/server.h>
#include <tepal/executor.h>
#include <tepal/tls.h>
#include <tepal/sim.h>

#endif
