#!/usr/bin/env python3
"""Fails if a test was skipped that neither tests/skips.txt lists nor the table of what drivers lack in
tests/harness/drivers.c, or if a line of that table skips nothing. Usage: skips.py LOG [LOG...]

A line of skips.txt is a pattern of test names (* stands for anything) and the reason, after white space."""

import fnmatch
import re
import sys

from common import ROOT


def listed():
    lines = (ROOT / "tests" / "skips.txt").read_text().splitlines()
    return [line.split(None, 1)[0] for line in lines if line.strip() and not line.startswith("#")]


def lacked():
    """The table of what drivers lack, as patterns."""
    table = (ROOT / "tests" / "harness" / "drivers.c").read_text()
    return [f"{prefix}*:{driver}" for driver, prefix in re.findall(r'\{"(\w+)", "([\w/]+)",\s', table)]


def main():
    patterns = listed() + lacked()
    unlisted = []
    skipped = []
    for log in sys.argv[1:]:
        with open(log) as lines:
            for line in lines:
                match = re.match(r"SKIP  (\S+): (.*)", line)
                if match:
                    skipped.append(match.group(1))
                if match and not any(fnmatch.fnmatchcase(match.group(1), pattern) for pattern in patterns):
                    unlisted.append(f"{match.group(1)}: {match.group(2)}")
    for pattern in lacked():
        if not fnmatch.filter(skipped, pattern):
            unlisted.append(f"{pattern}: in tests/harness/drivers.c, and skips nothing")
    for skip in unlisted:
        print(f"FAIL  skipped, and not in tests/skips.txt: {skip}")
    print(f"{1 - bool(unlisted)} passed, {int(bool(unlisted))} failed, 0 skipped")
    sys.exit(1 if unlisted else 0)


if __name__ == "__main__":
    main()
