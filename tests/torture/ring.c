/*
 * Known faults of other libraries' rings, and what a completion model makes easy to get wrong, on every driver: few
 * entries, few buffers, full sockets, pauses, numbers that come back, accepts that lose a race, paused readers.
 */
#include "conformance/faults.h"
#include "conformance/loops.h"
#include "conformance/mischief.h"
#include "conformance/peers.h"
#include "conformance/plumbing.h"
#include "loop/loop.h"
#ifdef HAVE_LIBURING
#include "driver/uring_inside.h"
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static test_prng prng;

static size_t below(size_t limit) {
    return (size_t)test_prng_below(&prng, limit);
}

static bool is_on_ring(void) {
    return strcmp(test_driver(), "uring") == 0;
}

/* So many descriptors; fewer where the machine allows no more. Returns how many things of `each` descriptors fit. */
static int room_for(int things, int each) {
    struct rlimit limit;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    const int most = limit.rlim_max > 1000000 ? 1000000 : (int)limit.rlim_max - 100;
    return things * each < most ? things : most / each;
}

static end *ends_new(int count) {
    end *ends = calloc((size_t)count, sizeof *ends);
    CHECK(ends != NULL);
    return ends;
}

/* An end of ours, and a plain socket on the other side. */
static int adopt_one(tepal_loop *loop, end *self, uint64_t seed) {
    int fds[2];

    test_socketpair(fds);
    self->seed = seed;
    end_adopt(loop, self, fds[0]);
    return fds[1];
}

static void feed_plainly(int fd, const end *to, uint64_t from, size_t length) {
    uint8_t data[1024];

    CHECK_LE(length, sizeof data);
    stream_fill(to->seed, from, data, length);
    test_write_all(fd, data, length);
}

/* ---- FIELD row 8: a ring that is much too small ---- */

TEST_DRIVERS(ring, a_thousand_operations_at_once_are_more_than_eight_entries_hold) {
    enum { ROUNDS = 5, LENGTH = 50 };
    const int count = room_for(1000, 2);
    tepal_loop *loop = LOOP(.ring_entries = 8, .ring_buffers = 2048, .ring_buffer_bytes = 1024, .debug = true);
    end *ends = ends_new(count);
    int *peers_of = calloc((size_t)count, sizeof *peers_of);
    const uint8_t answer[4] = {1, 2, 3, 4};
    CHECK(peers_of != NULL);
    test_set_timeout(60);

    for (int i = 0; i < count; i++) { /* each has input from the beginning, so that it is received as it is asked for */
        peers_of[i] = adopt_one(loop, &ends[i], (uint64_t)i);
        feed_plainly(peers_of[i], &ends[i], 0, LENGTH);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < count && round > 0; i++) {
            feed_plainly(peers_of[i], &ends[i], (uint64_t)round * LENGTH, LENGTH);
        }
        for (int i = 0; i < count; i++) {
            RUN_UNTIL(loop, ends[i].received == (uint64_t)(round + 1) * LENGTH);
        }
        for (int i = 0; i < count; i++) {
            CHECK_OK(tepal_transport_write(ends[i].transport, answer, sizeof answer));
        }
        loop_settle(loop);
        for (int i = 0; i < count; i++) {
            uint8_t got[sizeof answer];
            ssize_t length;
            RUN_UNTIL(loop, (length = read(peers_of[i], got, sizeof got)) > 0);
            CHECK_EQ(length, sizeof got);
            CHECK_MEM(got, answer, sizeof got);
        }
    }
    for (int i = 0; i < count; i++) {
        close(peers_of[i]);
    }
    for (int i = 0; i < count; i++) {
        RUN_UNTIL(loop, ends[i].eofs == 1);
    }
#ifdef HAVE_LIBURING
    if (is_on_ring() && count == 1000) {
        CHECK_GT(ring_receives_ended(), 0); /* by the kernel, whose queue was full */
    }
#endif
    CHECK_OK(tepal_loop_close(loop));
    for (int i = 0; i < count; i++) {
        end_free(&ends[i]);
    }
    tepal_loop_unref(loop);
    free(ends);
    free(peers_of);
}

/* ---- A full queue of which the kernel takes nothing now ---- */

TEST_DRIVERS(ring, what_a_full_queue_has_no_place_for_is_begun_later) {
    enum { CONNECTIONS = 20, LENGTH = 10, OCCURRENCES = 16 };
    end ends[CONNECTIONS];
    int peers_of[CONNECTIONS];

    for (size_t occurrence = 1; occurrence <= OCCURRENCES; occurrence++) {
        const fault plan = {.call = CALL_io_uring_enter, .occurrence = occurrence, .error = EAGAIN};
        tepal_loop *loop = LOOP(.ring_entries = 8, .debug = true);
        faults_arm(&plan);
        for (int i = 0; i < CONNECTIONS; i++) {
            ends[i] = (end){0};
            peers_of[i] = adopt_one(loop, &ends[i], (uint64_t)i);
        }
        loop_settle(loop);
        for (int i = 0; i < CONNECTIONS; i++) {
            feed_plainly(peers_of[i], &ends[i], 0, LENGTH);
        }
        for (int i = 0; i < CONNECTIONS; i++) {
            RUN_UNTIL(loop, ends[i].received == LENGTH);
        }
        for (int i = 0; i < CONNECTIONS; i++) { /* all of them are to be cancelled */
            tepal_transport_close(ends[i].transport);
        }
        for (int i = 0; i < CONNECTIONS; i++) {
            RUN_UNTIL(loop, ends[i].losts == 1);
            close(peers_of[i]);
        }
        faults_disarm();
        CHECK_OK(tepal_loop_close(loop));
        for (int i = 0; i < CONNECTIONS; i++) {
            end_free(&ends[i]);
        }
        tepal_loop_unref(loop);
    }
}

/* ---- FIELD row 37: two buffers for everybody ---- */

TEST_DRIVERS(ring, two_buffers_serve_sixty_four_connections) {
    enum { CONNECTIONS = 64, MESSAGES = 200, LENGTH = 700 };
    tepal_loop *loop = LOOP(.ring_buffers = 2, .ring_buffer_bytes = 1024, .debug = true);
    end *ends = ends_new(2 * CONNECTIONS);
    test_set_timeout(60);

    for (int i = 0; i < CONNECTIONS; i++) {
        ends[2 * i].seed = (uint64_t)i;
        ends[2 * i + 1].seed = (uint64_t)i + 1000;
        end_tcp_pair(loop, &ends[2 * i], &ends[2 * i + 1]);
    }
    for (int message = 0; message < MESSAGES; message++) {
        for (int i = 0; i < 2 * CONNECTIONS; i++) {
            end_write(&ends[i], &ends[i ^ 1], LENGTH);
        }
        CHECK_OK(tepal_loop_step(loop, 0));
    }
    for (int i = 0; i < 2 * CONNECTIONS; i++) {
        RUN_UNTIL(loop, ends[i].received == (uint64_t)MESSAGES * LENGTH);
    }
    CHECK_OK(tepal_loop_close(loop));
    for (int i = 0; i < 2 * CONNECTIONS; i++) {
        end_free(&ends[i]);
    }
    tepal_loop_unref(loop);
    free(ends);
}

/* ---- FIELD rows 38 and 22: a numbered stream ---- */

/* ---- Few buffers for long messages, all of them for short ones ---- */

/* How many buffers are held back from the kernel; other drivers have none. */
static uint32_t spared(const tepal_loop *loop) {
#ifdef HAVE_LIBURING
    if (is_on_ring()) {
        return ((const tpi_uring *)loop->driver)->spared;
    }
#endif
    (void)loop;
    return 0;
}

TEST_DRIVERS(ring, long_messages_take_few_buffers_and_short_ones_get_them_back) {
    enum { PAIRS = 40, LONG = 400000, SHORT = 50, ROUNDS = 4 };
    tepal_loop *loop = LOOP(.debug = true);
    end *from = ends_new(PAIRS), *to = ends_new(PAIRS);
    test_set_timeout(60);

    for (int i = 0; i < PAIRS; i++) {
        from[i].seed = to[i].seed = (uint64_t)i;
        end_tcp_pair(loop, &from[i], &to[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < PAIRS; i++) {
            end_write(&from[i], &to[i], LONG);
        }
        uint32_t most = 0;
        for (int i = 0; i < PAIRS; i++) {
            RUN_UNTIL(loop, (most = spared(loop) > most ? spared(loop) : most, to[i].received == from[i].sent));
        }
        CHECK(!is_on_ring() || most > 0);
        settle(loop); /* it sleeps, though receives have found no buffer */
        for (int messages = 0; messages < 10; messages++) {
            for (int i = 0; i < PAIRS; i++) {
                end_write(&from[i], &to[i], SHORT);
            }
            for (int i = 0; i < PAIRS; i++) {
                RUN_UNTIL(loop, to[i].received == from[i].sent);
            }
        }
        CHECK_EQ(spared(loop), 0);
    }
    CHECK_OK(tepal_loop_close(loop));
    for (int i = 0; i < PAIRS; i++) {
        end_free(&from[i]);
        end_free(&to[i]);
    }
    tepal_loop_unref(loop);
    free(from);
    free(to);
}

static void pause_at_random(end *self) {
    if (!self->is_idle && below(3) == 0) {
        self->is_idle = true;
        CHECK_OK(tepal_transport_pause_reading(self->transport));
        if (below(4) == 0) { /* and on again in the same upcall */
            self->is_idle = false;
            CHECK_OK(tepal_transport_resume_reading(self->transport));
        }
    }
}

static void resume_at_random(end *self) {
    if (self->is_idle && below(4) == 0) {
        self->is_idle = false;
        CHECK_OK(tepal_transport_resume_reading(self->transport));
    }
}

/* The interposition fails the test if the kernel is given a second send of one socket: conformance/ring.c. */
static void stream_numbers(bool narrow, bool pauses) {
    enum { TOTAL = 2000000 };
    tepal_loop *loop = LOOP(.debug = true);
    end a = {.seed = 1}, b = {.seed = 2};

    end_tcp_pair(loop, &a, &b);
    if (narrow) {
        end_narrow(&a, 3000);
    }
    b.on_data = pauses ? pause_at_random : NULL;
    while (a.sent < TOTAL || b.received < a.sent) {
        if (a.sent < TOTAL && (!a.is_paused || below(50) == 0)) {
            end_write(&a, &b, 1 + below(below(10) == 0 ? 100000 : 3000));
        }
        CHECK_OK(tepal_loop_step(loop, pauses ? 0 : TEPAL_MS(1)));
        resume_at_random(&b);
    }
    CHECK_EQ(b.received, a.sent);
    CHECK_OK(tepal_loop_close(loop));
    end_free(&a);
    end_free(&b);
    tepal_loop_unref(loop);
}

TEST_DRIVERS(ring, a_numbered_stream_through_a_full_socket_keeps_its_order) {
    prng = test_prng_start(38);
    stream_numbers(true, false);
    stream_numbers(false, false);
}

TEST_DRIVERS(ring, pausing_and_resuming_at_random_loses_nothing_of_a_numbered_stream) {
    prng = test_prng_start(22);
    stream_numbers(false, true);
    stream_numbers(true, true);
}

/* ---- FIELD row 6: numbers that come back ---- */

enum { TOGETHER = 4 };

/* The sockets of clients, which are not to take the numbers that become free. */
static void open_all(int fds[TOGETHER]) {
    for (int i = 0; i < TOGETHER; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_GE(fds[i], 0);
    }
}

static void connect_all(peers *all, uint16_t port, const int fds[TOGETHER]) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    const int made = all->made;

    for (int i = 0; i < TOGETHER; i++) {
        CHECK_EQ(connect(fds[i], (const struct sockaddr *)&address, sizeof address), 0);
    }
    PEERS_UNTIL(all, all->made == made + TOGETHER);
}

/* One that was cut off: whatever becomes of it must not reach who has its number now. */
static void say(int fd, uint64_t nonce) {
    (void)send(fd, &nonce, sizeof nonce, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool all_have_heard(const peers *all) {
    const peer *one = all->newest;

    for (int i = 0; i < TOGETHER; i++, one = one->next) {
        if (one->received_count < sizeof(uint64_t)) {
            return false;
        }
    }
    return true;
}

/* Each of the newest has heard one of these and nothing else. */
static void check_heard(const peers *all, const uint64_t nonces[TOGETHER]) {
    const peer *one = all->newest;

    for (int i = 0; i < TOGETHER; i++, one = one->next) {
        bool is_known = false;
        CHECK_EQ(one->received_count, sizeof(uint64_t));
        for (int n = 0; n < TOGETHER; n++) {
            is_known = is_known || memcmp(one->received, &nonces[n], sizeof nonces[n]) == 0;
        }
        CHECK(is_known);
    }
}

static void abort_all(const peers *all) {
    for (peer *one = all->newest; one != NULL; one = one->next) {
        if (one->transport != NULL) {
            tepal_transport_abort(one->transport, TEPAL_ECANCELED);
        }
    }
}

static void forget_peers(peers *all) {
    while (all->newest != NULL) {
        peer *next = all->newest->next;
        free(all->newest);
        all->newest = next;
    }
}

TEST_DRIVERS(ring, a_number_that_comes_back_brings_nothing_of_who_had_it) {
    const int64_t rounds = test_rounds(1000000, 3000) / TOGETHER;
    peers all = {0};
    uint64_t nonces[TOGETHER];
    int old[TOGETHER], fds[TOGETHER];
    test_set_timeout(3600);
    prng = test_prng_start(6);
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    for (int64_t round = 0; round < rounds; round++) {
        open_all(old);
        connect_all(&all, port, old);
        open_all(fds);
        if (below(2) == 0) {
            peers_settle(&all); /* the kernel receives */
        }
        for (int i = 0; i < TOGETHER && below(2) == 0; i++) {
            say(old[i], 0); /* on its way when it is cut off */
        }
        abort_all(&all);
        PEERS_UNTIL(&all, tepal_server_connection_count(server) == 0);
        connect_all(&all, port, fds); /* under the numbers that the old ones had */
        peers_settle(&all);
        for (int i = 0; i < TOGETHER; i++) {
            nonces[i] = test_prng_next(&prng) | 1;
            say(old[i], 0);
            say(fds[i], nonces[i]);
        }
        PEERS_UNTIL(&all, all_have_heard(&all));
        check_heard(&all, nonces);
        for (int i = 0; i < TOGETHER; i++) {
            plain_reset(old[i]);
            plain_reset(fds[i]);
        }
        PEERS_UNTIL(&all, all.lost == all.made && tepal_server_connection_count(server) == 0);
        forget_peers(&all);
    }
    tepal_server_unref(server);
    peers_close(&all);
}

/* ---- FIELD row 7: a cancellation that loses ---- */

static tepal_server *to_be_closed;

static void close_server(peers *all) {
    (void)all;
    tepal_server_close(to_be_closed);
}

/* Some connections are there. The server is closed before it can know, or by the first of them. */
static void close_while_accepting(bool by_the_first) {
    enum { CLIENTS = 6 };
    peers all = {0};
    int fds[CLIENTS];
    peers_open(&all);
    to_be_closed = peers_serve(&all);
    const uint16_t port = server_port(to_be_closed, 0);
    peers_settle(&all);
    const int before = test_fd_count();

    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = plain_dial("127.0.0.1", port);
        CHECK_GE(fds[i], 0);
    }
    if (by_the_first) {
        all.in_factory = close_server;
        PEERS_UNTIL(&all, all.made == 1);
    } else {
        tepal_server_close(to_be_closed);
    }
    tepal_server_close_clients(to_be_closed);
    PEERS_UNTIL(&all, all.lost == all.made && tepal_server_connection_count(to_be_closed) == 0);
    peers_run_for(&all, TEPAL_MS(2));
    peers_settle(&all);
    CHECK_EQ(test_fd_count(), before - 1 + CLIENTS); /* without the listener, with our own */
    for (int i = 0; i < CLIENTS; i++) {
        char byte;
        CHECK_LE(read(fds[i], &byte, 1), 0); /* told of an end, each of them */
        close(fds[i]);
    }
    tepal_server_unref(to_be_closed);
    peers_close(&all);
}

TEST_DRIVERS(ring, an_accept_that_has_succeeded_while_its_listener_closes_leaks_nothing) {
    const int rounds = (int)test_rounds(1000, 20);

    for (int i = 0; i < rounds; i++) {
        close_while_accepting(i % 2 == 0);
    }
#ifdef HAVE_LIBURING
    for (int i = 0; i < rounds && is_on_ring(); i++) {
        mischief_begin((uint64_t)i, MISCHIEF_CANCELS | MISCHIEF_ORDER); /* the cancellation comes much too late */
        close_while_accepting(i % 2 == 0);
    }
    mischief_begin(0, 0);
#endif
}

/* ---- Another thread ---- */

static void *turn_once(void *loop) {
    CHECK_OK(tepal_loop_step(loop, TEPAL_MS(1)));
    return NULL;
}

TEST_DRIVERS(ring, a_loop_that_goes_to_another_thread_hears_of_what_comes_then) {
    tepal_loop *loop = LOOP(.debug = true);
    end self = {0};
    pthread_t thread;

    const int other = adopt_one(loop, &self, 7);
    loop_settle(loop);
    for (uint64_t round = 0; round < 6; round++) {
        if (round % 2 == 0) { /* the ring is that thread's, and then has to be ours again */
            CHECK_EQ(pthread_create(&thread, NULL, turn_once, loop), 0);
            CHECK_EQ(pthread_join(thread, NULL), 0);
        }
        feed_plainly(other, &self, round * 10, 10);
        while (self.received < (round + 1) * 10) {
            CHECK_OK(tepal_loop_step(loop, -1)); /* nothing else would end it */
        }
    }
    close(other);
    CHECK_OK(tepal_loop_close(loop));
    end_free(&self);
    tepal_loop_unref(loop);
}

/* ---- Greedy peers ---- */

static size_t resident_bytes(void) {
    unsigned long total, resident;
    FILE *file = fopen("/proc/self/statm", "re");
    CHECK(file != NULL);
    CHECK_EQ(fscanf(file, "%lu %lu", &total, &resident), 2);
    fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void fill(int fd) {
    static const uint8_t zeros[65536];

    while (write(fd, zeros, sizeof zeros) > 0) {
    }
    CHECK_EQ(errno, EAGAIN);
}

TEST_DRIVERS(ring, paused_readers_whose_peers_are_greedy_cost_others_nothing_and_little_memory) {
    enum { LENGTH = 100, RING = 4 << 20, MOST_EACH = 66 << 10 }; /* the ring's buffers, and what one of them holds */
    const int count = room_for(1000, 2), messages = (int)test_rounds(100000, 10000);
    tepal_loop *loop = LOOP(.debug = false);
    end *ends = ends_new(count), a = {.seed = 1}, b = {.seed = 2};
    int *peers_of = calloc((size_t)count, sizeof *peers_of);
    CHECK(peers_of != NULL);
    test_set_timeout(60);

    end_tcp_pair(loop, &a, &b);
    for (int i = 0; i < count; i++) {
        peers_of[i] = adopt_one(loop, &ends[i], 0);
    }
    loop_settle(loop);
    for (int i = 0; i < count; i++) {
        CHECK_OK(tepal_transport_pause_reading(ends[i].transport));
    }
    const size_t before = resident_bytes();
    for (int i = 0; i < count; i++) {
        fill(peers_of[i]);
    }
    for (int i = 1; i <= messages; i++) {
        end_write(i % 2 == 0 ? &a : &b, i % 2 == 0 ? &b : &a, LENGTH);
        RUN_UNTIL(loop, (i % 2 == 0 ? b.received : a.received) == (uint64_t)(i % 2 == 0 ? i : i + 1) / 2 * LENGTH);
    }
    if (!test_is_slow_build()) {
        CHECK_LT(resident_bytes(), before + RING + (size_t)count * MOST_EACH);
    }
    for (int i = 0; i < count; i++) {
        CHECK_EQ(ends[i].received, 0);
        close(peers_of[i]);
    }
    CHECK_OK(tepal_loop_close(loop));
    for (int i = 0; i < count; i++) {
        end_free(&ends[i]);
    }
    end_free(&a);
    end_free(&b);
    tepal_loop_unref(loop);
    free(ends);
    free(peers_of);
}
