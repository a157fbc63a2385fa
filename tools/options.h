/* Command lines of the subcommands: one table says what there is, from which both the parsing and the --help come. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** What the tools end with. */
enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

/** What an option takes, and so what its target points to. */
typedef enum option_kind {
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_LIST,   /* option_list: the option may be given several times */
    OPTION_NUMBER, /* uint64_t, with a suffix k, m or g for powers of 1,024 */
    OPTION_SECONDS /* int64_t, in nanoseconds; decimals are allowed */
} option_kind;

enum { OPTION_LIST_MAX = 16 };

/** The values of an OPTION_LIST, in the order they were given. */
typedef struct option_list {
    size_t count;
    const char *items[OPTION_LIST_MAX];
} option_list;

/** One option. The target holds its default beforehand. */
typedef struct option {
    const char *name;  /* without its dashes */
    const char *value; /* what the help calls its value; NULL for a flag */
    const char *help;  /* a line */
    option_kind kind;
    void *target;
    uint64_t least, most; /* OPTION_NUMBER: its bounds; OPTION_SECONDS: bounds in milliseconds */
} option;

/** A subcommand as its help shows it. */
typedef struct command_text {
    const char *name;
    const char *usage;   /* what follows "tepal NAME" */
    const char *summary; /* a paragraph above the options */
    const char *notes;   /* a paragraph below them */
} command_text;

/** Fill an OPTION_FLAG and so on: option tables are written with these, so that a target has the right type. */
option option_flag(const char *name, bool *target, const char *help);
option option_text(const char *name, const char *value, const char **target, const char *help);
option option_many(const char *name, const char *value, option_list *target, const char *help);
option option_number(const char *name, const char *value, uint64_t *target, uint64_t least, uint64_t most,
                     const char *help);
option option_seconds(const char *name, int64_t *target_ns, uint64_t least_ms, uint64_t most_ms, const char *help);

/**
 * Read a command line (arguments[0] is the subcommand) into the targets of the options.
 *
 * Returns true to go on. Otherwise *status is what to exit with: STATUS_OK after --help, which was printed, or
 * STATUS_USAGE after a mistake, which was explained on stderr.
 */
bool options_parse(const command_text *command, const option *options, size_t count, int argument_count,
                   char **arguments, int *status);

/** Explain a mistake on stderr ("tepal NAME: sentence") and where the help is. Returns STATUS_USAGE. */
int usage_error(const command_text *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
