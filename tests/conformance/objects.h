/*
 * What the tests of the driver contract share: a driver without a loop, and objects that note what they are told.
 */
#ifndef TEPAL_TESTS_OBJECTS_H
#define TEPAL_TESTS_OBJECTS_H

#include "driver/driver.h"
#include "harness/test.h"
#include <tepal.h>

typedef struct thing thing;
struct thing {
    tpi_object object; /* first */
    tpi_driver *driver;
    char log[64];    /* d data, f filled, e eof, x error, s sent, a accepted, A accept_failed, S accept_stopped,
                            c connected, r ready, R released, C closed */
    size_t received; /* bytes, of stream 0, 1, 2, ... (modulo 251) */
    size_t longest;  /* of one data upcall */
    int code;        /* of error, connected, accept_failed */
    int64_t sent;
    int fd; /* accepted (the last one), or released */
    int accepted;
    unsigned events;   /* of ready */
    uint8_t held[256]; /* released with these */
    size_t held_length;
    size_t use;       /* bytes that data uses at most in all; then it stops reading. 0: all */
    bool start_again; /* ... and starts at once */
    bool is_busy;     /* inside a call: an upcall then is a fault */
    size_t lend;      /* bytes that get_buffer lends; 0: it declines */
    uint8_t lent[512];
    int asked;                            /* get_buffer */
    void (*then)(thing *self, char what); /* after every note */
};

/* The driver under test, with so many reads and bytes of one read; 0: 4 and 4,096. */
tpi_driver *driver_open(unsigned read_budget, unsigned read_bytes);
/* Deliver what is left, and destroy it. */
void driver_close(tpi_driver *driver);

/* Wait at most this long and dispatch. Whether more is left. */
bool driver_turn(tpi_driver *driver, int64_t timeout_ns);
/* Dispatch until nothing is left and nothing is ready. */
void driver_settle(tpi_driver *driver);

/* Adopt one end of a pair; the other is returned. */
int thing_adopt(thing *self, tpi_driver *driver, bool tcp);
void thing_init(thing *self, tpi_driver *driver);
void thing_read_start(thing *self);
/* Close, and wait for closed(). */
void thing_close(thing *self);
/* A listener on 127.0.0.1 that is not accepting yet; its port. */
uint16_t thing_listen(thing *self, tpi_driver *driver);

/* Write the bytes number `from` to `from + count - 1` of the stream 0, 1, 2, ... (modulo 251). */
void write_numbers(int fd, size_t from, size_t count);
void check_numbers(const uint8_t *data, size_t from, size_t count);

#define DRIVER_UNTIL(driver, condition)                                                                                \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            driver_turn(driver, TEPAL_MS(100));                                                                        \
        }                                                                                                              \
    } while (0)

#endif
