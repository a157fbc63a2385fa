/* The table of drivers. A new driver gets the whole conformance suite by one line here. */
#include "harness/internal.h"

const char *const test_driver_table[] = {
    "epoll",
    "poll",
    "late", /* tests/conformance/late_driver.c */
    NULL,
};
