/* The load generator's command line (see load.h). */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

static const char usage[] =
    "usage: load --connect 127.0.0.1:PORT [options]\n"
    "  --connections N   sockets to open (64)\n"
    "  --size BYTES      length of a message (64)\n"
    "  --depth N         messages in flight on each connection (1)\n"
    "  --seconds S       measured time (1)\n"
    "  --warm-up S       time before it that does not count (0.2)\n"
    "  --messages N      send exactly N messages instead, all of them counted\n"
    "  --limit S         give up after this time (120)\n"
    "  --cpu N           run on this CPU\n"
    "  --server-pid PID  read this process's CPU time at both ends of the measured time\n"
    "  --check-all       compare every byte of long chunks too, not only their ends\n"
    "  --idle N          so many connections more that echo once and then say nothing (0)\n"
    "  --sink            one way, for a server with --sink: send without pause, wait at the end until all is read\n"
    "  --churn           open, echo one message, reset, again; a connection counts as a message\n"
    "  --tls             through TLS 1.3, with TLS_AES_256_GCM_SHA384; the server's certificate is not verified\n"
    "  --resume          with --tls --churn: take up the session of an earlier connection each time\n"
    "  --hold            open, echo once on each, print `held N`, stay idle until SIGTERM or the end of stdin\n"
    "Prints one line of JSON. Exit status: 0, or 1 if a byte was lost.\n";

static _Noreturn void refuse(const char *option, const char *text) {
    fprintf(stderr, "load: --%s: %s makes no sense\n%s", option, text, usage);
    exit(2);
}

static double parse_number(const char *option, const char *text, double least, double most) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= least && value <= most))
        refuse(option, text);
    return value;
}

static double parse_whole(const char *option, const char *text, double least, double most) {
    double value = parse_number(option, text, least, most);
    if (value != floor(value))
        refuse(option, text);
    return value;
}

/* Only loopback: this program floods whatever it is pointed at. */
static struct sockaddr_in parse_address(const char *text) {
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strrchr(text, ':');
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (colon == NULL || (size_t)(colon - text) >= sizeof host)
        refuse("connect", text);
    memcpy(host, text, (size_t)(colon - text));
    address.sin_port = htons((uint16_t)parse_whole("connect", colon + 1, 1, UINT16_MAX));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || ntohl(address.sin_addr.s_addr) >> 24 != 127)
        refuse("connect", text);
    return address;
}

static const load_tls_calls *tls_calls(void) {
#ifdef BENCH_TLS
    return &load_openssl;
#else
    fprintf(stderr, "load: --tls: built without OpenSSL\n");
    exit(2);
#endif
}

static void parse_one(load_options *options, const char *name, const char *text) {
    if (strcmp(name, "connect") == 0)
        options->address = parse_address(text);
    else if (strcmp(name, "connections") == 0)
        options->connections = (unsigned)parse_whole(name, text, 1, 1000000);
    else if (strcmp(name, "size") == 0)
        options->size = (unsigned)parse_whole(name, text, 1, 1 << 20);
    else if (strcmp(name, "depth") == 0)
        options->depth = (unsigned)parse_whole(name, text, 1, 1024);
    else if (strcmp(name, "messages") == 0)
        options->messages = (uint64_t)parse_whole(name, text, 1, 1e12);
    else if (strcmp(name, "seconds") == 0)
        options->seconds = parse_number(name, text, 0.01, 3600);
    else if (strcmp(name, "warm-up") == 0)
        options->warm_up = parse_number(name, text, 0, 3600);
    else if (strcmp(name, "limit") == 0)
        options->limit = parse_number(name, text, 0.1, 36000);
    else if (strcmp(name, "cpu") == 0)
        options->cpu = (int)parse_whole(name, text, 0, 1023);
    else if (strcmp(name, "server-pid") == 0)
        options->server = (pid_t)parse_whole(name, text, 1, 1 << 30);
    else if (strcmp(name, "idle") == 0)
        options->idle = (unsigned)parse_whole(name, text, 0, 1000000);
    else if (strcmp(name, "sink") == 0)
        options->sink = true;
    else if (strcmp(name, "churn") == 0)
        options->churn = true;
    else if (strcmp(name, "hold") == 0)
        options->hold = true;
    else if (strcmp(name, "tls") == 0)
        options->tls = tls_calls();
    else if (strcmp(name, "resume") == 0)
        options->resume = true;
    else if (strcmp(name, "check-all") == 0)
        options->check_all = true;
}

load_options load_parse(int argc, char **argv) {
    static const struct option names[] = {
        {"connect", required_argument, NULL, 1},
        {"connections", required_argument, NULL, 1},
        {"size", required_argument, NULL, 1},
        {"depth", required_argument, NULL, 1},
        {"messages", required_argument, NULL, 1},
        {"seconds", required_argument, NULL, 1},
        {"warm-up", required_argument, NULL, 1},
        {"limit", required_argument, NULL, 1},
        {"cpu", required_argument, NULL, 1},
        {"server-pid", required_argument, NULL, 1},
        {"idle", required_argument, NULL, 1},
        {"sink", no_argument, NULL, 1},
        {"churn", no_argument, NULL, 1},
        {"hold", no_argument, NULL, 1},
        {"tls", no_argument, NULL, 1},
        {"resume", no_argument, NULL, 1},
        {"check-all", no_argument, NULL, 1},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    load_options options = {
        .connections = 64, .size = 64, .depth = 1, .seconds = 1, .warm_up = 0.2, .limit = 120, .cpu = -1};
    int name, index = 0;
    while ((name = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (name == 'h') {
            fputs(usage, stdout);
            exit(0);
        }
        if (name != 1) {
            fputs(usage, stderr);
            exit(2);
        }
        parse_one(&options, names[index].name, optarg);
    }
    if (optind != argc || options.address.sin_port == 0) {
        fputs(usage, stderr);
        exit(2);
    }
    if (options.resume && (options.tls == NULL || !options.churn))
        refuse("resume", "without --tls and --churn it");
    if (options.tls != NULL && options.sink)
        refuse("sink", "with --tls it");
    return options;
}
