/* What `tepal load` prints: a line while it runs, if somebody looks, and the result as text or JSON. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>

#define MIB (1024.0 * 1024.0)

static double seconds(int64_t time_ns) {
    return (double)time_ns / 1e9;
}

static double per_second(const load_run *self) {
    int64_t taken_ns = self->ended_ns - self->began_ns;
    return taken_ns <= 0 ? 0 : (double)self->messages / seconds(taken_ns);
}

static double latency_us(const load_run *self, double part) {
    return (double)histogram_at(&self->latencies, part) / 1e3;
}

uint64_t load_bytes_lost(const load_run *self) {
    uint64_t lost = 0;
    for (uint64_t index = 0; index < self->connections; index++)
        lost += self->flows[index].sent - self->flows[index].echoed + self->flows[index].wrong;
    return lost;
}

void load_show_progress(const load_run *self) {
    int64_t so_far_ns = tepal_loop_time(self->loop) - self->began_ns + 1; /* never 0 */
    if (self->phase == LOAD_OPENING)
        fprintf(stderr, "\r\033[Kopening: %s of %s connections", grouped(self->connected), grouped(self->connections));
    else if (self->phase == LOAD_RUNNING)
        fprintf(stderr, "\r\033[K%.1f s of %.1f s: %s messages/s, %.1f MiB/s, %s connections", seconds(so_far_ns),
                seconds(self->seconds_ns), grouped((uint64_t)((double)self->messages / seconds(so_far_ns))),
                (double)(self->messages * self->size) / MIB / seconds(so_far_ns), grouped(self->alive));
    else
        fprintf(stderr, "\r\033[Kwaiting for the last echoes: %s connections", grouped(self->alive));
    fflush(stderr);
}

void load_clear_progress(void) {
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

/* A string in JSON. What is in it came from a peer or from a command line. */
static void print_json_text(const char *text) {
    putchar('"');
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\' || byte < 0x20 || byte >= 0x7f)
            printf("\\u%04x", byte);
        else
            putchar(byte);
    }
    putchar('"');
}

static void print_json_tls(const load_tls *self) {
    printf(", \"tls_version\": ");
    print_json_text(self->agreed_version);
    printf(", \"tls_cipher\": ");
    print_json_text(self->agreed_cipher);
    printf(", \"tls_alpn\": ");
    if (*self->agreed_protocol == '\0')
        printf("null");
    else
        print_json_text(self->agreed_protocol);
    printf(", \"tls_resumed\": %" PRIu64, self->resumed);
}

static void print_json(const load_run *self) {
    uint64_t sent = 0, received = 0;
    for (uint64_t index = 0; index < self->connections; index++) {
        sent += self->flows[index].sent;
        received += self->flows[index].echoed;
    }
    printf("{\"driver\": \"%s\", \"connections\": %" PRIu64 ", \"size\": %" PRIu64 ", \"depth\": %" PRIu64
           ", \"seconds\": %.6f, ",
           tepal_loop_driver_name(self->loop), self->connections, self->size, self->depth,
           seconds(self->ended_ns - self->began_ns));
    printf("\"messages\": %" PRIu64 ", \"messages_per_second\": %.1f, \"mib_per_second\": %.3f, ", self->messages,
           per_second(self), per_second(self) * (double)self->size / MIB);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ", latency_us(self, 0.5),
           latency_us(self, 0.99), latency_us(self, 0.999), (double)self->latencies.most / 1e3);
    printf("\"cpu_user_us\": %" PRIu64 ", \"cpu_system_us\": %" PRIu64 ", ", self->used.user_us, self->used.system_us);
    printf("\"bytes_sent\": %" PRIu64 ", \"bytes_received\": %" PRIu64 ", \"bytes_lost\": %" PRIu64
           ", \"connections_lost\": %" PRIu64,
           sent, received, load_bytes_lost(self), self->lost);
    if (self->tls.wanted)
        print_json_tls(&self->tls);
    printf("}\n");
}

static void print_text(const load_run *self) {
    printf("driver        %s\n", tepal_loop_driver_name(self->loop));
    printf("connections   %s to %s, %s bytes a message, %s in flight on each\n", grouped(self->connections),
           self->address, grouped(self->size), grouped(self->depth));
    if (self->tls.wanted)
        printf("tls           %s, %s%s%s; %s of %s handshakes resumed\n", self->tls.agreed_version,
               self->tls.agreed_cipher, *self->tls.agreed_protocol == '\0' ? "" : ", ", self->tls.agreed_protocol,
               grouped(self->tls.resumed), grouped(self->tls.handshakes));
    printf("messages      %s in %.2f s\n", grouped(self->messages), seconds(self->ended_ns - self->began_ns));
    printf("messages/s    %s\n", grouped((uint64_t)per_second(self)));
    printf("MiB/s         %.2f each way\n", per_second(self) * (double)self->size / MIB);
    printf("latency       p50 %.0f us, p99 %.0f us, p99.9 %.0f us, most %.0f us\n", latency_us(self, 0.5),
           latency_us(self, 0.99), latency_us(self, 0.999), (double)self->latencies.most / 1e3);
    printf("bytes lost    %s\n", grouped(load_bytes_lost(self)));
    if (self->lost > 0)
        printf("connections lost %s\n", grouped(self->lost));
}

void load_report(const load_run *self) {
    if (self->json)
        print_json(self);
    else
        print_text(self);
    fflush(stdout);
}
