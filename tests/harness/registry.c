/* The list of tests: they register themselves before main() runs, and are sorted and filtered here. */
#include "harness/internal.h"

#include <stdlib.h>

static test_case *registered;
static size_t registered_count;

void test_register(test_case *test) {
    test->next = registered;
    registered = test;
    registered_count++;
}

static bool begins_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Whether the file's path has a folder of this name. */
static bool is_in_folder(const char *path, const char *folder) {
    char part[64];

    snprintf(part, sizeof part, "/%s/", folder);
    return strstr(path, part) != NULL;
}

static bool is_selected(const test_item *item, const test_selection *selection) {
    if (selection->driver && item->driver && strcmp(item->driver, selection->driver) != 0)
        return false;
    if (selection->folder && !is_in_folder(item->test->file, selection->folder))
        return false;
    for (int i = 0; i < selection->prefix_count; i++) {
        if (begins_with(item->label, selection->prefixes[i]))
            return true;
    }
    return selection->prefix_count == 0;
}

/* Those that want to be alone come last, so that the others can fill the machine first; then by suite, and in
 * the order of the source, which the linker does not keep. */
static int compare(const void *left, const void *right) {
    const test_case *a = ((const test_item *)left)->test;
    const test_case *b = ((const test_item *)right)->test;
    int difference = (int)(a->flags & TEST_IS_ALONE) - (int)(b->flags & TEST_IS_ALONE);

    if (difference == 0)
        difference = strcmp(a->suite, b->suite);
    if (difference == 0)
        difference = strcmp(a->file, b->file);
    if (difference == 0)
        difference = a->line - b->line;
    if (difference == 0)
        difference = strcmp(((const test_item *)left)->label, ((const test_item *)right)->label);
    return difference;
}

test_item *test_select(const test_selection *selection, size_t *count) {
    size_t drivers = 0;
    while (test_driver_table[drivers])
        drivers++;

    test_item *items = calloc(registered_count * (drivers + 1) + 1, sizeof *items);
    size_t used = 0;
    if (!items)
        return NULL;

    for (const test_case *test = registered; test; test = test->next) {
        const bool per_driver = test->flags & TEST_PER_DRIVER;

        for (size_t i = 0; i < (per_driver ? drivers : 1); i++) {
            test_item *item = &items[used];
            const char *driver = per_driver ? test_driver_table[i] : NULL;

            /* Valgrind 3.19 lets no other thread run while one waits in io_uring_enter(2). */
            if (driver && getenv("TEST_VALGRIND") && strcmp(driver, "uring") == 0)
                continue;
            item->test = test;
            item->driver = driver;
            snprintf(item->label, sizeof item->label, "%s/%s%s%s", test->suite, test->name, driver ? ":" : "",
                     driver ? driver : "");
            if (is_selected(item, selection))
                used++;
        }
    }
    qsort(items, used, sizeof *items, compare);
    *count = used;
    return items;
}
