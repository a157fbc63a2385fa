/* The driver contract where one thread waits and another goes on: nothing of what was found is lost or mistaken. */
#include "conformance/objects.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static void *flush(void *driver) {
    ((tpi_driver *)driver)->ops->flush(driver);
    return NULL;
}

static void in_a_thread(void *(*what)(void *), tpi_driver *driver) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, what, driver), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static char byte;
static struct iovec piece_of_one = {.iov_base = &byte, .iov_len = 1};
static const tpi_message message_of_one = {.pieces = &piece_of_one, .count = 1};

/* Another thread enters the kernel, with something to send at the least. */
static void exchange(tpi_driver *driver, thing *other) {
    (void)driver->ops->send(driver, &other->object, &message_of_one);
    in_a_thread(flush, driver);
}

static int dial(uint16_t port) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fd, 0);
    CHECK_EQ(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

TEST_DRIVERS(driver_exchange, a_connection_that_one_thread_has_found_another_accepts) {
    thing self, others[4];
    int peers[4];
    tpi_driver *driver = driver_open(0, 0);
    const uint16_t port = thing_listen(&self, driver);
    driver->ops->accept_start(driver, &self.object);
    for (int round = 0; round < 4; round++) {
        peers[round] = thing_adopt(&others[round], driver, false);
        driver_settle(driver);
        const int dialer = dial(port);
        CHECK_OK(driver->ops->wait(driver, TEPAL_MS(100)));
        exchange(driver, &others[round]);
        DRIVER_UNTIL(driver, self.accepted == round + 1);
        struct sockaddr_in name;
        socklen_t length = sizeof name;
        CHECK_EQ(getsockname(self.fd, (struct sockaddr *)&name, &length), 0);
        CHECK_EQ(ntohs(name.sin_port), port);
        close(dialer);
    }
    for (int i = 0; i < 4; i++) {
        thing_close(&others[i]);
        close(peers[i]);
    }
    close(self.fd);
    thing_close(&self);
    driver_close(driver);
}

TEST_DRIVERS(driver_exchange, what_one_thread_has_found_can_be_asked_for_in_another) {
    uint8_t block[100] = {0};
    struct iovec piece = {.iov_base = block, .iov_len = sizeof block};
    const tpi_message message = {.pieces = &piece, .count = 1};
    thing self, other;
    tpi_driver *driver = driver_open(0, 0);
    const int peer = thing_adopt(&self, driver, true);
    const int other_peer = thing_adopt(&other, driver, false);
    thing_read_start(&self);
    driver_settle(driver);
    write_numbers(peer, 0, 70);
    const int64_t sent = driver->ops->send(driver, &self.object, &message);
    CHECK_OK(driver->ops->wait(driver, TEPAL_MS(100)));
    exchange(driver, &other);
    size_t unread = 0;
    CHECK_OK(driver->ops->query(driver, &self.object, TPI_QUERY_UNREAD, &unread));
    CHECK_EQ(unread, 70);
    int64_t answer = sent;
    if (sent == TPI_PENDING) {
        CHECK_OK(driver->ops->query(driver, &self.object, TPI_QUERY_SENT, &answer));
    }
    CHECK_EQ(answer, 100);
    DRIVER_UNTIL(driver, self.received == 70);
    driver_settle(driver);
    CHECK_EQ(recv(peer, block, sizeof block, 0), 100);
    thing_close(&other);
    close(other_peer);
    close(peer);
    thing_close(&self);
    driver_close(driver);
}
