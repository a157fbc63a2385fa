/* What the two halves of the load generator share: its options, read by load_options.c and used by load.c. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct load_options {
    struct sockaddr_in address;
    unsigned connections;
    unsigned size;     /* bytes of a message */
    unsigned depth;    /* messages in flight on each connection */
    uint64_t messages; /* exactly this many, or 0: as many as fit into `seconds` */
    double seconds;    /* measured time */
    double warm_up;    /* seconds before it that do not count */
    double limit;      /* seconds after which a run that does not end is given up */
    int cpu;           /* to run on, or -1 */
    pid_t server;      /* whose CPU time to read at the ends of the measured time, or 0 */
    bool hold;         /* open, echo once on each, then stay idle until told to end */
    bool check_all;    /* compare every byte; otherwise the two ends of a long chunk */
} load_options;

/** Read the command line. Prints what is wrong and exits with status 2 if it makes no sense. */
load_options load_parse(int argc, char **argv);

#endif
