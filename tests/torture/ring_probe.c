/*
 * Where the kernel, or a sandbox, refuses a ring or a part of it: a loop that was not asked for one comes up on another
 * driver and says nothing, and one that was is refused with the reason. And a ring gives nobody rights that the process
 * has given up (CVE-2024-22017).
 */
#include "conformance/faults.h"
#include "conformance/loops.h"
#include "conformance/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From now on the kernel answers these calls of this process, from one number to another, with an error. */
static void refuse_calls(unsigned first, unsigned last, unsigned error) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};

    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

/* Run it in a child, which may not write to stderr. */
static void in_quiet_child(void (*run)(const void *argument), const void *argument) {
    char path[128];
    struct stat written;

    snprintf(path, sizeof path, "%s/stderr", test_directory());
    const int child = fork();
    if (child == 0) {
        const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
        CHECK_GE(fd, 0);
        CHECK_EQ(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        run(argument);
        _exit(0);
    }
    wait_for_child(child);
    CHECK_EQ(stat(path, &written), 0);
    CHECK_EQ(written.st_size, 0);
}

/* A loop without a name comes up and serves. */
static void check_another_driver(void) {
    tepal_loop *loop;
    int runs = 0;

    CHECK_EQ(unsetenv("TEPAL_DRIVER"), 0);
    CHECK_OK(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc)));
    CHECK_STR(tepal_loop_driver_name(loop), "epoll");
    CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, NULL));
    loop_settle(loop);
    CHECK_EQ(runs, 1);
    loop_end(loop);
}

/* One that asks for a ring hears why there is none, and leaves nothing behind. */
static void check_refused(int error) {
    const int fds = test_fd_count();
    const size_t live = test_alloc_live();
    tepal_loop *loop = NULL;

    const int code =
        tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "uring", .realloc = test_counting_alloc));
    CHECK_LT(code, 0);
    CHECK(loop == NULL);
    CHECK_EQ(code, TEPAL_SYSTEM(error));
    CHECK_STR(tepal_strerror(code), strerror(error));
    CHECK_EQ(test_fd_count(), fds);
    CHECK_EQ(test_alloc_live(), live);
}

typedef struct refusal {
    long first, last;
    int error;
} refusal;

static void live_with(const void *argument) {
    const refusal *self = argument;

    refuse_calls((unsigned)self->first, (unsigned)self->last, (unsigned)self->error);
    check_refused(self->error);
    check_another_driver();
}

TEST(ring_probe, a_sandbox_that_refuses_rings_is_lived_with) {
    static const refusal refusals[] = {
        {SYS_io_uring_setup, SYS_io_uring_setup, EPERM},
        {SYS_io_uring_setup, SYS_io_uring_setup, ENOSYS},
        {SYS_io_uring_setup, SYS_io_uring_register, EPERM},
        {SYS_io_uring_setup, SYS_io_uring_register, ENOSYS},
    };

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        in_quiet_child(live_with, &refusals[i]);
    }
}

TEST(ring_probe, a_sandbox_that_refuses_a_part_of_what_a_ring_needs_is_found_out_at_once) {
    static const refusal refusals[] = {
        {SYS_io_uring_enter, SYS_io_uring_enter, EPERM},
        {SYS_io_uring_enter, SYS_io_uring_enter, ENOSYS},
        {SYS_io_uring_register, SYS_io_uring_register, EPERM},
        {SYS_io_uring_register, SYS_io_uring_register, EACCES},
    };
    tepal_loop *loop;

    if (tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "uring")) < 0) {
        SKIP("this kernel makes no ring");
    }
    loop_end(loop);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        in_quiet_child(live_with, &refusals[i]);
    }
}

/* As with the sysctl kernel.io_uring_disabled. */
TEST(ring_probe, a_kernel_whose_administrator_forbids_rings_is_lived_with) {
    static const int errors[] = {EPERM, ENOSYS, ENOMEM, EMFILE};

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        const fault plan = {.call = CALL_io_uring_setup, .occurrence = 1, .error = errors[i]};
        faults_arm(&plan);
        check_refused(errors[i]);
        CHECK(faults_hit());
        faults_arm(&plan);
        check_another_driver();
        faults_disarm();
    }
}

/* One that does not know what is asked for: Linux before 6.1. */
TEST(ring_probe, a_kernel_that_is_too_old_is_said_to_be_without_support) {
    const fault plan = {.call = CALL_io_uring_setup, .occurrence = 1, .error = EINVAL};
    tepal_loop *loop = NULL;

    faults_arm(&plan);
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "uring")), TEPAL_ENOTSUP);
    CHECK(faults_hit());
    faults_arm(&plan);
    check_another_driver();
    faults_disarm();
}

/* ---- FIELD row 9: rights that were given up ---- */

enum { NOBODY = 65534 };

static char root_only[128];

/* Not more than the process may, on a loop that was made, and has run, when it might do all. */
static void check_has_no_rights(peers *all) {
    const char *hosts[] = {"127.0.0.1"};
    tepal_server *server;
    tepal_future *future;

    CHECK_OK(tepal_loop_create_connection(all->loop, peers_factory, all,
                                          TEPAL_OPTIONS(tepal_connect_options, .unix_path = root_only), &future));
    CHECK_EQ(peers_wait(all, future), TEPAL_SYSTEM(EACCES));
    tepal_future_unref(future);
    const int code =
        tepal_loop_listen(all->loop, peers_factory, all,
                          TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = 1), &server);
    CHECK_EQ(code, TEPAL_SYSTEM(EACCES));
}

static void give_up_rights(bool for_good) {
    peers all = {.echo = true};
    tepal_server *local;

    const int child = fork();
    if (child > 0) {
        wait_for_child(child);
        return;
    }
    peers_open(&all);
    CHECK_OK(tepal_loop_listen(all.loop, peers_factory, &all,
                               TEPAL_OPTIONS(tepal_server_options, .unix_path = root_only), &local));
    CHECK_EQ(chmod(root_only, 0600), 0);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    check_echo(&all, plain_dial("127.0.0.1", port));
    CHECK_EQ(for_good ? setuid(NOBODY) : seteuid(NOBODY), 0);
    check_has_no_rights(&all);
    check_echo(&all, plain_dial("127.0.0.1", port)); /* what needs none goes on */
    check_has_no_rights(&all);
    CHECK(for_good || seteuid(0) == 0);
    tepal_server_unref(local);
    tepal_server_unref(server);
    peers_close(&all);
    (void)unlink(root_only);
    _exit(0);
}

static bool privileged_ports_are(void) {
    int first = 0;
    FILE *file = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");

    if (file != NULL) {
        CHECK_EQ(fscanf(file, "%d", &first), 1);
        fclose(file);
    }
    return first > 1;
}

TEST_DRIVERS(ring_probe, who_gives_up_root_has_no_rights_of_root_left_in_the_loop) {
    if (geteuid() != 0 || !privileged_ports_are()) {
        SKIP("only root has rights to give up");
    }
    snprintf(root_only, sizeof root_only, "%s/root", test_directory());
    give_up_rights(false);
    (void)unlink(root_only);
    give_up_rights(true);
}
