#!/usr/bin/env python3
"""The two budgets: files under 600 lines, functions under 80."""

import shutil
import subprocess

from common import ROOT, Skip, main, name_of, sources

FOLDERS = ("include", "src", "tools", "examples", "bench", "python", "tests")
FILE_LIMIT = 600
FUNCTION_LIMIT = 80


def files_are_short():
    problems = []
    for path in sources(*FOLDERS):
        lines = path.read_text().count("\n")
        if lines >= FILE_LIMIT:
            problems.append(f"{name_of(path)}: {lines} lines")
    return problems


def functions_are_short():
    if not shutil.which("ctags"):
        raise Skip("universal-ctags is not installed")
    files = [str(path) for path in sources(*FOLDERS)]
    command = ["ctags", "-f", "-", "-x", "--_xformat=%N\t%n\t%e\t%F", "--kinds-C=f", "--kinds-C++=f",
               "--fields=+ne", "-L", "-"]
    listing = subprocess.run(command, input="\n".join(files), capture_output=True, text=True, cwd=ROOT, check=True)
    problems = []
    for line in listing.stdout.splitlines():
        function, start, end, path = line.split("\t")
        length = int(end or start) - int(start) + 1
        if length >= FUNCTION_LIMIT:
            problems.append(f"{path.removeprefix(str(ROOT) + '/')}:{start}: {function} has {length} lines")
    return problems


CHECKS = {
    "files_are_under_600_lines": files_are_short,
    "functions_are_under_80_lines": functions_are_short,
}

if __name__ == "__main__":
    main(CHECKS)
