#!/usr/bin/env python3
"""Fails if a test was skipped that tests/skips.txt does not list. Usage: skips.py LOG [LOG...]

A line of skips.txt is a pattern of test names (* stands for anything) and the reason, after white space."""

import fnmatch
import re
import sys

from common import ROOT


def listed():
    lines = (ROOT / "tests" / "skips.txt").read_text().splitlines()
    return [line.split(None, 1)[0] for line in lines if line.strip() and not line.startswith("#")]


def main():
    patterns = listed()
    unlisted = []
    for log in sys.argv[1:]:
        with open(log) as lines:
            for line in lines:
                match = re.match(r"SKIP  (\S+): (.*)", line)
                if match and not any(fnmatch.fnmatchcase(match.group(1), pattern) for pattern in patterns):
                    unlisted.append(f"{match.group(1)}: {match.group(2)}")
    for skip in unlisted:
        print(f"FAIL  skipped, and not in tests/skips.txt: {skip}")
    print(f"{1 - bool(unlisted)} passed, {int(bool(unlisted))} failed, 0 skipped")
    sys.exit(1 if unlisted else 0)


if __name__ == "__main__":
    main()
