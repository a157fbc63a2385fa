/*
 * Failing allocations in a simulated network: of the network's own memory and of its hosts', in one numbering. It may
 * fail whole, and every run of it with TEPAL_ENOMEM; but nothing leaks, and what was made is lost.
 */
#include "torture/allocations.h"

#include <stdlib.h>

enum { PORT = 80, BYTES = 50000 };

typedef struct visitor {
    tepal_protocol protocol; /* first */
    tepal_transport *transport;
    struct visitor *next;
    int made, lost;
    bool asks;
} visitor;

static visitor *visitors;

static int visitor_made(tepal_protocol *protocol, tepal_transport *transport) {
    static const char data[BYTES];
    visitor *self = (visitor *)protocol;
    self->made++;
    self->transport = transport;
    if (!self->asks) {
        return 0;
    }
    const int code = tepal_transport_write(transport, data, sizeof data);
    return code < 0 ? code : tepal_transport_write_eof(transport);
}

static int visitor_data(tepal_protocol *protocol, const void *data, size_t length) {
    visitor *self = (visitor *)protocol;
    return self->asks ? 0 : tepal_transport_write(self->transport, data, length);
}

static void visitor_lost(tepal_protocol *protocol, const tepal_error *error) {
    (void)error;
    ((visitor *)protocol)->lost++;
}

static const tepal_protocol_type visitor_type = {.size = sizeof visitor_type,
                                                 .connection_made = visitor_made,
                                                 .data_received = visitor_data,
                                                 .connection_lost = visitor_lost};

/* argument: not NULL for who asks. */
static int visitor_factory(void *argument, tepal_protocol **protocol) {
    visitor *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    *made = (visitor){.protocol.type = &visitor_type, .next = visitors, .asks = argument != NULL};
    visitors = made;
    *protocol = &made->protocol;
    return 0;
}

static bool worked(int code) {
    CHECK(code >= 0 || (code == TEPAL_ENOMEM && test_alloc_has_failed()));
    return code >= 0;
}

static bool may_go_on(int code) {
    return code >= 0 || test_alloc_has_failed();
}

static void talk(tepal_sim *sim, tepal_loop *client, tepal_loop *server, int family) {
    tepal_server *listener;
    tepal_future *future;
    tepal_address address;
    tepal_sim_stats stats = {.size = sizeof stats};
    int fds[2];
    if (!worked(tepal_loop_listen(server, visitor_factory, NULL, TEPAL_OPTIONS(tepal_server_options, .port = PORT),
                                  &listener))) {
        return;
    }
    CHECK_OK(tepal_sim_address(sim, "server", family, PORT, &address));
    if (worked(tepal_loop_create_connection(client, visitor_factory, sim,
                                            TEPAL_OPTIONS(tepal_connect_options, .host = "server", .port = PORT),
                                            &future))) {
        const int code = tepal_sim_run(sim, TEPAL_SEC(300));
        CHECK(may_go_on(code));
        CHECK(code != TEPAL_EINVARIANT);
        CHECK((code < 0) == (tepal_sim_failure(sim) != NULL));
        tepal_future_unref(future);
    }
    CHECK_OK(tepal_sim_get_stats(sim, &stats));
    CHECK(tepal_sim_time(sim) > 0 || test_alloc_has_failed());
    if (worked(tepal_sim_socketpair(client, AF_UNIX, fds))) {
        CHECK_OK(tepal_sim_close_fd(client, fds[0]));
        CHECK_OK(tepal_sim_close_fd(client, fds[1]));
    }
    tepal_server_unref(listener);
}

static int one_network(tepal_sim *sim, void *argument) {
    static const tepal_loop_options options = {.size = sizeof options, .realloc = test_counting_alloc};
    tepal_loop *server, *client;
    if (!worked(tepal_sim_add_host(sim, "server", &options, &server)) ||
        !worked(tepal_sim_add_host(sim, "client", &options, &client)) || !worked(tepal_sim_fault(sim, argument))) {
        return 0;
    }
    talk(sim, client, server, tepal_sim_random(sim) % 2 == 0 ? AF_INET : AF_INET6);
    return 0;
}

static void run_network(void *script) {
    static const tepal_sim_options options = {.size = sizeof options, .realloc = test_counting_alloc};
    tepal_sim *sim;
    uint64_t failed;
    if (worked(tepal_sim_new(&sim, &options))) {
        CHECK_EQ(tepal_sim_seed(sim), 1);
        CHECK_OK(one_network(sim, script));
        tepal_sim_free(sim);
    }
    (void)may_go_on(tepal_sim_search(&options, 2, 1, one_network, script, &failed));
    while (visitors != NULL) {
        visitor *next = visitors->next;
        CHECK_EQ(visitors->made, visitors->lost);
        free(visitors);
        visitors = next;
    }
    CHECK_EQ(test_alloc_live(), 0);
}

static void fail_in_turn(char *script, bool onwards) {
    test_set_timeout(60);
    test_alloc_fail_at(0, false);
    run_network(script);
    for (size_t n = 1;; n++) {
        test_alloc_fail_at(n, onwards);
        run_network(script);
        if (!test_alloc_has_failed()) {
            CHECK_GT(n, 100);
            return;
        }
    }
}

static char plain[] = "", rough[] = "rate split 0.5; rate short 0.5; rate late 0.5; rate delay 0.1; "
                                    "at 1ms partition client server; at 30s calm";

TEST(allocations, a_simulated_network_talks_or_fails) {
    fail_in_turn(plain, false);
}

TEST(allocations, a_simulated_network_talks_or_fails_for_good) {
    fail_in_turn(plain, true);
}

TEST(allocations, a_rough_simulated_network_talks_or_fails) {
    fail_in_turn(rough, false);
}

TEST(allocations, a_rough_simulated_network_talks_or_fails_for_good) {
    fail_in_turn(rough, true);
}
