/*
 * The library's version, as against the headers': it must come from nowhere but base.h.
 */
#include <tepal/base.h>

#define TEXT_OF(number) #number
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *tepal_version(void) {
    return VERSION_TEXT(TEPAL_VERSION_MAJOR, TEPAL_VERSION_MINOR, TEPAL_VERSION_PATCH);
}
