/* A program that uses an installed Tepal: proof that the headers, the library and their descriptions fit together. */
#include <stdio.h>
#include <tepal.h>

int main(void) {
    const char *words = tepal_strerror(TEPAL_ECLOSED);

    puts(words);
    return words[0] ? 0 : 1;
}
