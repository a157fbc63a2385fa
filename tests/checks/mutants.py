#!/usr/bin/env python3
"""The generated mutants change what they say, and the list of them can be read back. Running them is scripts/mutate's."""

import re
import sys

from common import ROOT, main

sys.path.insert(0, str(ROOT / "tests" / "mutants"))
import candidates  # noqa: E402

SOURCE = """\
/* if (a > b) is a comment */
#define LIMIT (1 + 1)
static const int table[] = {1, 2};

struct pair {
    int first;
};

static int add(int a,
               int b) {
    int sum;
    TPI_INVARIANT(loop, 1,
                  a == b);
    if (__builtin_expect(a < b, 0)) {
        note(a, b); /* both */
    }
    while (a->next && check("a || b", a - 1)) {
        a.ops->drop(a);
    }
    return
        note(a);
}
"""

EXPECTED = [
    (14, "negated condition", "if (!(__builtin_expect(a < b, 0))) {"),
    (14, "off by one", "if (__builtin_expect(a <= b, 0)) {"),
    (15, "dropped call", "; /* both */"),
    (15, "swapped arguments", "note(b, a); /* both */"),
    (17, "negated condition", 'while (!(a->next && check("a || b", a - 1))) {'),
    (17, "negated condition", 'while (a->next || check("a || b", a - 1)) {'),
    (17, "off by one", 'while (a->next && check("a || b", a - 0)) {'),
    (17, "swapped arguments", 'while (a->next && check(a - 1, "a || b")) {'),
    (18, "dropped call", ";"),
]


def only_code_changes():
    found = [(number, kind, one.after) for number, kinds in candidates.candidates(SOURCE).items()
             for kind, made in kinds.items() for one in made]
    problems = [f"missing: {one}" for one in EXPECTED if one not in found]
    problems += [f"not expected: {one}" for one in found if one not in EXPECTED]
    if candidates.lines_of_code(SOURCE) != 5:
        problems.append(f"{candidates.lines_of_code(SOURCE)} lines of code instead of 5")
    return problems


def a_line_is_found_again():
    once = "static void f(void) {\n    a();\n    a();\n}\n\nvoid g(void) {\n    a();\n}\n"
    wanted = {("f", 1): 2, ("f", 2): 3, ("f", 3): 0, ("g", 1): 7}
    return [f"occurrence {number} in {function} is line {candidates.find(once, function, 'a();', number)}"
            for (function, number), line in wanted.items() if candidates.find(once, function, "a();", number) != line]


def the_list_is_whole():
    text = (ROOT / "tests" / "mutants" / "generated.txt").read_text()
    entries = re.findall(r"^(\d{3}) (src/\S+\.c) \w+ \d+ ([a-z ]+)\n- (.+)\n\+ (.+)$", text, flags=re.M)
    numbers = [int(entry[0]) for entry in entries]
    problems = [] if numbers == list(range(1, len(numbers) + 1)) else ["not numbered from 001 on, without a gap"]
    problems += [f"{entry[0]} changes nothing" for entry in entries if entry[3] == entry[4]]
    return problems + [f"{entry[0]} is of no known kind" for entry in entries if entry[2] not in candidates.KINDS]


def every_file_has_mutants():
    text = (ROOT / "tests" / "mutants" / "generated.txt").read_text()
    changed = set(re.findall(r"^\d{3} (src/\S+\.c) ", text, flags=re.M))
    files = sorted(ROOT.glob("src/**/*.c"))
    names = [str(path.relative_to(ROOT)) for path in files if candidates.candidates(path.read_text())]
    # What stands in for TLS in a build without it is not in the build whose tests notice mutants.
    names = [name for name in names if name != "src/tls/absent.c"]
    return [f"{name} has no mutants: scripts/mutate --regenerate" for name in names if name not in changed]


CHECKS = {
    "generated_mutants_change_code_and_nothing_else": only_code_changes,
    "a_mutants_line_is_found_again": a_line_is_found_again,
    "the_list_of_mutants_is_whole": the_list_is_whole,
    "every_file_of_src_has_mutants": every_file_has_mutants,
}

if __name__ == "__main__":
    main(CHECKS)
