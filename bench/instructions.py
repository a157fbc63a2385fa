#!/usr/bin/python3
"""User instructions per message: callgrind counts a server's whole life with N and with 2N messages, and the
difference over N leaves out starting, accepting and ending."""

import os
import re
import shutil
import tempfile

import common

SIZES = (64, 1024)


def total(options, name, folder, size, messages):
    """Instructions that a server runs from its start to its end, with `messages` messages in between."""
    out = os.path.join(folder, "callgrind.out")
    wrapper = ["valgrind", "--quiet", "--tool=callgrind", "--callgrind-out-file=" + out]
    with common.Server(options, name, wrapper=wrapper, patience=60) as server:
        common.run_load(options, server.address, connections=64, size=size, messages=messages)
    with open(out, encoding="utf-8") as lines:
        text = lines.read()
    os.remove(out)
    found = re.search(r"^totals: (\d+)", text, re.MULTILINE) or re.search(r"^summary: (\d+)", text, re.MULTILINE)
    if not found:
        raise common.Failure("callgrind wrote no totals for %s" % name)
    return int(found.group(1))


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--messages", type=int, help="N (20,000; quick: 5,000)")
    options = parser.parse_args()
    common.prepare(options)
    if not shutil.which("valgrind"):
        raise common.Failure("valgrind is not installed")
    messages = options.messages or (5000 if options.quick else 20000)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in common.servers_present(options):
            figures[name] = {}
            for size in SIZES:
                once = total(options, name, folder, size, messages)
                twice = total(options, name, folder, size, 2 * messages)
                figures[name][size] = (twice - once) / messages
    limit = figures.get(common.LIMIT)
    rows = []
    for name, by_size in figures.items():
        cells = ["%.1f" % by_size[size] for size in SIZES]
        cells += ["%+.1f" % (by_size[size] - limit[size]) if limit else "" for size in SIZES]
        rows.append([name] + cells)
    common.table("User instructions per message, 64 connections (callgrind, %d to %d messages)"
                 % (messages, 2 * messages), ["server", "64 B", "1 KiB", "over the limit, 64 B", "1 KiB"], rows)
    common.finish(options, "instructions per message", figures)


if __name__ == "__main__":
    common.main(measure)
