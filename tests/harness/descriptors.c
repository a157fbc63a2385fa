/* Counting open descriptors, and the test's own directory: what a test must leave as it found it. */
#include "harness/internal.h"

#include <dirent.h>
#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

test_fd_set test_fds_take(void) {
    test_fd_set set = {0};
    DIR *directory = opendir("/proc/self/fd");

    if (!directory)
        return set;
    for (struct dirent *entry; (entry = readdir(directory));) {
        const int fd = atoi(entry->d_name);

        if (entry->d_name[0] == '.' || fd == dirfd(directory))
            continue;
        int *grown = realloc(set.fds, sizeof *set.fds * (size_t)(set.count + 1));
        if (!grown)
            break;
        set.fds = grown;
        set.fds[set.count++] = fd;
    }
    closedir(directory);
    return set;
}

int test_fd_count(void) {
    test_fd_set set = test_fds_take();

    free(set.fds);
    return set.count;
}

static bool contains(const test_fd_set *set, int fd) {
    for (int i = 0; i < set->count; i++) {
        if (set->fds[i] == fd)
            return true;
    }
    return false;
}

/* Adds " 7 (socket:[123])" to the list. */
static void describe(char *list, size_t size, int fd) {
    char link[64];
    char target[128];
    const size_t used = strlen(list);

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, target, sizeof target - 1);
    target[length > 0 ? length : 0] = '\0';
    snprintf(list + used, size - used, " %d (%s)", fd, length > 0 ? target : "gone");
}

/* Fails the test if it left a descriptor open, or closed one that it did not open. */
void test_fds_compare(const test_fd_set *before) {
    char list[700] = "";
    test_fd_set after = test_fds_take();

    for (int i = 0; i < after.count; i++) {
        if (!contains(before, after.fds[i]))
            describe(list, sizeof list, after.fds[i]);
    }
    if (list[0])
        test_fail(__FILE__, __LINE__, "descriptors left open:%s", list);
    for (int i = 0; i < before->count; i++) {
        if (!contains(&after, before->fds[i]))
            describe(list, sizeof list, before->fds[i]);
    }
    if (list[0])
        test_fail(__FILE__, __LINE__, "descriptors closed that the test did not open:%s", list);
    free(after.fds);
}

const char *test_directory(void) {
    test_report *report = test_current_report();

    if (report->directory[0] == '\0') {
        char path[] = "/tmp/tepal-test-XXXXXX";

        CHECK(mkdtemp(path) != NULL);
        memcpy(report->directory, path, sizeof path);
    }
    return report->directory;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place) {
    (void)status;
    (void)type;
    (void)place;
    remove(path);
    return 0;
}

void test_directory_remove(const char *path) {
    if (path[0])
        nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
