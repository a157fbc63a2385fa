/* Limits, processor time and the printing of numbers (process.h). */
#include "process.h"

#include <stdbool.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <tepal.h>

cpu_time cpu_time_now(void) {
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) != 0)
        return (cpu_time){0, 0};
    return (cpu_time){
        .user_us = (uint64_t)used.ru_utime.tv_sec * 1000000 + (uint64_t)used.ru_utime.tv_usec,
        .system_us = (uint64_t)used.ru_stime.tv_sec * 1000000 + (uint64_t)used.ru_stime.tv_usec,
    };
}

uint64_t raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : before;
}

const char *why_no_loop(const char *driver, int code) {
    const char *name = driver != NULL ? driver : getenv("TEPAL_DRIVER");
    const bool is_uring = name != NULL && strcmp(name, "uring") == 0;
    if (code == TEPAL_EINVAL && driver != NULL)
        return "there is no such driver; uring, epoll and poll are there";
    if (code == TEPAL_EINVAL && name != NULL)
        return "TEPAL_DRIVER in the environment names no driver: uring, epoll and poll are there";
    if (is_uring && code == TEPAL_ENOTSUP)
        return "io_uring of Linux 6.1 or later is not here, or not built in; epoll is there";
    if (is_uring && (code == TEPAL_SYSTEM(EPERM) || code == TEPAL_SYSTEM(ENOSYS) || code == TEPAL_SYSTEM(EACCES)))
        return "io_uring is refused here (/proc/sys/kernel/io_uring_disabled, or a sandbox); epoll is there";
    return tepal_strerror(code);
}

const char *grouped(uint64_t number) {
    enum { BUFFERS = 8, BUFFER_BYTES = 32 };
    static char buffers[BUFFERS][BUFFER_BYTES];
    static unsigned next;
    char digits[BUFFER_BYTES], *out = buffers[next++ % BUFFERS], *to = out;
    int length = snprintf(digits, sizeof digits, "%" PRIu64, number);
    for (int at = 0; at < length; at++) {
        if (at > 0 && (length - at) % 3 == 0)
            *to++ = ',';
        *to++ = digits[at];
    }
    *to = '\0';
    return out;
}
