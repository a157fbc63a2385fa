/* The harness's helpers. What it says about failing tests is checked by tests/checks/harness.py. */
#include "harness/test.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

TEST_DRIVERS(harness, a_driver_test_knows_its_driver) {
    CHECK_STR(getenv("TEPAL_DRIVER"), test_driver());
}

TEST(harness, the_counting_allocator_counts_blocks_and_calls) {
    void *block = test_counting_alloc(NULL, 10);

    block = test_counting_alloc(block, 20);
    CHECK_EQ(test_alloc_live(), 1);
    CHECK_EQ(test_alloc_calls(), 2);
    CHECK(test_counting_alloc(block, 0) == NULL);
    CHECK_EQ(test_alloc_live(), 0);
    CHECK_EQ(test_alloc_calls(), 2);
}

TEST(harness, the_counting_allocator_fails_the_call_it_is_told_to) {
    test_alloc_fail_at(2, false);
    void *first = test_counting_alloc(NULL, 1);
    CHECK(first != NULL);
    CHECK(!test_alloc_has_failed());
    CHECK(test_counting_alloc(NULL, 1) == NULL);
    CHECK(test_alloc_has_failed());
    void *third = test_counting_alloc(NULL, 1);
    CHECK(third != NULL);

    test_alloc_fail_at(1, true);
    CHECK(test_counting_alloc(NULL, 1) == NULL);
    CHECK(test_counting_alloc(NULL, 1) == NULL);
    test_alloc_fail_at(0, false);

    test_counting_alloc(first, 0);
    test_counting_alloc(third, 0);
}

static void check_pair(int fds[2]) {
    char text[6];

    test_write_all(fds[0], "hello", 6);
    test_read_exactly(fds[1], text, 6);
    CHECK_STR(text, "hello");
    CHECK(test_poll(fds[1], POLLOUT) & POLLOUT);
    CHECK_EQ(read(fds[1], text, 1), -1); /* does not block */
    close(fds[0]);
    close(fds[1]);
}

TEST(harness, socket_pairs_are_connected_and_do_not_block) {
    const int before = test_fd_count();
    int fds[2];

    test_socketpair(fds);
    CHECK_EQ(test_fd_count(), before + 2);
    check_pair(fds);
    test_tcp_pair(fds);
    check_pair(fds);
    CHECK_EQ(test_fd_count(), before);
}

TEST(harness, a_random_sequence_repeats_and_streams_differ) {
    test_prng a = test_prng_start(1);
    test_prng b = test_prng_start(1);
    test_prng c = test_prng_start(2);
    unsigned char left[13];
    unsigned char right[13];

    test_prng_fill(&a, left, sizeof left);
    test_prng_fill(&b, right, sizeof right);
    CHECK_MEM(left, right, sizeof left);
    CHECK(test_prng_next(&b) != test_prng_next(&c));
    CHECK_LT(test_prng_below(&a, 10), 10);
}

TEST(harness, the_test_directory_is_there_and_stays_the_same) {
    struct stat status;
    const char *path = test_directory();

    CHECK_EQ(stat(path, &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_STR(path, test_directory());
    CHECK_LT(strlen(path), 40);
}
