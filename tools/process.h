/* What the tools ask of the process they run in: descriptors, processor time. */
#ifndef TOOLS_PROCESS_H
#define TOOLS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/** Processor time of this process so far, all threads. */
typedef struct cpu_time {
    uint64_t user_us;
    uint64_t system_us;
} cpu_time;

cpu_time cpu_time_now(void);

/**
 * Raise the limit on open descriptors as far as the system lets us without privileges, which is what a server wants.
 * Returns the limit then.
 */
uint64_t raise_descriptor_limit(void);

/** Why no loop could be made on this driver (NULL: none was named), as a sentence. */
const char *why_no_loop(const char *driver, int code);

/** A number with its thousands apart ("1,234,567"), in one of a few static buffers: good for one printf. */
const char *grouped(uint64_t number);

#endif
