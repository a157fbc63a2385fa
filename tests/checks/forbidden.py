#!/usr/bin/env python3
"""Calls that the library must not make: those that cannot be used safely, and those that print or end the process."""

import re

from common import line_of, main, name_of, sources, without_comments

UNSAFE = "strcpy strcat sprintf vsprintf gets strncpy strtok alloca tmpnam mktemp"
ENDS = "exit _exit quick_exit abort assert perror printf vprintf fprintf vfprintf puts fputs putchar dprintf err errx warn"


def calls(names, folders):
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(names.split()) + r")\s*\(")
    problems = []
    for path in sources(*folders):
        text = without_comments(path.read_text())
        for match in pattern.finditer(text):
            problems.append(f"{name_of(path)}:{line_of(text, match.start())}: calls {match.group(1)}")
    return problems


CHECKS = {
    "no_source_calls_an_unsafe_function": lambda: calls(UNSAFE, ("src", "include", "tools", "examples", "tests")),
    "the_library_neither_prints_nor_ends_the_process": lambda: calls(ENDS, ("src", "include")),
}

if __name__ == "__main__":
    main(CHECKS)
