#!/usr/bin/env python3
"""The benchmark house: its limits stay short enough to be read in a sitting, and everything in it compiles, which no
other test would notice, since it is built only when asked for."""

import re
import shutil
import subprocess
import sys

from common import ROOT, Skip, main, name_of

# What each shares with the other servers: the command line, and for TLS the certificate.
LIMITS = {
    "echo_epoll.c": ["../serve.h"],
    "echo_epoll_level.c": ["../serve.h"],
    "echo_uring.c": ["../serve.h"],
    "echo_epoll_tls.c": ["../serve.h", "../serve_tls.h"],
}
LIMIT_LINES = 150
CFLAGS = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(ROOT / "include")]


def limits_are_short():
    problems = []
    for name in LIMITS:
        lines = (ROOT / "bench/peers" / name).read_text().count("\n")
        if lines >= LIMIT_LINES:
            problems.append(f"bench/peers/{name}: {lines} lines")
    return problems


def limits_share_serve_alone():
    problems = []
    for name, allowed in LIMITS.items():
        shared = re.findall(r'#include "([^"]+)"', (ROOT / "bench/peers" / name).read_text())
        if shared != allowed:
            problems.append(f"bench/peers/{name}: includes {', '.join(shared)}")
    return problems


def programs_compile():
    """Those whose libraries are here; the compiler alone, so that it takes a second or two."""
    if not shutil.which("cc"):
        raise Skip("there is no cc")
    problems = []
    for path in sorted((ROOT / "bench").rglob("*.c")):
        done = subprocess.run(["cc", *CFLAGS, str(path)], capture_output=True, text=True)
        missing = re.search(r"fatal error: \S+: No such file", done.stderr)
        if done.returncode != 0 and not missing:
            problems.append(f"{name_of(path)}: {done.stderr.strip().splitlines()[0]}")
    return problems


def scripts_have_help():
    problems = []
    for path in sorted((ROOT / "bench").glob("*.py")):
        if path.stat().st_mode & 0o100 == 0:
            continue
        done = subprocess.run([sys.executable, "-B", str(path), "--help"], capture_output=True, text=True)
        if done.returncode != 0 or "usage:" not in done.stdout:
            problems.append(f"{name_of(path)}: --help gives status {done.returncode}: {done.stderr.strip()[-200:]}")
    return problems


CHECKS = {
    "the_limits_written_by_hand_are_under_150_lines": limits_are_short,
    "the_limits_written_by_hand_share_the_command_line_alone": limits_share_serve_alone,
    "every_program_of_the_benchmarks_compiles": programs_compile,
    "every_script_of_the_benchmarks_explains_itself": scripts_have_help,
}

if __name__ == "__main__":
    main(CHECKS)
