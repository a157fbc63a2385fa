#!/usr/bin/python3
"""System calls and allocations per message, counted inside the server by count.so: the difference between a load of N
messages and one of a single message, so that connecting and closing cancel out."""

import json
import os
import signal
import tempfile
import time

import common

SIZES = (64, 1024)
TLS_SIZES = (64, 1024, 16384, 65536)
NO_PIECES = ("uring", "epoll-tls")  # servers that answer with one send only
GROUPS = {
    "receive": ("recv", "recvfrom", "recvmsg", "read", "readv"),
    "send": ("send", "sendto", "sendmsg", "write", "writev"),
    "wait": ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll"),
    "enter": ("io_uring_enter", "io_uring_enter2", "io_uring_submit", "io_uring_submit_and_wait",
              "io_uring_submit_and_wait_timeout", "io_uring_submit_and_get_events", "io_uring_get_events",
              "io_uring_wait_cqes", "io_uring_wait_cqe_timeout", "__io_uring_get_cqe"),
    "epoll_ctl": ("epoll_ctl",),
    "allocate": ("malloc", "calloc", "realloc"),
}


def snapshot(server, path, lines_before):
    """Have the server's counts written; returns them."""
    os.kill(server.pid, signal.SIGUSR2)
    for _ in range(500):
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines(keepends=True)
            if len(lines) > lines_before and lines[-1].endswith("\n"):
                return json.loads(lines[-1])
        time.sleep(0.01)
    raise common.Failure("%s wrote no counts" % server.name)


def per_message(options, name, size, messages, extra=()):
    """Calls per message by libc name."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "counts")
        environment = {"LD_PRELOAD": common.program(options, "count.so"), "BENCH_COUNT": path}
        with common.Server(options, name, extra=extra, environment=environment, tls=options.tls) as server:
            counts = [snapshot(server, path, 0)]
            for number in (1, messages):
                common.run_load(options, server.address, connections=64, size=size, messages=number, tls=options.tls)
                time.sleep(0.2)  # until the server has seen all connections end
                counts.append(snapshot(server, path, len(counts)))
    first, second, third = counts
    return {call: ((third[call] - second[call]) - (second[call] - first[call])) / (messages - 1) for call in first}


def cross_check(options, messages):
    """The library's totals beside strace's, of one and the same life of each server."""
    rows = []
    for name in common.servers_present(options):
        with tempfile.TemporaryDirectory() as folder:
            out, path = os.path.join(folder, "strace"), os.path.join(folder, "counts")
            server = common.Server(options, name, wrapper=[
                "strace", "--follow-forks", "--summary-only", "--summary-columns=calls,name", "--output=" + out,
                "-E", "LD_PRELOAD=" + common.program(options, "count.so"), "-E", "BENCH_COUNT=" + path])
            with open("/proc/%d/task/%d/children" % (server.pid, server.pid), encoding="utf-8") as file:
                child = int(file.read().split()[0])
            common.run_load(options, server.address, connections=64, size=64, messages=messages)
            time.sleep(0.2)
            os.kill(child, signal.SIGTERM)  # strace passes no signal on, and ends with its child
            server.process.communicate(timeout=30)
            with open(path, encoding="utf-8") as file:
                counted = json.loads(file.read().splitlines()[-1])
            with open(out, encoding="utf-8") as lines:
                traced = {row[-1]: int(row[0]) for row in map(str.split, lines) if len(row) == 2 and row[0].isdigit()}
        # libc's recv and send are these calls to the kernel.
        for title, kernel, libc in (("receive", ("recvfrom", "recvmsg", "read", "readv"), GROUPS["receive"]),
                                    ("send", ("sendto", "sendmsg", "write", "writev"), GROUPS["send"]),
                                    ("wait", GROUPS["wait"], GROUPS["wait"]),
                                    ("enter", ("io_uring_enter",), GROUPS["enter"])):
            rows.append([name, title, sum(traced.get(call, 0) for call in kernel), sum(counted[call] for call in libc)])
    common.table("The counts checked: one life of each server, %d messages" % messages,
                 ["server", "calls", "strace", "count.so"], rows)


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--messages", type=int, help="N (50,000; quick: 10,000)")
    parser.add_argument("--strace", action="store_true",
                        help="instead, run each server under strace as well and print both totals, to check the library")
    parser.add_argument("--tls", action="store_true", help="encrypted messages instead")
    options = parser.parse_args()
    if options.tls and options.strace:
        parser.error("--strace checks plain servers only")
    common.prepare(options)
    if not common.program(options, "count.so"):
        raise common.Failure("there is no count.so in the build")
    messages = options.messages or (10000 if options.quick else 50000)
    if options.strace:
        cross_check(options, messages)
        return
    figures, rows = {}, []
    cases = [(size, "%d B" % size, ()) for size in (TLS_SIZES if options.tls else SIZES)]
    cases.append((64, "64 B, split 16", ("--split", "16")))
    for name in common.servers_present(options, tls=options.tls):
        figures[name] = {}
        for size, title, extra in cases:
            if extra and name in NO_PIECES:
                continue
            calls = per_message(options, name, size, messages, extra)
            figures[name][title] = calls
            named = {call for group in GROUPS.values() for call in group}
            sums = [sum(calls[call] for call in group) for group in GROUPS.values()]
            sums.append(sum(value for call, value in calls.items() if call not in named))
            cells = ["%.3f" % (round(value, 3) + 0.0) for value in sums]  # + 0.0 turns -0.0 into 0.0
            rows.append([name, title] + cells)
    common.table("System calls and allocations per message%s, 64 connections, one message in flight on each"
                 % (", TLS" if options.tls else ""), ["server", "row", *GROUPS, "other calls"], rows)
    common.finish(options, "calls per message", figures)


if __name__ == "__main__":
    common.main(measure)
