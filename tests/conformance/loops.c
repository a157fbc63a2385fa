/* See loops.h. */
#include "conformance/loops.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

char loop_log[128];

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN true
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN false
#endif

bool loop_is_under_tsan(void) {
    return UNDER_TSAN;
}

static pthread_mutex_t descriptors = PTHREAD_MUTEX_INITIALIZER;

void loop_descriptors_begin(void) {
    if (UNDER_TSAN) {
        pthread_mutex_lock(&descriptors);
    }
}

void loop_descriptors_end(void) {
    if (UNDER_TSAN) {
        pthread_mutex_unlock(&descriptors);
    }
}

tepal_loop *loop_make(const tepal_loop_options *options) {
    tepal_loop *loop = NULL;

    CHECK_OK(tepal_loop_new(&loop, options));
    loop_log_clear();
    return loop;
}

void loop_end(tepal_loop *loop) {
    CHECK_OK(tepal_loop_close(loop));
    tepal_loop_unref(loop);
}

void loop_log_clear(void) {
    memset(loop_log, 0, sizeof loop_log);
}

void loop_note(char what) {
    const size_t length = strlen(loop_log);

    CHECK_LT(length + 1, sizeof loop_log);
    loop_log[length] = what;
}

void note_first(void *letter) {
    loop_note(*(const char *)letter);
}

void stop_loop(void *loop) {
    tepal_loop_stop(loop);
}

void count_up(void *counter) {
    ++*(int *)counter;
}

void loop_settle(tepal_loop *loop) {
    for (int idle = 0; idle < 3; idle++) {
        while (tepal_loop_step(loop, 0) == 1) {
            idle = 0;
        }
    }
}

tepal_loop_stats loop_stats(const tepal_loop *loop) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_get_stats(loop, &stats));
    return stats;
}

void loop_pipe(int fds[2]) {
    CHECK_EQ(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
}

void wait_for_child(int pid) {
    int status = -1;

    CHECK_GT(pid, 0);
    while (waitpid(pid, &status, 0) < 0) {
        CHECK_EQ(errno, EINTR);
    }
    CHECK_EQ(status, 0);
}
