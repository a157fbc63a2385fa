/* Parsing and printing option tables (options.h). */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

option option_flag(const char *name, bool *target, const char *help) {
    return (option){.name = name, .help = help, .kind = OPTION_FLAG, .target = target};
}

option option_text(const char *name, const char *value, const char **target, const char *help) {
    return (option){.name = name, .value = value, .help = help, .kind = OPTION_TEXT, .target = (void *)target};
}

option option_many(const char *name, const char *value, option_list *target, const char *help) {
    return (option){.name = name, .value = value, .help = help, .kind = OPTION_LIST, .target = target};
}

option option_number(const char *name, const char *value, uint64_t *target, uint64_t least, uint64_t most,
                     const char *help) {
    return (option){.name = name,
                    .value = value,
                    .help = help,
                    .kind = OPTION_NUMBER,
                    .target = target,
                    .least = least,
                    .most = most};
}

option option_seconds(const char *name, int64_t *target_ns, uint64_t least_ms, uint64_t most_ms, const char *help) {
    return (option){.name = name,
                    .value = "SECONDS",
                    .help = help,
                    .kind = OPTION_SECONDS,
                    .target = target_ns,
                    .least = least_ms,
                    .most = most_ms};
}

int usage_error(const command_text *command, const char *format, ...) {
    va_list values;
    fprintf(stderr, "tepal %s: ", command->name);
    va_start(values, format);
    /* clang-tidy 14 finds values uninitialized in any file that is not the first of its run. */
    vfprintf(stderr, format, values); /* NOLINT(clang-analyzer-valist.Uninitialized) */
    va_end(values);
    fprintf(stderr, "\nTry 'tepal %s --help'.\n", command->name);
    return STATUS_USAGE;
}

static void print_option(const char *name, const char *value, const char *help) {
    char left[40];
    snprintf(left, sizeof left, "--%s%s%s", name, value == NULL ? "" : " ", value == NULL ? "" : value);
    printf("  %-24s %s\n", left, help);
}

static void print_help(const command_text *command, const option *options, size_t count) {
    printf("usage: tepal %s %s\n\n%s\n\nOptions:\n", command->name, command->usage, command->summary);
    for (size_t index = 0; index < count; index++)
        print_option(options[index].name, options[index].value, options[index].help);
    print_option("help", NULL, "show this");
    printf("\n%s\n", command->notes);
}

/* A whole number with an optional suffix. False if text is none, or it does not fit 64 bits. */
static bool read_number(const char *text, uint64_t *number) {
    static const char suffixes[] = "kmg";
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, *end | 0x20);
        unsigned shift = suffix == NULL ? 0 : 10 * (unsigned)(suffix - suffixes + 1);
        if (shift == 0 || end[1] != '\0' || value > UINT64_MAX >> shift)
            return false;
        value <<= shift;
    }
    *number = value;
    return true;
}

static bool set_number(const command_text *command, const option *found, const char *text) {
    uint64_t number;
    if (!read_number(text, &number) || number < found->least || number > found->most) {
        usage_error(command,
                    "--%s takes a whole number from %llu to %llu (k, m and g stand for powers of 1,024), not '%s'",
                    found->name, (unsigned long long)found->least, (unsigned long long)found->most, text);
        return false;
    }
    *(uint64_t *)found->target = number;
    return true;
}

static bool set_seconds(const command_text *command, const option *found, const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(seconds) || seconds * 1e3 < (double)found->least ||
        seconds * 1e3 > (double)found->most) {
        usage_error(command, "--%s takes seconds from %g to %g, not '%s'", found->name, (double)found->least / 1e3,
                    (double)found->most / 1e3, text);
        return false;
    }
    *(int64_t *)found->target = (int64_t)(seconds * 1e9);
    return true;
}

static bool add_item(const command_text *command, const option *found, const char *text) {
    option_list *list = found->target;
    if (list->count == OPTION_LIST_MAX) {
        usage_error(command, "--%s may be given %d times at most", found->name, OPTION_LIST_MAX);
        return false;
    }
    list->items[list->count++] = text;
    return true;
}

static bool set_value(const command_text *command, const option *found, const char *text) {
    switch (found->kind) {
    case OPTION_TEXT:
        *(const char **)found->target = text;
        return true;
    case OPTION_LIST:
        return add_item(command, found, text);
    case OPTION_NUMBER:
        return set_number(command, found, text);
    case OPTION_SECONDS:
        return set_seconds(command, found, text);
    case OPTION_FLAG:
        break;
    }
    return false;
}

static const option *find_option(const option *options, size_t count, const char *name, size_t length) {
    for (size_t index = 0; index < count; index++)
        if (strlen(options[index].name) == length && memcmp(options[index].name, name, length) == 0)
            return &options[index];
    return NULL;
}

/* One option at *at, which is left on the last argument used. */
static bool parse_one(const command_text *command, const option *options, size_t count, int argument_count,
                      char **arguments, int *at) {
    const char *argument = arguments[*at];
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0') {
        usage_error(command, "'%s' is not an option", argument);
        return false;
    }
    const char *name = argument + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals == NULL ? strlen(name) : (size_t)(equals - name);
    const option *found = find_option(options, count, name, length);
    if (found == NULL) {
        usage_error(command, "there is no option '--%.*s'", (int)length, name);
        return false;
    }
    if (found->kind == OPTION_FLAG) {
        if (equals != NULL) {
            usage_error(command, "--%s takes no value", found->name);
            return false;
        }
        *(bool *)found->target = true;
        return true;
    }
    if (equals == NULL && *at + 1 == argument_count) {
        usage_error(command, "--%s needs a value: --%s %s", found->name, found->name, found->value);
        return false;
    }
    return set_value(command, found, equals != NULL ? equals + 1 : arguments[++*at]);
}

bool options_parse(const command_text *command, const option *options, size_t count, int argument_count,
                   char **arguments, int *status) {
    for (int at = 1; at < argument_count; at++) {
        if (strcmp(arguments[at], "--help") == 0 || strcmp(arguments[at], "-h") == 0) {
            print_help(command, options, count);
            *status = STATUS_OK;
            return false;
        }
        if (!parse_one(command, options, count, argument_count, arguments, &at)) {
            *status = STATUS_USAGE;
            return false;
        }
    }
    return true;
}
