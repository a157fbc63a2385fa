/*
 * Reports to the exception handler, and the checks of debug mode: the thread, slow callbacks, broken invariants.
 * Nothing here aborts: a handler may, and without one everything is counted.
 */
#include "loop/loop.h"
#include <dlfcn.h>
#include <stdio.h>

void tepal_loop_set_exception_handler(tepal_loop *loop,
                                      void (*report)(tepal_loop *loop, const char *what, const tepal_error *error,
                                                     void *argument),
                                      void *argument) {
    loop->report = report;
    loop->report_argument = argument;
}

void tepal_loop_call_exception_handler(tepal_loop *loop, const char *what, const tepal_error *error) {
    loop->stats.reported++;
    if (loop->report != NULL) {
        loop->report(loop, what, error, loop->report_argument);
    }
}

void tpi_report(tepal_loop *loop, const char *what, int code) {
    tepal_error error = {.code = code, .text = tepal_strerror(code)};
    tepal_loop_call_exception_handler(loop, what, &error);
}

void tpi_invariant(tepal_loop *loop, int number, const char *what) {
    static const char *const names[] = {"",          "lifecycle",  "inbound", "outbound", "back-pressure",
                                        "ownership", "scheduling", "liveness"};
    char text[256];
    snprintf(text, sizeof text, "invariant %d (%s) does not hold: %s", number, names[number], what);
    tepal_error error = {.code = TEPAL_EINVARIANT, .text = text};
    loop->stats.invariants++;
    loop->broken = what;
    loop->broken_number = number;
    tepal_loop_call_exception_handler(loop, "a broken invariant", &error);
}

int tpi_loop_check_slow(const tepal_loop *loop) {
    if (loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    uintptr_t runner = atomic_load(&loop->runner);
    if (runner != 0 && runner != tpi_this_thread()) {
        tpi_report((tepal_loop *)(uintptr_t)loop, "a call from a thread that does not run the loop", TEPAL_ETHREAD);
        return TEPAL_ETHREAD;
    }
    return 0;
}

int64_t tpi_debug_begin(tepal_loop *loop) {
    loop->place = NULL;
    loop->function = 0;
    return loop->slow_callback_ns < 0 ? 0 : tepal_loop_time(loop);
}

/* An address in the program: "name+0x10 (file)", or without a name for a static function; addr2line(1) reads both. */
static void describe_place(const void *place, char *text, size_t size) {
    Dl_info info;
    if (dladdr(place, &info) == 0 || info.dli_fname == NULL) {
        snprintf(text, size, "at %p", place);
    } else if (info.dli_sname != NULL) {
        snprintf(text, size, "at %s+0x%zx (%s)", info.dli_sname,
                 (size_t)((const char *)place - (const char *)info.dli_saddr), info.dli_fname);
    } else {
        snprintf(text, size, "at %s+0x%zx", info.dli_fname,
                 (size_t)((const char *)place - (const char *)info.dli_fbase));
    }
}

void tpi_debug_end(tepal_loop *loop, int64_t began_ns, const char *what) {
    if (loop->slow_callback_ns < 0 || loop->phase != TPI_PHASE_OPEN) {
        return;
    }
    int64_t took_ns = tepal_loop_time(loop) - began_ns;
    if (took_ns <= loop->slow_callback_ns) {
        return;
    }
    char place[384] = "", text[512];
    const char *before = "";
    if (loop->place != NULL) {
        before = "; it was scheduled ";
        describe_place(loop->place, place, sizeof place);
    } else if (loop->function != 0) {
        before = "; its function is ";
        describe_place((const void *)loop->function, place, sizeof place);
    }
    snprintf(text, sizeof text, "%s took %lld.%03d ms%s%s", what, (long long)(took_ns / 1000000),
             (int)(took_ns / 1000 % 1000), before, place);
    tepal_error error = {.code = TEPAL_ESLOW, .text = text};
    loop->stats.slow++;
    tepal_loop_call_exception_handler(loop, "a slow callback", &error);
}
