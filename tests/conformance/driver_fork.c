/* The driver contract about forks, as far as the loop does not show it. */
#include "conformance/objects.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

static void interrupt(thing *self, char what) {
    (void)what;
    tpi_driver_interrupt(self->driver);
}

static void wait_for_child(int child) {
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

TEST_DRIVERS(driver_fork, a_child_does_not_hear_what_the_parent_had_taken_and_not_delivered) {
    thing watches[2];
    int fds[2][2];
    char byte;
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < 2; i++) {
        test_socketpair(fds[i]);
        write_numbers(fds[i][1], 0, 1);
        thing_init(&watches[i], driver);
        watches[i].then = interrupt;
        CHECK_OK(driver->ops->watch(driver, &watches[i].object, fds[i][0], TEPAL_READABLE));
    }
    driver_turn(driver, -1);
    CHECK_EQ(strlen(watches[0].log) + strlen(watches[1].log), 1);
    const int child = fork();
    if (child == 0) {
        CHECK_OK(driver->ops->after_fork(driver));
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(read(fds[i][0], &byte, 1), 1); /* both processes' byte: now nothing is ready */
        }
        driver_settle(driver);
        CHECK_EQ(strlen(watches[0].log) + strlen(watches[1].log), 1);
        driver_close(driver);
        _exit(0);
    }
    wait_for_child(child);
    driver_close(driver);
    for (int i = 0; i < 2; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

TEST_DRIVERS(driver_fork, a_child_that_abandons_the_driver_closes_what_is_the_drivers_and_not_what_is_borrowed) {
    thing own, borrowed;
    tpi_driver *driver = driver_open(0, 0);
    const int peers[] = {thing_adopt(&own, driver, false), thing_adopt(&borrowed, driver, false)};
    borrowed.object.borrowed = true;
    const int child = fork();
    if (child == 0) {
        driver->ops->abandon(driver);
        CHECK_EQ(fcntl(own.object.fd, F_GETFD), -1);
        CHECK_GE(fcntl(borrowed.object.fd, F_GETFD), 0);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    wait_for_child(child);
    thing_close(&own);
    thing_close(&borrowed);
    close(peers[0]);
    close(peers[1]);
    driver_close(driver);
}

TEST_DRIVERS(driver_fork, after_fork_both_processes_hear_of_their_own_bytes) {
    thing self;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    thing_read_start(&self);
    driver_settle(driver);
    const int child = fork();
    if (child == 0) {
        CHECK_OK(driver->ops->after_fork(driver));
        write_numbers(peer, 0, 10);
        DRIVER_UNTIL(driver, self.received == 10);
        driver->ops->wake(driver);
        driver_turn(driver, -1);
        thing_close(&self);
        close(peer);
        driver_close(driver);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    wait_for_child(child);
    /* The child has read its ten; ours come after. Its close took nothing from us. */
    self.received = 10;
    write_numbers(peer, 10, 10);
    DRIVER_UNTIL(driver, self.received == 20);
    thing_close(&self);
    close(peer);
    driver_close(driver);
}

TEST_DRIVERS(driver_fork, after_fork_every_object_is_heard) {
    thing all[3];
    int peers[3];
    tpi_driver *driver = driver_open(0, 0);
    for (int i = 0; i < 3; i++) {
        peers[i] = thing_adopt(&all[i], driver, i % 2 == 0);
        thing_read_start(&all[i]);
    }
    const int child = fork();
    if (child == 0) {
        CHECK_OK(driver->ops->after_fork(driver));
        for (int i = 0; i < 3; i++) {
            write_numbers(peers[i], 0, 10);
            DRIVER_UNTIL(driver, all[i].received == 10);
        }
        _exit(0);
    }
    wait_for_child(child);
    for (int i = 0; i < 3; i++) {
        thing_close(&all[i]);
        close(peers[i]);
    }
    driver_close(driver);
}
