"""What the checks share: finding files, and saying what came out."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")


class Skip(Exception):
    """Raised by a check that cannot be made here; its text is the reason."""


def sources(*folders, suffixes=(".c", ".h")):
    """The source files below some folders of the tree, sorted."""
    found = []
    for folder in folders:
        found += [p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and p.is_file()]
    return sorted(found)


def name_of(path):
    return str(path.relative_to(ROOT))


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def without_comments(text, keep_strings=False):
    """C source with comments (and what is inside strings) blanked out; every line keeps its number."""

    def blank(match):
        found = match.group(0)
        if found[0] == "/":
            return re.sub(r"[^\n]", " ", found)
        return found if keep_strings else found[0] + " " * (len(found) - 2) + found[-1]

    token = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(token, blank, text, flags=re.S)


def run_checks(checks):
    """Run {sentence: function}. A function returns a list of problems. Returns (passed, failed, skipped)."""
    passed = failed = skipped = 0
    for sentence, check in checks.items():
        try:
            problems = check()
        except Skip as reason:
            print(f"SKIP  checks/{sentence}: {reason}")
            skipped += 1
            continue
        if problems:
            print(f"FAIL  checks/{sentence}")
            for problem in problems:
                print(f"      {problem}")
            failed += 1
        else:
            print(f"PASS  checks/{sentence}")
            passed += 1
        sys.stdout.flush()
    return passed, failed, skipped


def main(checks):
    """For a check that is run by itself."""
    passed, failed, skipped = run_checks(checks)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)
