/*
 * Runs tests: each in a child of its own, several at once, with a watchdog.
 *
 * The child's output goes to a memory file and is shown only if the test fails. The runner never trusts the
 * child: no outcome in the report, a bad exit status and a signal are all failures.
 */
#include "harness/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    DEFAULT_TIMEOUT_S = 20,
    SHOWN_OUTPUT = 16384, /* bytes of a failed test's output that are printed: the end of it */
};

typedef struct {
    pid_t pid; /* 0: free */
    test_item *item;
    test_report *report;
    int output_fd;
    int64_t started_ns;
    bool timed_out;
} slot;

typedef struct {
    const test_options *options;
    slot *slots;
    int busy;
    bool ended; /* by a failure, with --fail-fast: nothing starts any more, and what runs is ended and does not count */
} runner;

static int time_limit_s(const test_options *options, const test_report *report) {
    const int asked = atomic_load(&report->timeout_s) * test_timeout_factor();
    return options->limit_s > 0 && options->limit_s < asked ? options->limit_s : asked;
}

static void report_reset(test_report *report) {
    memset(report, 0, sizeof *report);
    atomic_store(&report->timeout_s, DEFAULT_TIMEOUT_S);
}

/* What must hold after every test that came to its end. */
static void check_nothing_is_left(const test_fd_set *fds_before) {
    test_fds_compare(fds_before);
    if (test_alloc_live() != 0)
        test_fail(__FILE__, __LINE__, "%zu blocks of test_counting_alloc were not freed", test_alloc_live());
}

static _Noreturn void run_child(const slot *self, pid_t runner_pid) {
    sigset_t none;

    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != runner_pid)
        _exit(1);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(self->output_fd, STDOUT_FILENO);
    dup2(self->output_fd, STDERR_FILENO);
    close_range(3, ~0U, 0); /* so that descriptors have the same numbers in every run */

    test_enter(self->report, self->item, true);
    test_fd_set before = test_fds_take();
    test_run_body(self->item);
    check_nothing_is_left(&before);
    free(before.fds);
    test_claim(TEST_PASSED); /* unless a child of the test has failed */
    exit(0);                 /* not _exit: the leak checker and the coverage counters work at exit */
}

static void start(runner *self, slot *place, test_item *item) {
    const pid_t runner_pid = getpid();

    place->item = item;
    place->timed_out = false;
    place->output_fd = memfd_create("test-output", MFD_CLOEXEC);
    place->started_ns = test_now_ns();
    report_reset(place->report);
    fflush(NULL);
    place->pid = fork();
    if (place->pid == 0)
        run_child(place, runner_pid);
    if (place->pid < 0 || place->output_fd < 0) {
        perror("tepal-tests: cannot start a test");
        exit(2);
    }
    setpgid(place->pid, place->pid); /* the child does it too; whoever comes first */
    self->busy++;
}

/* Print the end of what the test wrote, indented. */
static void show_output(int fd) {
    char *text = malloc(SHOWN_OUTPUT + 1);
    const off_t size = lseek(fd, 0, SEEK_END);
    const off_t from = size > SHOWN_OUTPUT ? size - SHOWN_OUTPUT : 0;
    const ssize_t length = text ? pread(fd, text, SHOWN_OUTPUT, from) : 0;
    char *rest = text;

    if (length > 0) {
        text[length] = '\0';
        for (char *line; (line = strsep(&rest, "\n"));) {
            if (*line)
                printf("      | %s\n", line);
        }
    }
    free(text);
}

/* The outcome, and for everything but a pass the reason in words. */
static test_outcome judge(const test_options *options, const slot *place, int status, char *reason, size_t size) {
    const test_outcome claimed = (test_outcome)atomic_load(&place->report->outcome);

    if (claimed == TEST_FAILED || claimed == TEST_SKIPPED)
        snprintf(reason, size, "%s", place->report->message);
    if (place->timed_out) {
        snprintf(reason, size, "timed out after %d s", time_limit_s(options, place->report));
        return TEST_FAILED;
    }
    if (claimed == TEST_FAILED)
        return TEST_FAILED;
    if (WIFSIGNALED(status)) {
        snprintf(reason, size, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return TEST_FAILED;
    }
    if (WEXITSTATUS(status) != 0) {
        snprintf(reason, size, "exited with status %d", WEXITSTATUS(status));
        return TEST_FAILED;
    }
    if (claimed == TEST_UNFINISHED) {
        snprintf(reason, size, "ended its process before the test came to its end");
        return TEST_FAILED;
    }
    return claimed;
}

static void settle(runner *self, const slot *place, int status) {
    char reason[1100] = "";
    const test_outcome outcome = judge(self->options, place, status, reason, sizeof reason);
    const double seconds = (double)(test_now_ns() - place->started_ns) / 1e9;

    place->item->outcome = outcome;
    place->item->seconds = seconds;
    if (outcome == TEST_FAILED) {
        printf("FAIL  %s (%.2f s)\n      %s\n", place->item->label, seconds, reason);
        show_output(place->output_fd);
    } else if (outcome == TEST_SKIPPED) {
        printf("SKIP  %s: %s\n", place->item->label, reason);
    } else if (self->options->verbose) {
        printf("PASS  %s (%.2f s)\n", place->item->label, seconds);
    }
    fflush(stdout);
    self->ended = self->options->fail_fast && outcome == TEST_FAILED;
}

static void finish(runner *self, slot *place, int status) {
    if (!self->ended)
        settle(self, place, status);
    kill(-place->pid, SIGKILL); /* processes that the test left behind */
    test_directory_remove(place->report->directory);
    close(place->output_fd);
    place->pid = 0;
    self->busy--;
}

/* Collect the children that ended, and end those whose time is up. */
static void reap(runner *self) {
    for (int i = 0; i < self->options->jobs; i++) {
        slot *place = &self->slots[i];
        int status;

        if (place->pid == 0)
            continue;
        if (waitpid(place->pid, &status, WNOHANG) == place->pid) {
            finish(self, place, status);
        } else if (self->ended) {
            kill(-place->pid, SIGKILL);
        } else if (!place->timed_out && test_now_ns() - place->started_ns >
                                            time_limit_s(self->options, place->report) * INT64_C(1000000000)) {
            place->timed_out = true;
            kill(-place->pid, SIGKILL);
        }
    }
}

static slot *free_slot(runner *self) {
    for (int i = 0; i < self->options->jobs; i++) {
        if (self->slots[i].pid == 0)
            return &self->slots[i];
    }
    return NULL;
}

/* Tests that want to be alone are last in the order, so once one has come, all that follow are alone too. */
static bool may_start(const runner *self, const test_item *item) {
    return self->busy < (item->test->flags & TEST_IS_ALONE ? 1 : self->options->jobs);
}

void test_run_forked(test_item *items, size_t count, const test_options *options) {
    runner self = {.options = options};
    const size_t jobs = (size_t)options->jobs;
    const struct timespec watchdog_period = {.tv_nsec = 50 * 1000000};
    sigset_t child_signal;
    test_report *reports =
        mmap(NULL, jobs * sizeof *reports, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    self.slots = calloc(jobs, sizeof *self.slots);
    if (!self.slots || reports == MAP_FAILED) {
        perror("tepal-tests");
        exit(2);
    }
    for (size_t i = 0; i < jobs; i++)
        self.slots[i].report = &reports[i];

    /* Blocked, the signal stays pending until sigtimedwait() takes it: no child's end is missed. */
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_signal, NULL);

    for (size_t next = 0; (next < count && !self.ended) || self.busy > 0;) {
        while (next < count && !self.ended && may_start(&self, &items[next]))
            start(&self, free_slot(&self), &items[next++]);
        sigtimedwait(&child_signal, NULL, &watchdog_period);
        reap(&self);
    }
    munmap(reports, jobs * sizeof *reports);
    free(self.slots);
}

/* In this process, for a debugger: no watchdog, and the first failure ends everything. */
void test_run_here(test_item *items, size_t count) {
    test_report report;

    for (size_t i = 0; i < count; i++) {
        test_fd_set before = test_fds_take();

        report_reset(&report);
        test_enter(&report, &items[i], false);
        test_run_body(&items[i]);
        test_directory_remove(report.directory);
        if (atomic_load(&report.outcome) == TEST_SKIPPED) {
            printf("SKIP  %s: %s\n", items[i].label, report.message);
            items[i].outcome = TEST_SKIPPED;
        } else {
            check_nothing_is_left(&before);
            printf("PASS  %s\n", items[i].label);
            items[i].outcome = TEST_PASSED;
        }
        free(before.fds);
    }
}
