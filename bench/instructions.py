#!/usr/bin/python3
"""User instructions per message: callgrind counts a server's whole life with N and with 2N messages, and the
difference over N leaves out starting, accepting and ending. With --tls, per encrypted message and per handshake; valgrind
has no wide vector instructions, so ciphers take other ways there, the same ones for all servers."""

import os
import re
import shutil
import statistics
import tempfile

import common

SIZES = (64, 1024)
IDLE = 5000
TLS_ROWS = {
    "64 x 64 B": {"connections": 64, "size": 64},
    "64 x 1 KiB": {"connections": 64, "size": 1024},
    "64 x 16 KiB": {"connections": 64, "size": 16384},
    "16 x 64 KiB": {"connections": 16, "size": 65536},
    "handshake, full": {"connections": 32, "size": 64, "churn": True},
    "handshake, resumed": {"connections": 32, "size": 64, "churn": True, "resume": True},
}


def total(options, name, folder, messages, **load):
    """Instructions that a server runs from its start to its end, with `messages` messages in between."""
    out = os.path.join(folder, "callgrind.out")
    wrapper = ["valgrind", "--quiet", "--tool=callgrind", "--callgrind-out-file=" + out]
    with common.Server(options, name, wrapper=wrapper, patience=60, tls=options.tls) as server:
        common.run_load(options, server.address, limit=300, messages=messages, tls=options.tls, **load)
    with open(out, encoding="utf-8") as lines:
        text = lines.read()
    os.remove(out)
    found = re.search(r"^totals: (\d+)", text, re.MULTILINE) or re.search(r"^summary: (\d+)", text, re.MULTILINE)
    if not found:
        raise common.Failure("callgrind wrote no totals for %s" % name)
    return int(found.group(1))


def per_message(options, name, folder, messages, **load):
    once = total(options, name, folder, messages, **load)
    return (total(options, name, folder, 2 * messages, **load) - once) / messages


def measure_idle(options, folder, messages):
    """How much the busy connections' instructions change where idle ones are open as well."""
    figures, rows = {}, []
    for name in common.servers_present(options):
        # Opening the idle ones costs as much as many messages and varies a little, so more messages are set against it;
        # and on io_uring the share of an enter moves with the size of the batches, so the middle of three counts.
        alone, beside = (statistics.median(per_message(options, name, folder, messages, connections=32, size=64, **more)
                                           for _ in range(1 if options.quick else 3))
                         for more in ({}, {"idle": IDLE}))
        figures[name] = {"alone": alone, "beside": beside, "percent": 100 * (beside / alone - 1)}
        rows.append([name, "%.1f" % alone, "%.1f" % beside, "%+.2f%%" % figures[name]["percent"]])
    common.table("User instructions per message of 32 busy connections, 64 B, beside {:,} idle ones".format(IDLE),
                 ["server", "alone", "beside idle ones", "change"], rows)
    return figures


def measure_messages(options, folder, messages):
    figures, rows = {}, []
    for name in common.servers_present(options):
        figures[name] = {size: per_message(options, name, folder, messages, connections=64, size=size)
                         for size in SIZES}
    for name, by_size in figures.items():
        limit = figures.get(common.LIMITS.get(name))
        cells = ["%.1f" % by_size[size] for size in SIZES]
        cells += ["%+.1f" % (by_size[size] - limit[size]) if limit else "" for size in SIZES]
        rows.append([name] + cells)
    common.table("User instructions per message, 64 connections (callgrind, %d to %d messages)"
                 % (messages, 2 * messages), ["server", "64 B", "1 KiB", "over its limit, 64 B", "1 KiB"], rows)
    return figures


def measure_tls(options, folder, messages):
    """Large messages and handshakes take so much longer than small messages that fewer do."""
    figures, rows = {}, []
    for name in common.servers_present(options, tls=True):
        figures[name] = {title: per_message(options, name, folder,
                                            messages // (20 if load.get("churn") else 10 if load["size"] > 4096 else 1),
                                            **load)
                         for title, load in TLS_ROWS.items()}
    for name, by_title in figures.items():
        limit = figures.get(common.TLS_LIMITS.get(name))
        for title, value in by_title.items():
            over = value - limit[title] if limit else None
            rows.append([name, title, "%.0f" % value, "" if over is None else "%+.0f" % over,
                         "" if over is None else "%+.2f%%" % (100 * over / limit[title])])
    common.table("User instructions per message or handshake, TLS (callgrind, up to %d to %d messages)"
                 % (messages, 2 * messages), ["server", "row", "instructions", "over the limit", ""], rows)
    return figures


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--messages", type=int, help="N (20,000; quick: 5,000)")
    parser.add_argument("--no-idle", action="store_true", help="leave out the row of idle connections")
    parser.add_argument("--tls", action="store_true", help="encrypted messages and handshakes instead")
    options = parser.parse_args()
    common.prepare(options)
    if not shutil.which("valgrind"):
        raise common.Failure("valgrind is not installed")
    messages = options.messages or (5000 if options.quick else 20000)
    with tempfile.TemporaryDirectory() as folder:
        if options.tls:
            common.finish(options, "instructions per message, TLS", measure_tls(options, folder, messages))
            return
        figures, idle = measure_messages(options, folder, messages), {}
        if not options.no_idle:
            idle = measure_idle(options, folder, 5 * messages)
    common.finish(options, "instructions per message", {"per_message": figures, "idle": idle})


if __name__ == "__main__":
    common.main(measure)
