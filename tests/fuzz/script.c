/*
 * Fault scripts of the simulator: any text is a script or is refused. What is refused does nothing and says where;
 * what is not may be carried out at any time, and leaves a network that still comes to its end.
 */
#include "fuzz/support/fuzz.h"
#include <tepal.h>

#include <stdlib.h>

enum { PORT = 7000 };

/* One for all connections, of which nobody is told anything. */
static const tepal_protocol_type silent_type = {.size = sizeof silent_type};
static tepal_protocol silent = {.type = &silent_type};

static int silent_factory(void *argument, tepal_protocol **protocol) {
    (void)argument;
    *protocol = &silent;
    return 0;
}

static tepal_sim_stats stats_of(const tepal_sim *sim) {
    tepal_sim_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_sim_get_stats(sim, &stats));
    return stats;
}

static void send_something(tepal_future *future, void *argument) {
    tepal_transport *transport;
    (void)argument;
    if (tepal_connection_result(future, &transport, NULL) == 0) {
        for (int i = 0; i < 3; i++) {
            CHECK_OK(tepal_transport_write(transport, "something", 9));
        }
    }
}

static void connect_to(tepal_loop *loop, const char *host) {
    tepal_future *future;
    const int code = tepal_loop_create_connection(
        loop, silent_factory, NULL, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = PORT), &future);
    CHECK_OK(code);
    CHECK_OK(tepal_future_add_done_callback(future, send_something, NULL));
    tepal_future_unref(future);
}

static void try_script(const char *text) {
    tepal_sim *sim;
    tepal_loop *a, *b;
    tepal_server *server;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = 3, .realloc = test_counting_alloc)));
    CHECK_OK(tepal_sim_add_host(sim, "a", TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), &a));
    CHECK_OK(tepal_sim_add_host(sim, "b.c-d_2", TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), &b));
    CHECK_OK(tepal_loop_listen(a, silent_factory, NULL, TEPAL_OPTIONS(tepal_server_options, .port = PORT), &server));
    connect_to(b, "a");
    connect_to(a, "localhost");
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(20)), 1);
    const tepal_sim_stats before = stats_of(sim);
    const int code = tepal_sim_fault(sim, text);
    if (code < 0) {
        const tepal_sim_stats after = stats_of(sim);
        CHECK_EQ(code, TEPAL_EINVAL);
        CHECK(strstr(tepal_sim_failure(sim), "is not understood") != NULL);
        CHECK_EQ(after.faults, before.faults);
        CHECK_EQ(after.hash, before.hash);
    }
    connect_to(b, "a");
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1)), 1);
    CHECK_OK(tepal_sim_fault(sim, "calm"));
    const int end = tepal_sim_run(sim, -1);
    if (end != 0) {
        test_fail(__FILE__, __LINE__, "%s", tepal_sim_failure(sim));
    }
    tepal_server_unref(server);
    tepal_sim_free(sim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1); /* of its own, so that a byte too many is seen */
    CHECK(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    try_script(text);
    free(text);
    CHECK_EQ(test_alloc_live(), 0);
    return 0;
}
