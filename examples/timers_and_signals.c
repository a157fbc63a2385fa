/* Timers and signals: a beat that keeps its rhythm however late each callback is, a callback that is cancelled before
 * it is due, and a signal that stops both.
 *
 *     timers_and_signals [BEATS]          (0: until Ctrl-C)
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <tepal.h>

#define BEAT_NS TEPAL_MS(50)

typedef struct metronome {
    tepal_loop *loop;
    tepal_timer timer; /* embedded: starting it again never allocates and cannot fail on an open loop */
    int64_t next_ns;
    long beats, wanted;
} metronome;

/* The next beat counts from when this one was due, not from when it ran, so lateness does not add up. */
static void beat(tepal_work *work, int status) {
    metronome *self = (metronome *)((char *)work - offsetof(metronome, timer.work));
    if (status < 0) /* the loop is being closed */
        return;
    self->beats++;
    printf("beat %ld, %lld us late\n", self->beats, (long long)(tepal_loop_time(self->loop) - self->next_ns) / 1000);
    fflush(stdout);
    if (self->beats == self->wanted) {
        tepal_loop_stop(self->loop);
        return;
    }
    self->next_ns += BEAT_NS;
    tepal_timer_start(self->loop, &self->timer, self->next_ns);
}

/* Runs on the loop, in its thread, like any other callback: everything is allowed here. */
static void interrupted(int signal, void *argument) {
    metronome *self = argument;
    printf("signal %d after %ld beats\n", signal, self->beats);
    tepal_timer_stop(self->loop, &self->timer);
    tepal_loop_stop(self->loop);
}

static void say(void *text) {
    printf("%s\n", (const char *)text);
}

static int run(metronome *self) {
    tepal_handle handle = {0, 0}; /* names nothing yet: cancelling it would do nothing */
    int code = tepal_loop_add_signal(self->loop, SIGINT, interrupted, self);
    if (code == 0)
        code = tepal_loop_add_signal(self->loop, SIGTERM, interrupted, self);
    if (code == 0)
        code = tepal_loop_call_soon(self->loop, say, "first of all", NULL);
    if (code == 0)
        code = tepal_loop_call_later(self->loop, TEPAL_MS(10), say, "this is never said", &handle);
    if (code < 0)
        return code;
    tepal_loop_cancel(self->loop, handle);
    self->timer.work.run = beat;
    self->next_ns = tepal_loop_time(self->loop) + BEAT_NS;
    tepal_timer_start(self->loop, &self->timer, self->next_ns);
    return tepal_loop_run_forever(self->loop);
}

int main(int argc, char **argv) {
    metronome self = {.wanted = argc > 1 ? atol(argv[1]) : 5};
    int code = tepal_loop_new(&self.loop, NULL);
    if (code == 0)
        code = run(&self);
    if (code < 0)
        fprintf(stderr, "timers_and_signals: %s\n", tepal_strerror(code));
    tepal_loop_unref(self.loop);
    return code < 0;
}
