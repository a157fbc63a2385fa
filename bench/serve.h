/* What every echo server of the benchmark shares: one command line, one way to announce its port and one report of
 * its CPU time at exit, so that the programs differ in the library alone. It must never touch a message. */
#ifndef BENCH_SERVE_H
#define BENCH_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    SERVE_BACKLOG = 1024,         /* what every server passes to listen() */
    SERVE_READ_BYTES = 64 * 1024, /* what every server that may choose offers to one read */
    SERVE_PIECES_MAX = 64,
};

typedef struct serve_options {
    uint16_t port;   /* on 127.0.0.1; 0 lets the kernel choose */
    unsigned pieces; /* 1: answer with one write; more: cut each chunk that was read into that many; 0: no answer */
    bool gathered;   /* the pieces leave by one call that gathers them, instead of one write each */
    bool sink;       /* drop what is read; `pieces` is then 0 */
    const char *tls_certificate; /* PEM file, or NULL: no TLS */
    const char *tls_key;         /* PEM file; set if the certificate is */
} serve_options;

/** Read the command line (see usage in serve.c). Prints what is wrong and exits with status 2 if it makes no sense, and
 * if TLS is asked for. */
serve_options serve_parse(int argc, char **argv);

/** The same, for a server that can speak TLS. */
serve_options serve_parse_tls(int argc, char **argv);

/** Length of one piece, so that `length` bytes make at most `pieces` of them. */
static inline size_t serve_piece(size_t length, unsigned pieces) {
    return (length + pieces - 1) / pieces;
}

/** For a server without a library: a listener on 127.0.0.1, non-blocking if asked for, already announced. Sets
 * TCP_NODELAY on it, which on Linux accepted sockets inherit. Exits with status 1 if it fails. */
int serve_listen(const serve_options *options, bool nonblocking);

/** For a server on epoll: watch a descriptor for these events, under this tag. Exits with status 1 if it fails. */
void serve_watch(int poller, int fd, uint32_t events, void *tag);

/** SIGTERM and SIGINT as a descriptor, so that a loop needs no flag to look at. */
int serve_signals(void);

/** For a server without a library: every answer but one plain send, on a non-blocking socket. Returns the bytes taken,
 * or -1 with errno set and nothing taken. */
ssize_t serve_answer(const serve_options *options, int fd, const void *data, size_t length);

/** Print `listening 127.0.0.1:PORT`, the line for which the harness waits. */
void serve_announce(uint16_t port);

/** Print this process's CPU time as one JSON line; call it last. */
void serve_report(const char *server);

/** realloc() that exits with status 1 where there is no memory. */
void *serve_grow(void *old, size_t length);

/** For functions that return -errno: exits with status 1 unless `code` is 0, positive or -EINTR; returns it. */
int serve_check(int code, const char *what);

/** Print `what` with errno's text and exit with status 1: a benchmark server does not go on half set up. */
__attribute__((noreturn)) void serve_fail(const char *what);

#endif
