/* The `tepal` command: finds the subcommand, and tells which there are. */
#include "tools.h"
#include "options.h"

#include <stdio.h>
#include <string.h>
#include <tepal.h>

typedef struct subcommand {
    const char *name;
    int (*run)(int argument_count, char **arguments);
    const char *help;
} subcommand;

static const subcommand subcommands[] = {
    {"echo", echo_main, "serve: send back whatever comes"},
    {"load", load_main, "drive an echo server, check every byte and measure"},
    {"cert", cert_main, "make a certificate and its key, to develop and test with"},
};

enum { SUBCOMMANDS = sizeof subcommands / sizeof subcommands[0] };

static void print_help(FILE *out) {
    fprintf(out, "usage: tepal COMMAND [options]\n\nCommands:\n");
    for (unsigned index = 0; index < SUBCOMMANDS; index++)
        fprintf(out, "  %-8s %s\n", subcommands[index].name, subcommands[index].help);
    fprintf(out, "\n'tepal COMMAND --help' tells more; 'tepal --version' says which Tepal this is.\n"
                 "Exit status: 0 all went well, 1 something failed or was lost, 2 the command line is wrong.\n");
}

int main(int argument_count, char **arguments) {
    const char *name = argument_count > 1 ? arguments[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return STATUS_OK;
    }
    if (strcmp(name, "--version") == 0) {
        const char *engine = tepal_tls_engine();
        printf("tepal %s (%s)\n", tepal_version(), engine == NULL ? "without TLS" : engine);
        return STATUS_OK;
    }
    for (unsigned index = 0; index < SUBCOMMANDS; index++)
        if (strcmp(name, subcommands[index].name) == 0)
            return subcommands[index].run(argument_count - 1, arguments + 1);
    if (*name == '\0')
        print_help(stderr);
    else
        fprintf(stderr, "tepal: there is no command '%s'\nTry 'tepal --help'.\n", name);
    return STATUS_USAGE;
}
