/* See the header. */
#include "conformance/faults.h"
#include "harness/test.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);

enum { DESCRIPTORS = 1024 };

atomic_bool faults_armed;

static fault planned; /* changed only while nothing is armed */
static _Thread_local int own_depth;

/* What has happened, also in a forked child. */
static struct {
    atomic_bool has_happened;
    atomic_size_t counts[SYSTEM_CALLS];
    _Atomic int64_t returned[SYSTEM_CALLS][FAULTS_REMEMBERED];
} * shared;

/* By descriptor: where it is registered, as which. epoll_fd 0: nowhere. */
static struct {
    int epoll_fd;
    struct epoll_event event;
} registered[DESCRIPTORS];
static pthread_mutex_t registered_mutex = PTHREAD_MUTEX_INITIALIZER;

const char *system_call_name(system_call call) {
#define FAULTS_NAME(name) #name,
    static const char *const names[] = {FAULTS_CALLS(FAULTS_NAME)};
#undef FAULTS_NAME
    return names[call];
}

void faults_arm(const fault *plan) {
    static const struct fault none = {.call = SYSTEM_CALLS};

    if (shared == NULL) {
        shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(shared != MAP_FAILED);
    }
    planned = plan == NULL ? none : *plan;
    for (int call = 0; call < SYSTEM_CALLS; call++) {
        atomic_store(&shared->counts[call], 0);
    }
    memset(registered, 0, sizeof registered);
    atomic_store(&shared->has_happened, false);
    atomic_store(&faults_armed, true);
}

void faults_disarm(void) {
    atomic_store(&faults_armed, false);
}

bool faults_hit(void) {
    return shared != NULL && atomic_load(&shared->has_happened);
}

size_t faults_count(system_call call) {
    return atomic_load(&shared->counts[call]);
}

int64_t faults_returned(system_call call, size_t occurrence) {
    return occurrence >= 1 && occurrence <= FAULTS_REMEMBERED ? atomic_load(&shared->returned[call][occurrence - 1])
                                                              : 0;
}

void faults_own_begin(void) {
    own_depth++;
}

void faults_own_end(void) {
    own_depth--;
}

static bool is_counted(void) {
    return atomic_load(&faults_armed) && own_depth == 0;
}

faults_call faults_begin(system_call call, size_t length) {
    faults_call self = {.call = call, .length = length};

    if (!is_counted()) {
        return self;
    }
    self.occurrence = atomic_fetch_add(&shared->counts[call], 1) + 1;
    if (planned.call == call && planned.occurrence == self.occurrence) {
        self.error = planned.error;
        self.is_short = self.error == 0 && planned.length < length;
        self.length = self.is_short ? planned.length : length;
        if (self.error != 0) {
            atomic_store(&shared->has_happened, true);
        }
    }
    return self;
}

int64_t faults_end(const faults_call *call, int64_t result) {
    if (call->occurrence >= 1 && call->occurrence <= FAULTS_REMEMBERED) {
        atomic_store(&shared->returned[call->call][call->occurrence - 1], result);
    }
    if (call->is_short && result == (int64_t)call->length) {
        atomic_store(&shared->has_happened, true);
    }
    return result;
}

size_t faults_short_next(system_call call) {
    const bool is_next = is_counted() && planned.call == call && planned.error == 0 &&
                         planned.occurrence == atomic_load(&shared->counts[call]) + 1;
    return is_next ? planned.length : 0;
}

void faults_missed(void) {
    if (shared != NULL) {
        atomic_store(&shared->has_happened, false);
    }
}

bool faults_fail(system_call call) {
    if (!atomic_load_explicit(&faults_armed, memory_order_relaxed)) {
        return false;
    }
    const faults_call self = faults_begin(call, 0);
    if (self.error != 0) {
        errno = self.error;
    }
    return self.error != 0;
}

void faults_registered(int epoll_fd, int operation, int fd, const struct epoll_event *event) {
    if (!is_counted() || fd < 0 || fd >= DESCRIPTORS) {
        return;
    }
    pthread_mutex_lock(&registered_mutex);
    registered[fd].epoll_fd = operation == EPOLL_CTL_DEL ? 0 : epoll_fd;
    if (operation != EPOLL_CTL_DEL) {
        registered[fd].event = *event;
    }
    pthread_mutex_unlock(&registered_mutex);
}

void faults_renamed(int old_fd, int new_fd) {
    pthread_mutex_lock(&registered_mutex);
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (registered[fd].epoll_fd == old_fd) {
            registered[fd].epoll_fd = new_fd;
        }
    }
    pthread_mutex_unlock(&registered_mutex);
}

void faults_edge_again(int fd) {
    const int saved = errno;

    pthread_mutex_lock(&registered_mutex);
    if (fd >= 0 && fd < DESCRIPTORS && registered[fd].epoll_fd != 0) {
        (void)__real_epoll_ctl(registered[fd].epoll_fd, EPOLL_CTL_MOD, fd, &registered[fd].event);
    }
    pthread_mutex_unlock(&registered_mutex);
    errno = saved;
}
