/* accept4(2) for tests: see the header. The library calls it from the loop's thread alone. */
#include "conformance/accept_stub.h"
#include "conformance/faults.h"
#include "conformance/sim_kernel.h"

#include <errno.h>
#include <sys/socket.h>

int __real_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags);

static atomic_int calls, failures, failure;

void accept_stub_fail(int error, int count) {
    atomic_store(&failure, error);
    atomic_store(&failures, count);
    atomic_store(&calls, 0);
}

int accept_stub_calls(void) {
    return atomic_load(&calls);
}

bool accept_stub_is_failing(void) {
    return atomic_load(&failures) > 0;
}

int accept_stub_ask(void) {
    atomic_fetch_add(&calls, 1);
    if (atomic_load(&failures) == 0) {
        return 0;
    }
    atomic_fetch_sub(&failures, 1);
    return atomic_load(&failure);
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    if (sim_kernel_has(fd)) {
        return sim_kernel_accept(fd, address, length, flags);
    }
    const int error = accept_stub_ask();
    if (error != 0) {
        errno = error;
        return -1;
    }
    return faults_fail(CALL_accept4) ? -1 : __real_accept4(fd, address, length, flags);
}
