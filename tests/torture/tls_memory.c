/*
 * Every allocation of the engine's own fails in turn, in making contexts, in handshakes, in what follows and in the end: each
 * connection comes to an end that is told once, and nothing crashes. The engine's memory is libc's, not the loop's, so
 * allocations.h knows nothing of it.
 */
#include "conformance/tls_pair.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- The engine's memory ---- */

static size_t calls, fail_at;
static bool fails_onwards, has_failed;

static bool must_fail(void) {
    calls++;
    if (fail_at != 0 && (calls == fail_at || (fails_onwards && calls > fail_at))) {
        has_failed = true;
        return true;
    }
    return false;
}

static void *engine_malloc(size_t size, const char *file, int at) {
    (void)file;
    (void)at;
    return must_fail() ? NULL : malloc(size);
}

static void *engine_realloc(void *memory, size_t size, const char *file, int at) {
    (void)file;
    (void)at;
    if (size == 0) {
        free(memory);
        return NULL;
    }
    return must_fail() ? NULL : realloc(memory, size);
}

static void engine_free(void *memory, const char *file, int at) {
    (void)file;
    (void)at;
    free(memory);
}

static void arm(size_t n, bool onwards) {
    calls = 0;
    fail_at = n;
    fails_onwards = onwards;
    has_failed = false;
}

static void take_over(void) {
    if (CRYPTO_set_mem_functions(engine_malloc, engine_realloc, engine_free) != 1) {
        SKIP("the engine has taken memory before the test began");
    }
}

/* How far from one allocation to the next that fails: a prime, so that none is always passed by. */
static size_t step(size_t normal) {
    return test_rounds(1, 0) == 1 ? 1 : test_is_slow_build() ? 11 * normal + 2 : normal;
}

/* ---- Contexts ---- */

static bool try_context(size_t n, bool onwards, bool server) {
    tepal_tls_context_options options = tls_usual_options(server, 0);
    tepal_tls_context *made = NULL;
    char why[100] = "";

    options.clients = server ? TEPAL_TLS_CLIENTS_MAY : TEPAL_TLS_CLIENTS_ANY;
    arm(n, onwards);
    const int code = tepal_tls_context_new(&made, &options, why, sizeof why);
    const bool was_hit = has_failed;
    arm(0, false);
    if (code < 0) {
        CHECK(was_hit);
        CHECK(made == NULL);
        CHECK(why[0] != '\0');
    } else {
        CHECK_OK(code);
        tepal_tls_context_unref(made);
    }
    return was_hit;
}

TEST(tls_memory, a_context_is_made_or_not) {
    take_over();
    test_set_timeout(60);
    for (int server = 0; server < 2; server++) {
        (void)try_context(0, false, server); /* what the engine takes once */
        for (int onwards = 0; onwards < 2; onwards++) {
            size_t n = 1;
            while (try_context(n, onwards, server)) {
                n += step(1);
                CHECK_LT(n, 100000);
            }
            CHECK_GT(n, 100);
        }
    }
}

/* ---- Connections ---- */

static tepal_tls_context *contexts[2];

static bool start(tls_pair *self, bool server, int fd) {
    tls_end *const own = tls_side(self, server);
    const tepal_tls_options tls = {
        .size = sizeof tls, .context = contexts[server], .server_name = server ? NULL : "localhost"};

    own->protocol.type = &tls_end_type;
    own->pair = self;
    own->peer = tls_side(self, !server);
    own->seed = server;
    if (tepal_loop_create_connection(self->loop, tls_factory, own,
                                     TEPAL_OPTIONS(tepal_connect_options, .fd = &fd, .tls = &tls), &own->future) < 0) {
        close(fd);
        own->future = NULL;
        return false;
    }
    return true;
}

static bool is_done(const tls_end *self) {
    return self->future == NULL || tepal_future_is_done(self->future);
}

static void write_and_change(tls_end *self) {
    if (self->made == 0 || tepal_transport_is_closing(self->transport)) {
        return;
    }
    uint8_t data[3000];
    stream_fill(self->seed, self->sent, data, sizeof data);
    self->sent += tepal_transport_write(self->transport, data, sizeof data) == 0 ? sizeof data : 0;
    (void)tepal_transport_flush(self->transport);
    (void)tepal_transport_tls_update_keys(self->transport);
}

static bool try_connection(size_t n, bool onwards) {
    tls_pair self = {.way = TLS_OVER_UNIX, .loop = plumbing_loop()};
    int fds[2];

    test_socketpair(fds);
    arm(n, onwards);
    (void)start(&self, false, fds[0]);
    (void)start(&self, true, fds[1]);
    TLS_UNTIL(&self, is_done(&self.client) && is_done(&self.server));
    tls_settle(&self);
    write_and_change(&self.client);
    write_and_change(&self.server);
    tls_settle(&self);
    for (int server = 0; server < 2; server++) {
        tls_end *const each = tls_side(&self, server);
        if (each->made > each->losts) {
            tepal_transport_close(each->transport);
        }
    }
    TLS_UNTIL(&self, self.client.made == self.client.losts && self.server.made == self.server.losts);
    const bool was_hit = has_failed;
    arm(0, false);
    if (!was_hit) {
        CHECK_EQ(self.client.made + self.server.made, 2);
        CHECK_EQ(self.client.lost_code | self.server.lost_code, 0);
        CHECK_EQ(self.client.received + self.server.received, 6000);
    }
    tls_close(&self);
    return was_hit;
}

static void fail_connections(tepal_tls_version version, bool onwards) {
    take_over();
    test_set_timeout(120);
    for (int server = 0; server < 2; server++) {
        tepal_tls_context_options options = tls_usual_options(server, version);
        options.no_resumption = true;
        contexts[server] = tls_context(&options);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(!try_connection(0, false)); /* what the engine takes once */
    }
    size_t n = 1;
    while (try_connection(n, onwards)) {
        n += step(onwards ? 53 : 17);
        CHECK_LT(n, 1000000);
    }
    CHECK_GT(n, 500);
    for (int server = 0; server < 2; server++) {
        tepal_tls_context_unref(contexts[server]);
    }
}

TEST(tls_memory, a_connection_of_1_3_goes_on_or_ends) {
    fail_connections(TEPAL_TLS_1_3, false);
}

TEST(tls_memory, a_connection_of_1_2_goes_on_or_ends) {
    fail_connections(TEPAL_TLS_1_2, false);
}

TEST(tls_memory, connections_end_when_there_is_no_memory_any_more) {
    fail_connections(TEPAL_TLS_1_3, true);
}
