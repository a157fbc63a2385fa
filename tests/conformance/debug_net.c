/* Debug mode, above the loop: everything that is for the loop's thread says so to another one, and does nothing. */
#include "conformance/shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct everything {
    script *first, *second; /* two connections */
    shim *filter;           /* on the first */
    tepal_server *server;
    tepal_producer producer;
    tepal_watch watch; /* started */
    int reports;
} everything;

static void count_reports(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)what;
    CHECK_EQ(error->code, TEPAL_ETHREAD);
    ((everything *)argument)->reports++;
}

static void never_ready(tepal_watch *watch, unsigned events) {
    (void)watch;
    (void)events;
    test_fail(__FILE__, __LINE__, "nothing was written");
}

static void do_nothing(tepal_producer *producer) {
    (void)producer;
}

static void never_released(void *argument, int status) {
    (void)argument;
    (void)status;
    test_fail(__FILE__, __LINE__, "it was refused");
}

static int never_called(void *argument, tepal_protocol **protocol) {
    (void)argument;
    (void)protocol;
    test_fail(__FILE__, __LINE__, "it was refused");
    return TEPAL_EINVAL;
}

static int never_works(void *argument, void **value) {
    (void)argument;
    (void)value;
    test_fail(__FILE__, __LINE__, "it was refused");
    return 0;
}

static void use_transport(everything *self) {
    tepal_transport *transport = self->first->transport;
    tepal_protocol *protocol = &self->first->protocol;
    const struct iovec piece = {.iov_base = "x", .iov_len = 1};
    tepal_filter another = {.type = &shim_type};
    tepal_address address;
    tepal_future *future;

    CHECK_EQ(tepal_transport_write(transport, "x", 1), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_writev(transport, &piece, 1), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_write_owned(transport, &piece, 1, never_released, NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_flush(transport), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_drain(transport, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_write_eof(transport), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_pause_reading(transport), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_resume_reading(transport), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_set_write_limits(transport, 2, 1, 3), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_set_protocol(transport, protocol, NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_peer(transport, &address), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_local(transport, &address), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_set_no_delay(transport, true), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_set_keep_alive(transport, true, 1, 1, 1), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_push_filter(transport, &another, NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_pop_filter(transport, &self->filter->filter), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_register_producer(transport, &self->producer, true), TEPAL_ETHREAD);
    CHECK_EQ(tepal_transport_unregister_producer(transport), TEPAL_ETHREAD);
    CHECK_EQ(tepal_pipe(transport, self->second->transport, NULL, &future), TEPAL_ETHREAD);
    tepal_transport_close(transport);
    tepal_transport_abort(transport, TEPAL_EMSGSIZE);
    CHECK(!tepal_transport_is_closing(transport));
}

static void use_loop(everything *self) {
    tepal_loop *loop = self->first->loop;
    const tepal_server_options everywhere = {.size = sizeof everywhere};
    const tepal_connect_options nowhere = {.size = sizeof nowhere, .host = "127.0.0.1", .port = 1};
    tepal_server *server;
    tepal_future *future;

    CHECK_EQ(tepal_watch_stop(loop, &self->watch), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_adopt(loop, 0, &self->first->protocol, NULL, NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_create_connection(loop, never_called, NULL, &nowhere, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_create_server(loop, never_called, NULL, &everywhere, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_listen(loop, never_called, NULL, &everywhere, &server), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_getaddrinfo(loop, "127.0.0.1", 1, 0, false, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_run_in_executor(loop, never_works, NULL, NULL, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_future_new(loop, &future), TEPAL_ETHREAD);
    CHECK_EQ(tepal_server_start_serving(self->server), TEPAL_ETHREAD);
    CHECK_EQ(tepal_server_wait_closed(self->server, &future), TEPAL_ETHREAD);
}

static void *use_everything(void *argument) {
    use_transport(argument);
    use_loop(argument);
    return NULL;
}

static void start_thread(void *argument) {
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, use_everything, argument), 0);
    pthread_join(thread, NULL);
}

TEST_DRIVERS(debug, everything_that_is_for_the_loops_thread_tells_another_one_so) {
    static const char *const hosts[] = {"127.0.0.1"};
    const tepal_server_options options = {
        .size = sizeof options, .hosts = hosts, .host_count = 1, .do_not_start = true};
    script first = {0}, second = {0};
    everything self = {.first = &first, .second = &second};
    int fds[2];

    script_open(&first, SCRIPT_TCP);
    second.loop = tepal_loop_ref(first.loop);
    script_open(&second, SCRIPT_TCP);
    self.filter = shim_push(&first, 0);
    self.producer =
        (tepal_producer){.size = sizeof self.producer, .resume = do_nothing, .pause = do_nothing, .stop = do_nothing};
    CHECK_OK(tepal_loop_listen(first.loop, never_called, NULL, &options, &self.server));
    test_socketpair(fds);
    self.watch = (tepal_watch){.fd = fds[0], .ready = never_ready};
    CHECK_OK(tepal_watch_start(first.loop, &self.watch, TEPAL_READABLE));

    tepal_loop_set_exception_handler(first.loop, count_reports, &self);
    CHECK_OK(tepal_loop_call_soon(first.loop, start_thread, &self, NULL));
    CHECK_OK(tepal_loop_step(first.loop, -1));
    CHECK_GE(self.reports, 30);

    const int reports = self.reports;
    shim_check_both_ways(&first, 1000, 0); /* nothing was changed */
    CHECK_EQ(self.reports, reports);
    tepal_server_close(self.server);
    tepal_server_unref(self.server);
    script_close(&first);
    script_close(&second);
    free(self.filter);
    close(fds[0]);
    close(fds[1]);
}
