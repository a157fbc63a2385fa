/*
 * Tests that must fail, each in its own way. They are a program of their own; tests/checks/harness.py runs it and
 * compares what the runner says about them.
 */
#include "harness/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(bad, check_fails) {
    puts("written before the failure");
    CHECK(1 > 2);
}

TEST(bad, integers_differ) {
    CHECK_EQ(6 * 7, 41);
}

TEST(bad, strings_differ) {
    CHECK_STR("tulip", NULL);
}

TEST(bad, memory_differs) {
    CHECK_MEM("abcd", "abxd", 4);
}

TEST(bad, crashes) {
    raise(SIGSEGV);
}

TEST(bad, hangs) {
    test_set_timeout(1);
    for (;;)
        pause();
}

TEST(bad, exits) {
    exit(0);
}

TEST(bad, exits_with_a_status) {
    exit(7);
}

TEST(bad, leaks_a_descriptor) {
    CHECK_GE(open("/dev/null", O_RDONLY), 0);
}

TEST(bad, closes_a_strangers_descriptor) {
    close(STDIN_FILENO);
}

TEST(bad, leaks_a_block) {
    CHECK(test_counting_alloc(NULL, 8) != NULL);
}

static void *fail_here(void *unused) {
    (void)unused;
    test_fail(__FILE__, __LINE__, "a thread failed");
}

TEST(bad, fails_in_a_thread) {
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, fail_here, NULL), 0);
    pthread_join(thread, NULL);
}

TEST(bad, fails_in_a_child_that_nobody_asks) {
    const pid_t child = fork();

    if (child == 0)
        CHECK_EQ(1, 2);
    waitpid(child, NULL, 0);
}

TEST_DRIVERS(bad, fails_on_one_driver) {
    if (strcmp(test_driver(), "poll") == 0) {
        CHECK_STR(test_driver(), "epoll");
    }
}

TEST(good, passes) {
    CHECK_EQ(1, 1);
}

TEST(good, skips) {
    SKIP("no %s here", "reason");
}

TEST_ALONE(good, leaves_a_process_behind) {
    if (fork() == 0)
        pause();
}

TEST(good, leaves_files_behind) {
    char path[128];

    snprintf(path, sizeof path, "%s/left", test_directory());
    puts(path);
    const int fd = open(path, O_CREAT | O_WRONLY, 0600);
    CHECK_GE(fd, 0);
    close(fd);
}
