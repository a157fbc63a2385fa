/*
 * The simulator's trace, one line an event with the hosts as columns, and what went wrong first. The lines are made
 * and hashed whether or not anybody listens: equal hashes stand for equal runs.
 */
#include "driver/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define COLUMN 30

/* FNV-1a. */
static uint64_t hash(uint64_t sum, const char *text) {
    for (; *text != '\0'; text++) {
        sum = (sum ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    }
    return sum;
}

void tpi_sim_trace(tepal_sim *sim, const tpi_sim_host *host, const char *format, ...) {
    char *line = sim->line;
    const size_t size = sizeof sim->line;
    const unsigned column = host == NULL ? 0 : (host->id - 1) % 6; /* more hosts share columns: the name says who */
    va_list arguments;

    int length = snprintf(line, size, "%6" PRId64 ".%09" PRId64 " %*s", sim->now_ns / 1000000000,
                          sim->now_ns % 1000000000, (int)(column * COLUMN), "");
    length += snprintf(line + length, size - (size_t)length, "| %s: ", host == NULL ? "network" : host->name);
    if ((size_t)length < size) {
        va_start(arguments, format);
        (void)vsnprintf(line + length, size - (size_t)length, format, arguments);
        va_end(arguments);
    }
    sim->stats.events++;
    sim->stats.hash = hash(sim->stats.hash, line);
    if (sim->options.trace != NULL) {
        sim->options.trace(sim->options.argument, line);
    }
}

int tpi_sim_fail(tepal_sim *sim, const tpi_sim_host *host, int code, const char *format, ...) {
    va_list arguments;

    if (sim->failed < 0) {
        return sim->failed;
    }
    int length =
        snprintf(sim->failure, sizeof sim->failure, "seed %" PRIu64 ", %" PRId64 ".%06" PRId64 " s, %s%s: ", sim->seed,
                 sim->now_ns / 1000000000, sim->now_ns % 1000000000 / 1000, host == NULL ? "network" : "host ",
                 host == NULL ? "" : host->name);
    va_start(arguments, format);
    (void)vsnprintf(sim->failure + length, sizeof sim->failure - (size_t)length, format, arguments);
    va_end(arguments);
    sim->has_failure = true;
    sim->failed = code;
    tpi_sim_trace(sim, host, "FAILED: %s", sim->failure + length);
    return code;
}

int tpi_sim_broken(tpi_sim_driver *driver, int number, const char *what) {
    return tpi_sim_fail(driver->sim, driver->host, TEPAL_EINVARIANT, "invariant %d does not hold: %s", number, what);
}
