#!/usr/bin/python3
"""Turns the JSON files that the other scripts left into one Markdown section (on stdout) with date, kernel and CPU, and
one SVG chart a workload beside them. It measures nothing, so it can be run again at any time."""

import argparse
import json
import os
import re

import common
import plot


def read(folder, name):
    """What one script left, or None."""
    path = os.path.join(folder, name + ".json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def chart(folder, title, unit, parts, values):
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".svg"
    if values:
        plot.bars(os.path.join(folder, name), title, unit, parts, values)


def where(results):
    """The date, kernel and CPU of each machine and day that the figures come from; most often one."""
    seen = {}
    for name, one in results.items():
        machine = one["machine"]
        text = "%s, %s, %d CPUs, Linux %s%s" % (machine["date"][:10], machine["cpu"], machine["cpus"], machine["kernel"],
                                                ", a quick look only" if one["quick"] else "")
        seen.setdefault(text, []).append(name)
    for text, names in seen.items():
        print("Measured on %s%s." % (text, " (%s)" % ", ".join(names) if len(seen) > 1 else ""))


def summary(figures):
    """The one table: each pair of each row, with the interval whose worse end a claim quotes."""
    rows = []
    for title, row in figures.items():
        for one in row["pairs"]:
            same = one["first"] == one["second"]
            ratio, low, high = one[row["decides"]]
            rows.append([title, "%s against itself" % one["first"] if same else "%s / %s" % (one["first"], one["second"]),
                         "server" if row["decides"] == "server" else "both", one["rounds"], "%.3f" % ratio,
                         "%.3f to %.3f" % (low, high), "%.3f" % high])
    common.table("CPU time, in pairs (ratio of medians; below 1 the first takes less)",
                 ["workload", "pair", "CPU of", "rounds", "ratio", "95%", "claim"], rows)


def servers(figures, folder):
    """Each server's own figures, a row of the table for each, and a chart for each workload."""
    rows = []
    for title, row in figures.items():
        for name, one in row["servers"].items():
            latency = ["%.0f" % one["p50_us"], "%.0f" % one["p99_us"]] if one["p50_us"] > 0 else ["", ""]
            rows.append([title, name, "%.2f" % one["server"], "%.2f" % one["client"], "%.0f" % one["per_second"]] + latency)
        chart(folder, title, "CPU microseconds a %s; less is better" % row["unit"], ("server", "client"),
              [(name, (one["server"], one["client"])) for name, one in row["servers"].items()])
    common.table("Each server (medians; microseconds)",
                 ["workload", "server", "CPU of server", "of client", "a second", "p50", "p99"], rows)


def instructions(figures, folder):
    rows = []
    for name, by_size in figures["per_message"].items():
        limit = figures["per_message"].get(common.LIMITS.get(name))
        idle = figures["idle"].get(name)
        rows.append([name, "%.1f" % by_size["64"], "%.1f" % by_size["1024"],
                     "%+.1f" % (by_size["64"] - limit["64"]) if limit else "",
                     "%+.2f%%" % idle["percent"] if idle else ""])
    common.table("User instructions per message (callgrind)",
                 ["server", "64 B", "1 KiB", "64 B over its limit", "5,000 idle beside"], rows)
    chart(folder, "User instructions", "a message of 64 B; less is better", ("",),
          [(name, (by_size["64"],)) for name, by_size in figures["per_message"].items()])


def instructions_tls(figures, folder):
    rows = []
    for name, by_title in figures.items():
        limit = figures.get(common.TLS_LIMITS.get(name))
        for title, value in by_title.items():
            rows.append([name, title, "%.0f" % value, "%+.0f" % (value - limit[title]) if limit else "",
                         "%+.2f%%" % (100 * (value / limit[title] - 1)) if limit else ""])
    common.table("User instructions per message or handshake, TLS (callgrind)",
                 ["server", "row", "instructions", "over the limit", ""], rows)
    for title in next(iter(figures.values())):
        chart(folder, "User instructions, TLS, " + title, "user instructions; less is better", ("",),
              [(name, (by_title[title],)) for name, by_title in figures.items()])


def copies_tls(figures, folder):
    common.table("Bytes copied per byte of payload, TLS (counted)", ["server", "row", "by OpenSSL", "by others"],
                 [[name, title, "%.3f" % one["openssl"], "%.3f" % one["others"]]
                  for name, by_title in figures.items() for title, one in by_title.items()])
    for title in next(iter(figures.values())):
        chart(folder, "Bytes copied, TLS, " + title, "bytes a byte of payload; less is better", ("OpenSSL", "others"),
              [(name, (by_title[title]["openssl"], by_title[title]["others"])) for name, by_title in figures.items()])


def calls(figures, title="System calls and allocations per message (counted)"):
    import syscalls
    rows = [[name, row] + ["%.3f" % (round(sum(one[call] for call in group), 3) + 0.0)
                             for group in syscalls.GROUPS.values()]
            for name, by_row in figures.items() for row, one in by_row.items()]
    common.table(title, ["server", "row", *syscalls.GROUPS], rows)


def memory(figures, folder, what="connection"):
    common.table("Private memory per idle " + what, ["server", "bytes"],
                 [[name, "%.0f" % one["bytes_per_connection"]] for name, one in figures.items()])
    chart(folder, "Memory per idle " + what, "private bytes; less is better", ("",),
          [(name, (one["bytes_per_connection"],)) for name, one in figures.items()])


def micro(figures, folder):
    import statistics
    rows = []
    for one in figures:
        ours, theirs = statistics.median(one["subject_ns"]), statistics.median(one["peer_ns"])
        rows.append(["%s, %s" % (one["row"], one["bench"]), "%.1f" % ours, "%s %.1f" % (one["peer"], theirs),
                     "%.2f" % one["rate_ratio"][0], "%.2f to %.2f" % tuple(one["rate_ratio"][1:])])
        chart(folder, "%s, %s" % (one["row"], one["bench"]), "nanoseconds an operation; less is better", ("",),
              [(one["subject"], (ours,)), (one["peer"], (theirs,))])
    common.table("The loop by itself (ns an operation; ratio: how many times the peer's rate)",
                 ["operation", "Tepal", "peer", "ratio", "95%"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", help="folder of the JSON files (BUILD/bench/results)",
                        default=os.path.join(common.ROOT, os.environ.get("BUILD", "build-bench"), "bench", "results"))
    folder = parser.parse_args().results
    names = ("instructions", "syscalls", "memory", "instructions-tls", "syscalls-tls", "memory-tls", "copies-tls", "micro",
             "run")
    results = {name: one for name in names if (one := read(folder, name)) is not None}
    if not results:
        raise common.Failure("there are no results in %s: run bench/run first" % folder)
    where(results)
    if "run" in results:
        summary(results["run"]["figures"])
        servers(results["run"]["figures"], folder)
    if "instructions" in results:
        instructions(results["instructions"]["figures"], folder)
    if "syscalls" in results:
        calls(results["syscalls"]["figures"])
    if "memory" in results:
        memory(results["memory"]["figures"], folder)
    if "instructions-tls" in results:
        instructions_tls(results["instructions-tls"]["figures"], folder)
    if "syscalls-tls" in results:
        calls(results["syscalls-tls"]["figures"], "System calls and allocations per message, TLS (counted)")
    if "memory-tls" in results:
        memory(results["memory-tls"]["figures"], folder, "TLS connection")
    if "copies-tls" in results:
        copies_tls(results["copies-tls"]["figures"], folder)
    if "micro" in results:
        micro(results["micro"]["figures"], folder)


if __name__ == "__main__":
    common.main(main)
