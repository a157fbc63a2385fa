/* Names: a driver's resolve on a driver that is nothing but a pool, and tepal_loop_getaddrinfo() on every driver. */
#include <netdb.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>
#include "driver/resolve.h"
#include "unit/future_fixture.h"
#include "unit/resolver_stub.h"

/* ---- The driver's part ---- */

typedef struct pool {
    tpi_driver driver;
    tpi_offload offload;
    tpi_resolve request;
    int dones;
} pool;

static void count_done(tpi_resolve *request) {
    pool *self = (pool *)((char *)request - offsetof(pool, request));
    self->dones++;
}

static void submit(pool *self, const char *host) {
    memset(self, 0, sizeof *self);
    self->driver.realloc = test_counting_alloc;
    tpi_offload_init(&self->offload, &self->driver, 1);
    memcpy(self->request.host, host, strlen(host));
    self->request.done = count_done;
    CHECK_OK(tpi_resolve_submit(&self->offload, &self->request));
}

TEST(resolve, the_results_are_the_owners) {
    pool self;

    submit(&self, "list.stub");
    while (self.dones == 0) {
        sched_yield();
        tpi_offload_dispatch(&self.offload);
    }
    CHECK_EQ(self.request.code, 0);
    CHECK_EQ(self.request.count, 3);
    test_counting_alloc(self.request.addresses, 0);
    tpi_offload_destroy(&self.offload);
    CHECK_EQ(self.dones, 1);
}

TEST(resolve, a_request_cancelled_while_it_runs_is_told_so_once_the_thread_has_let_go) {
    pool self;

    submit(&self, "slow.stub");
    resolver_stub_wait();
    tpi_resolve_cancel(&self.offload, &self.request);
    tpi_offload_dispatch(&self.offload);
    CHECK_EQ(self.dones, 0);
    resolver_stub_release();
    tpi_offload_destroy(&self.offload);
    CHECK_EQ(self.dones, 1);
    CHECK_EQ(self.request.code, TEPAL_ECANCELED);
    CHECK_EQ(self.request.count, 0);
    CHECK(self.request.addresses == NULL);
}

TEST(resolve, a_request_cancelled_before_it_began_is_told_by_the_next_dispatch) {
    pool self, other;

    submit(&self, "slow.stub");
    resolver_stub_wait();
    other = (pool){.request = {.host = "list.stub", .done = count_done}};
    CHECK_OK(tpi_resolve_submit(&self.offload, &other.request));
    tpi_resolve_cancel(&self.offload, &other.request);
    tpi_offload_dispatch(&self.offload);
    CHECK_EQ(other.dones, 1);
    CHECK_EQ(other.request.code, TEPAL_ECANCELED);
    resolver_stub_release();
    tpi_offload_destroy(&self.offload);
    CHECK_EQ(self.request.code, 0);
    test_counting_alloc(self.request.addresses, 0);
}

/* ---- tepal_loop_getaddrinfo() ---- */

static tepal_future *resolve(fixture *self, const char *host, int family, bool passive) {
    tepal_future *future;
    CHECK_OK(tepal_loop_getaddrinfo(self->loop, host, 80, family, passive, &future));
    CHECK_OK(tepal_loop_run_until_complete(self->loop, future));
    return future;
}

static void check_addresses(tepal_future *future, const char *const *expected, size_t count) {
    void *value;
    char text[TEPAL_ADDRESS_TEXT];

    CHECK_OK(tepal_future_result(future, &value));
    const tepal_addresses *addresses = value;
    CHECK_EQ(addresses->count, count);
    for (size_t i = 0; i < count; i++) {
        CHECK_OK(tepal_address_format(&addresses->address[i], text, sizeof text));
        CHECK_STR(text, expected[i]);
    }
    tepal_future_unref(future);
}

TEST_DRIVERS(resolve, addresses_come_in_the_resolvers_order) {
    fixture self;

    fixture_start(&self, true);
    check_addresses(resolve(&self, "list.stub", 0, false), (const char *[]){"127.0.0.1:80", "[::1]:80", "127.0.0.2:80"},
                    3);
    CHECK_EQ(resolver_stub_flags(), AI_NUMERICSERV); /* not AI_ADDRCONFIG: localhost must resolve without a network */
    check_addresses(resolve(&self, "list.stub", 0, true), (const char *[]){"127.0.0.1:80", "[::1]:80", "127.0.0.2:80"},
                    3);
    CHECK_EQ(resolver_stub_flags(), AI_NUMERICSERV | AI_PASSIVE);
    fixture_end(&self);
}

TEST_DRIVERS(resolve, literals_loopback_and_wildcard_need_no_network) {
    fixture self;

    fixture_start(&self, true);
    check_addresses(resolve(&self, "192.0.2.1", 0, false), (const char *[]){"192.0.2.1:80"}, 1);
    check_addresses(resolve(&self, "2001:db8::1", 0, false), (const char *[]){"[2001:db8::1]:80"}, 1);
    check_addresses(resolve(&self, NULL, AF_INET, false), (const char *[]){"127.0.0.1:80"}, 1);
    check_addresses(resolve(&self, NULL, AF_INET6, true), (const char *[]){"[::]:80"}, 1);
    fixture_end(&self);
}

TEST_DRIVERS(resolve, failures_carry_their_own_domain) {
    fixture self;
    char name[32];
    static const int eais[] = {EAI_NONAME, EAI_AGAIN, EAI_FAIL, EAI_SERVICE};

    fixture_start(&self, true);
    for (size_t i = 0; i < sizeof eais / sizeof *eais; i++) {
        snprintf(name, sizeof name, "eai-%d.stub", eais[i]);
        tepal_future *future = resolve(&self, name, 0, false);
        const int code = tepal_future_result(future, NULL);
        CHECK_EQ(tepal_error_domain(code), TEPAL_DOMAIN_RESOLVER);
        CHECK_EQ(tepal_error_value(code), -eais[i]);
        tepal_future_unref(future);
    }
    snprintf(name, sizeof name, "eai-%d.stub", EAI_MEMORY);
    tepal_future *memory = resolve(&self, name, 0, false);
    CHECK_EQ(tepal_future_result(memory, NULL), TEPAL_ENOMEM);
    tepal_future_unref(memory);
    snprintf(name, sizeof name, "errno-%d.stub", EMFILE);
    tepal_future *system = resolve(&self, name, 0, false);
    CHECK_EQ(tepal_future_result(system, NULL), TEPAL_SYSTEM(EMFILE));
    tepal_future_unref(system);
    fixture_end(&self);
}

TEST_DRIVERS(resolve, malformed_names_are_refused) {
    fixture self;
    char name[65537];
    tepal_future *future = NULL;

    fixture_start(&self, true);
    memset(name, 'a', sizeof name);
    for (size_t length = 254; length < sizeof name; length = length * 2 + 1) {
        name[length] = '\0';
        CHECK_EQ(tepal_loop_getaddrinfo(self.loop, name, 80, 0, false, &future), TEPAL_EINVAL);
        name[length] = 'a';
    }
    CHECK_EQ(tepal_loop_getaddrinfo(self.loop, "", 80, 0, false, &future), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_getaddrinfo(self.loop, "list.stub", 80, AF_UNIX, false, &future), TEPAL_EINVAL);
    CHECK(future == NULL);
    fixture_end(&self);
}

TEST_DRIVERS(resolve, a_request_is_refused_if_memory_is_short_and_leaves_nothing) {
    fixture self;
    tepal_future *future = NULL;

    fixture_start(&self, true);
    const size_t before = test_alloc_live();
    for (size_t n = 1; n <= 2; n++) { /* the future, and the table of threads */
        test_alloc_fail_at(n, false);
        CHECK_EQ(tepal_loop_getaddrinfo(self.loop, "list.stub", 80, 0, false, &future), TEPAL_ENOMEM);
        CHECK(future == NULL);
        CHECK_EQ(test_alloc_live(), before);
    }
    test_alloc_fail_at(0, false);
    tepal_future_unref(resolve(&self, "list.stub", 0, false));
    fixture_end(&self);
}

TEST_DRIVERS(resolve, a_cancelled_request_frees_what_comes_too_late) {
    fixture self;
    tepal_future *future;

    fixture_start(&self, true);
    CHECK_OK(tepal_loop_getaddrinfo(self.loop, "slow.stub", 80, 0, false, &future));
    resolver_stub_wait();
    CHECK(tepal_future_cancel(future));
    CHECK(tepal_future_is_canceled(future));
    tepal_future_unref(future);
    resolver_stub_release();
    fixture_end(&self); /* waits for the thread */
}

TEST_DRIVERS(resolve, a_forked_child_may_close_the_loop_with_a_request_under_way) {
    fixture self;
    tepal_future *future;
    int status;

    fixture_start(&self, true);
    CHECK_OK(tepal_loop_getaddrinfo(self.loop, "slow.stub", 80, 0, false, &future));
    resolver_stub_wait();
    const pid_t pid = fork();
    if (pid == 0) {
        CHECK_OK(tepal_loop_close(self.loop));
        CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECANCELED);
        tepal_future_unref(future);
        fixture_end(&self);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    resolver_stub_release();
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK_OK(tepal_future_result(future, NULL));
    tepal_future_unref(future);
    fixture_end(&self);
}
