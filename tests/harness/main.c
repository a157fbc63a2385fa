/* The command line of the test binary. tests/run calls it. */
#include "harness/internal.h"

#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] =
    "usage: tests/run [options] [PREFIX...]\n"
    "\n"
    "Runs the tests whose \"suite/name\" begins with one of the prefixes, or all of them.\n"
    "A single test that is named in full, or is the only match, runs in this process, ready for a debugger.\n"
    "\n"
    "  -l, --list         print the tests and run none\n"
    "  -v, --verbose      print the tests that pass, too\n"
    "  -j, --jobs N       run N tests at once (default: one per processor)\n"
    "  -d, --driver NAME  of the tests that run once per driver, only those on this one\n"
    "  -f, --folder NAME  only those of one folder: unit, conformance, torture\n"
    "      --limit N      give no test more than N seconds, whatever it asks for\n"
    "      --fail-fast    end at the first failure; the tests that were running then do not count\n"
    "      --fork         fork even for a single test\n"
    "      --no-fork      run every test in this process\n"
    "  -h, --help         print this\n";

enum { OPTION_FORK = 256, OPTION_NO_FORK, OPTION_LIMIT, OPTION_FAIL_FAST };

static const struct option long_options[] = {
    {"list", no_argument, NULL, 'l'},
    {"verbose", no_argument, NULL, 'v'},
    {"jobs", required_argument, NULL, 'j'},
    {"driver", required_argument, NULL, 'd'},
    {"folder", required_argument, NULL, 'f'},
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"fail-fast", no_argument, NULL, OPTION_FAIL_FAST},
    {"fork", no_argument, NULL, OPTION_FORK},
    {"no-fork", no_argument, NULL, OPTION_NO_FORK},
    {"help", no_argument, NULL, 'h'},
    {0},
};

typedef struct {
    test_options run;
    test_selection selection;
    bool list;
    bool always_fork;
} arguments;

static int number_above_0(const char *option, const char *text) {
    const int number = atoi(text);

    if (number < 1) {
        fprintf(stderr, "tests/run: %s wants a number above 0\n", option);
        exit(2);
    }
    return number;
}

static arguments parse(int argc, char **argv) {
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    arguments result = {.run.jobs = processors > 0 ? (int)processors : 1};

    for (int option; (option = getopt_long(argc, argv, "lvj:d:f:h", long_options, NULL)) != -1;) {
        switch (option) {
        case 'l':
            result.list = true;
            break;
        case 'v':
            result.run.verbose = true;
            break;
        case 'j':
            result.run.jobs = number_above_0("--jobs", optarg);
            break;
        case 'd':
            result.selection.driver = optarg;
            break;
        case 'f':
            result.selection.folder = optarg;
            break;
        case OPTION_LIMIT:
            result.run.limit_s = number_above_0("--limit", optarg);
            break;
        case OPTION_FAIL_FAST:
            result.run.fail_fast = true;
            break;
        case OPTION_FORK:
            result.always_fork = true;
            break;
        case OPTION_NO_FORK:
            result.run.no_fork = true;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
    result.selection.prefixes = argv + optind;
    result.selection.prefix_count = argc - optind;
    return result;
}

/* One line for the items of `suite`, or with NULL the line of totals for all. Returns how many failed. */
static int print_totals(const test_item *items, size_t count, const char *suite) {
    int totals[TEST_SKIPPED + 1] = {0};
    double seconds = 0;

    for (size_t i = 0; i < count; i++) {
        if (!suite || strcmp(items[i].test->suite, suite) == 0) {
            totals[items[i].outcome]++;
            seconds += items[i].seconds;
        }
    }
    if (suite)
        printf("%-12s ", suite);
    printf("%d passed, %d failed, %d skipped", totals[TEST_PASSED], totals[TEST_FAILED], totals[TEST_SKIPPED]);
    if (suite)
        printf(" (%.2f s)", seconds);
    printf("\n");
    return totals[TEST_FAILED];
}

/* A line for each suite, at its first test; then the line of totals, which scripts read. */
static bool print_summary(const test_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool is_first = true;

        for (size_t j = 0; j < i && is_first; j++)
            is_first = strcmp(items[j].test->suite, items[i].test->suite) != 0;
        if (is_first)
            print_totals(items, count, items[i].test->suite);
    }
    return print_totals(items, count, NULL) == 0;
}

int main(int argc, char **argv) {
    const arguments asked = parse(argc, argv);
    size_t count = 0;
    test_item *items = test_select(&asked.selection, &count);

    if (!items || count == 0) {
        fputs("tests/run: no such test; see --list\n", stderr);
        return 2;
    }
    if (asked.list) {
        for (size_t i = 0; i < count; i++)
            printf("%s\n", items[i].label);
        return 0;
    }

    const bool here = asked.run.no_fork || (count == 1 && optind < argc && !asked.always_fork);

    if (here)
        test_run_here(items, count);
    else
        test_run_forked(items, count, &asked.run);

    const bool passed = print_summary(items, count);
    free(items);
    return passed ? 0 : 1;
}
