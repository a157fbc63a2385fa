/* The table of drivers. A new driver gets the whole conformance suite by one line here. */
#include "harness/internal.h"

const char *const test_driver_table[] = {
    "epoll", "poll", "sim", /* plain sockets of the tests are simulated there, too: tests/conformance/sim_kernel.h */
    "late",                 /* tests/conformance/late_driver.c */
    NULL,
};

#define NO_WATCHES "the simulator watches no descriptors"
#define NO_THREADS "the simulator runs blocking work in the loop's thread"
#define NO_FILES "the simulator's Unix sockets have no files"
#define NO_KERNEL "it is about what a kernel does, or about its clock"
#define NO_RESOLVER "the resolver that the test replaces is not the simulator's"
#define NO_WORLD "the simulated sockets of a loop go with it"

const test_lack test_lacks[] = {
    {"sim", "accept/a_server_closed_while_descriptors", NO_KERNEL},
    {"sim", "accept/an_error_of_the_system", NO_KERNEL},
    {"sim", "accept/asks_once_per_retry", NO_KERNEL},
    {"sim", "accept/does_not_spin_while", NO_KERNEL},
    {"sim", "accept/without_a_hook", NO_KERNEL},
    {"sim", "adopt/a_borrowed_descriptor_is_given_back_when_the_loop", NO_WORLD},
    {"sim", "adopt/only_a_connected_stream", NO_KERNEL},
    {"sim", "closing/lingering_ends_after_its_time", NO_KERNEL},
    {"sim", "connect/a_resolvers_failure", NO_RESOLVER},
    {"sim", "connect/an_error_names_its_address", NO_RESOLVER},
    {"sim", "connect/can_be_cancelled_at_every_moment", NO_RESOLVER},
    {"sim", "connect/fails_once_when_the_loop_closes", NO_RESOLVER},
    {"sim", "connect/goes_on_whatever_a_forked_child", NO_RESOLVER},
    {"sim", "connect/the_limit_covers_a_peer", NO_KERNEL},
    {"sim", "connect/the_limit_covers_a_resolver", NO_RESOLVER},
    {"sim", "create_server/an_error_names_the_address", NO_FILES},
    {"sim", "create_server/can_be_cancelled", NO_RESOLVER},
    {"sim", "create_server/fails_once_when_the_loop_closes", NO_RESOLVER},
    {"sim", "create_server/keeps_its_own_copy", NO_WORLD},
    {"sim", "debug/a_slow_callback", NO_KERNEL},
    {"sim", "debug/slow_works", NO_KERNEL},
    {"sim", "driver_socket/a_descriptor_has_one_object", NO_WATCHES},
    {"sim", "driver_socket/a_listener_out_of_descriptors", NO_KERNEL},
    {"sim", "driver_socket/an_event_of_a_closed_object", NO_KERNEL},
    {"sim", "driver_socket/an_event_on_its_way_does_not", NO_WATCHES},
    {"sim", "driver_stream/bytes_behind_urgent_data", NO_KERNEL},
    {"sim", "driver_wait/a_paused_stream_does_not_spin", NO_KERNEL},
    {"sim", "driver_wait/a_watched_number", NO_WATCHES},
    {"sim", "driver_wait/an_idle_stream", NO_KERNEL},
    {"sim", "driver_wait/each_visits_what_is_open", NO_WATCHES},
    {"sim", "driver_wait/its_own_descriptors", NO_WATCHES},
    {"sim", "driver_wait/random_bytes", NO_KERNEL},
    {"sim", "executor/a_forked_child", NO_THREADS},
    {"sim", "executor/closing_the_loop_waits", NO_THREADS},
    {"sim", "executor/each_allocation", NO_THREADS},
    {"sim", "executor/work_cancelled", NO_THREADS},
    {"sim", "executor/work_runs_on_a_thread", NO_THREADS},
    {"sim", "executor/work_under_way", NO_THREADS},
    {"sim", "foreign/", "the simulator has no descriptor to wait on"},
    {"sim", "fork/", NO_WATCHES},
    {"sim", "kernel/an_echo_costs", NO_KERNEL},
    {"sim", "loop_faults/a_child_that_cannot", NO_WATCHES},
    {"sim", "loop_faults/a_wait_that_fails", NO_KERNEL},
    {"sim", "loop_faults/no_descriptors", NO_KERNEL},
    {"sim", "loop_faults/no_memory_for_watches", NO_WATCHES},
    {"sim", "loop_hooks/a_code_of_after_wait", NO_WATCHES},
    {"sim", "loop_interrupt/a_reader", NO_WATCHES},
    {"sim", "loop_interrupt/io_goes_on", NO_WATCHES},
    {"sim", "loop_order/a_callback_that_reschedules", NO_WATCHES},
    {"sim", "loop_order/a_turn_runs", NO_WATCHES},
    {"sim", "loop_order/drain_", NO_WATCHES},
    {"sim", "loop_order/snapshot_", NO_WATCHES},
    {"sim", "loop_order/the_default", NO_WATCHES},
    {"sim", "loop_order/what_io_schedules", NO_WATCHES},
    {"sim", "loop_run/its_clock", NO_KERNEL},
    {"sim", "loop_timers/neither_works", NO_WATCHES},
    {"sim", "loop_timers/one_that_rearms", NO_WATCHES},
    {"sim", "resolve/a_cancelled_request", NO_RESOLVER},
    {"sim", "resolve/addresses_come", NO_RESOLVER},
    {"sim", "resolve/failures_carry", NO_RESOLVER},
    {"sim", "server/a_forked_child_that_closes", NO_FILES},
    {"sim", "server/borrowed_sockets", NO_WORLD},
    {"sim", "server/is_made_whole", NO_FILES},
    {"sim", "server/refuses_options", NO_KERNEL},
    {"sim", "threads/ten_thousand_posts", NO_KERNEL},
    {"sim", "unix_sockets/", NO_FILES},
    {"sim", "watches/", NO_WATCHES},
    {"sim", "write/what_callbacks_timers", NO_WATCHES},
    {"sim", "write/what_is_written_before_the_loop_closes", NO_WORLD},
    {NULL, NULL, NULL},
};
