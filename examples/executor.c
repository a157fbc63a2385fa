/* Blocking work on threads: counts the primes below some numbers at once, while the loop goes on (it prints a dot ten
 * times a second), and gathers the results in order.
 *
 *     executor NUMBER...
 */
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

enum { NUMBERS_MAX = 16 };

typedef struct program {
    tepal_loop *loop;
    tepal_handle dots;
} program;

/* On one of the executor's threads: it shares nothing with the loop but its argument, and returns its value. */
static int count_primes(void *argument, void **value) {
    long limit = atol(argument);
    long *count = calloc(1, sizeof *count);
    if (count == NULL)
        return TEPAL_ENOMEM;
    if (limit < 0) {
        free(count);
        return TEPAL_EINVAL;
    }
    for (long number = 2; number < limit; number++) {
        long divisor = 2;
        while (divisor * divisor <= number && number % divisor != 0)
            divisor++;
        *count += divisor * divisor > number;
    }
    *value = count;
    return 0;
}

static void dot(void *argument) {
    program *self = argument;
    fputc('.', stderr);
    tepal_loop_call_later(self->loop, TEPAL_MS(100), dot, self, &self->dots);
}

static void print_results(char **numbers, tepal_future *const *results, int count) {
    for (int index = 0; index < count; index++) {
        void *value;
        int code = tepal_future_result(results[index], &value);
        if (code < 0)
            printf("%s: %s\n", numbers[index], tepal_strerror(code));
        else
            printf("%ld primes below %s\n", *(long *)value, numbers[index]);
    }
}

/* Start all, wait for all. Each future owns its value and frees it. */
static int run(program *self, char **numbers, int count) {
    tepal_future *results[NUMBERS_MAX], *all;
    int started = 0, code = 0;
    while (started < count && code == 0) {
        code = tepal_loop_run_in_executor(self->loop, count_primes, numbers[started], free, &results[started]);
        if (code == 0)
            started++;
    }
    if (code == 0)
        code = tepal_future_gather(self->loop, results, (size_t)count, &all);
    if (code == 0) {
        dot(self);
        code = tepal_loop_run_until_complete(self->loop, all);
        tepal_loop_cancel(self->loop, self->dots);
        fputc('\n', stderr);
        if (code == 0 && (code = tepal_future_result(all, NULL)) == 0)
            print_results(numbers, results, count);
        tepal_future_unref(all);
    }
    while (started > 0)
        tepal_future_unref(results[--started]);
    return code;
}

int main(int argc, char **argv) {
    program self = {.loop = NULL};
    if (argc < 2 || argc - 1 > NUMBERS_MAX) {
        fprintf(stderr, "usage: executor NUMBER... (%d at most)\n", NUMBERS_MAX);
        return 2;
    }
    int code = tepal_loop_new(&self.loop, TEPAL_OPTIONS(tepal_loop_options, .executor_threads = 8));
    if (code == 0)
        code = run(&self, argv + 1, argc - 1);
    if (code < 0)
        fprintf(stderr, "executor: %s\n", tepal_strerror(code));
    tepal_loop_unref(self.loop); /* waits for work that still runs */
    return code < 0;
}
