/* What the libraries for LD_PRELOAD share: a line of JSON, written without stdio, since it is also written in a signal
 * handler, to the file that BENCH_COUNT names. */
#ifndef BENCH_PRELOAD_H
#define BENCH_PRELOAD_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Without memcpy, which one of the libraries counts. */
static inline size_t preload_put_text(char *line, size_t at, const char *piece) {
    while (*piece != '\0')
        line[at++] = *piece++;
    return at;
}

static inline size_t preload_put_number(char *line, size_t at, unsigned long long value) {
    char digits[24];
    size_t length = 0;
    do {
        digits[length++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (length > 0)
        line[at++] = digits[--length];
    return at;
}

/** The file, open to be appended to, or -1. */
static inline int preload_open(void) {
    const char *path = getenv("BENCH_COUNT");
    return path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/** Have SIGUSR1 and SIGUSR2 handled. */
static inline void preload_on_signals(void (*handle)(int number)) {
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
}

#endif
