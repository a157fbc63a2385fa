/*
 * The system calls that src/ makes, counted, and one of them made to fail or to be short: for tests.
 *
 * The test program is linked with --wrap for each call (tests/meson.build has the list), and __wrap_ functions in
 * system_calls.c, system_calls_plain.c and accept_stub.c ask here first. Nothing happens, at the cost of one load, until
 * faults_arm(). Any thread may make calls meanwhile.
 */
#ifndef TEPAL_TESTS_FAULTS_H
#define TEPAL_TESTS_FAULTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

/* What can fail. clock_gettime(2) of CLOCK_MONOTONIC, sched_yield(2), getpid(2) and nanosleep(2) without a signal cannot. */
#define FAULTS_CALLS(X)                                                                                                \
    X(accept4)                                                                                                         \
    X(bind)                                                                                                            \
    X(close)                                                                                                           \
    X(connect)                                                                                                         \
    X(dup3)                                                                                                            \
    X(epoll_create1)                                                                                                   \
    X(epoll_ctl)                                                                                                       \
    X(epoll_pwait2)                                                                                                    \
    X(epoll_wait)                                                                                                      \
    X(eventfd)                                                                                                         \
    X(fcntl)                                                                                                           \
    X(fstat)                                                                                                           \
    X(getpeername)                                                                                                     \
    X(getrandom)                                                                                                       \
    X(getsockname)                                                                                                     \
    X(getsockopt)                                                                                                      \
    X(if_nametoindex)                                                                                                  \
    X(io_uring_enter)                                                                                                  \
    X(io_uring_register)                                                                                               \
    X(io_uring_setup)                                                                                                  \
    X(ioctl)                                                                                                           \
    X(listen)                                                                                                          \
    X(lstat)                                                                                                           \
    X(mmap)                                                                                                            \
    X(open)                                                                                                            \
    X(ppoll)                                                                                                           \
    X(pthread_create)                                                                                                  \
    X(read)                                                                                                            \
    X(recv)                                                                                                            \
    X(send)                                                                                                            \
    X(sendmsg)                                                                                                         \
    X(setsockopt)                                                                                                      \
    X(shutdown)                                                                                                        \
    X(sigaction)                                                                                                       \
    X(socket)                                                                                                          \
    X(unlink)                                                                                                          \
    X(write)

#define FAULTS_ENUM(name) CALL_##name,
typedef enum system_call { FAULTS_CALLS(FAULTS_ENUM) SYSTEM_CALLS } system_call;
#undef FAULTS_ENUM

/* One call that goes wrong. */
typedef struct fault {
    system_call call;
    size_t occurrence; /* since faults_arm(), from 1 */
    int error;         /* it fails with this errno; 0: it is asked for less */
    size_t length;     /* bytes, or events of a wait, that it is asked for at most */
} fault;

const char *system_call_name(system_call call);

/** Count from 0, and let this happen; NULL: only count. */
void faults_arm(const fault *plan);
void faults_disarm(void);

/** Whether it has happened since faults_arm(): the call has failed, or was cut short to the very length. */
bool faults_hit(void);

/** Calls since faults_arm(), and what one of them returned: remembered for the first FAULTS_REMEMBERED of each kind. */
enum { FAULTS_REMEMBERED = 1024 };
size_t faults_count(system_call call);
int64_t faults_returned(system_call call, size_t occurrence);

/** Between the two this thread's calls are a test's own: neither counted nor touched. May be nested. */
void faults_own_begin(void);
void faults_own_end(void);

/* For the wrappers. */

/* A call under way: 0 where nothing is armed. */
typedef struct faults_call {
    system_call call;
    size_t occurrence;
    int error;     /* to fail with, or 0 */
    size_t length; /* to ask for at most */
    bool is_short; /* by order */
} faults_call;

extern atomic_bool faults_armed;
faults_call faults_begin(system_call call, size_t length);
/* Say what it returned. Returns the same. */
int64_t faults_end(const faults_call *call, int64_t result);
/* By how much the next such call will be cut short; 0: not. */
size_t faults_short_next(system_call call);
/* The error that faults_begin() ordered could not be brought about. */
void faults_missed(void);
/* A call without a length. Whether it must fail: errno is set then. */
bool faults_fail(system_call call);

/* What is registered with edges, for faults_edge_again(). */
void faults_registered(int epoll_fd, int operation, int fd, const struct epoll_event *event);
/* An epoll descriptor has got another number, too. */
void faults_renamed(int old_fd, int new_fd);
/*
 * The kernel has said EAGAIN by order, or a read was cut short by order: what is there must be reported as it is after a
 * real one, when more comes or more room is made. A registration that is changed makes a new edge.
 */
void faults_edge_again(int fd);

#endif
