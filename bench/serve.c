/* The command line, the port announcement and the exit report shared by the echo servers (see serve.h). */
#include "serve.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char usage[] = "usage: %s [--port N] [--split N | --split-bufs N]\n"
                            "  --port N        listen on 127.0.0.1:N; 0, the default, lets the kernel choose\n"
                            "  --split N       answer each chunk that was read with N writes in one callback\n"
                            "  --split-bufs N  the same pieces, given to one gathering write\n"
                            "Prints `listening 127.0.0.1:PORT`; on SIGTERM prints its CPU time as JSON and exits 0.\n";

static unsigned parse_number(const char *program, const char *text, unsigned least, unsigned most) {
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "%s: %s: not a number from %u to %u\n", program, text, least, most);
        exit(2);
    }
    return (unsigned)value;
}

serve_options serve_parse(int argc, char **argv) {
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},
        {"split", required_argument, NULL, 's'},
        {"split-bufs", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    serve_options options = {.port = 0, .pieces = 1, .gathered = false};
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p':
            options.port = (uint16_t)parse_number(argv[0], optarg, 0, UINT16_MAX);
            break;
        case 's':
        case 'b':
            options.pieces = parse_number(argv[0], optarg, 1, SERVE_PIECES_MAX);
            options.gathered = name == 'b';
            break;
        case 'h':
            printf(usage, argv[0]);
            exit(0);
        default:
            fprintf(stderr, usage, argv[0]);
            exit(2);
        }
    }
    if (optind != argc) {
        fprintf(stderr, usage, argv[0]);
        exit(2);
    }
    return options;
}

void serve_announce(uint16_t port) {
    printf("listening 127.0.0.1:%u\n", (unsigned)port);
    fflush(stdout);
}

void serve_report(const char *server) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"server\": \"%s\", \"user_us\": %lld, \"system_us\": %lld}\n", server,
           (long long)used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec,
           (long long)used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec);
    fflush(stdout);
}

void serve_fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}
