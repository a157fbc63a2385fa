#!/usr/bin/python3
"""The micro benchmarks in interleaved pairs, Tepal's program and its peer's: time per operation, median ratio and its
bootstrap 95% interval. Where Tepal's program is not built, the peer runs against itself."""

import json
import statistics
import subprocess

import common

# Title, Tepal's program, the peer's, arguments, pinned. Posts come from other threads, so those run on all CPUs; Tepal's
# program does not look at --nodes, which chooses libuv's queue.
PAIRS = (
    ("noise: the ring itself", "soon_ring", "soon_ring", (), True),
    ("call_soon + run", "soon_tepal", "soon_ring", (), True),
    ("1,000,000 timers pending", "timers_tepal", "timers_libuv", ("--pending", "1000000"), True),
    ("10,000 timers pending", "timers_tepal", "timers_libuv", ("--pending", "10000"), True),
    ("1 thread, list of nodes", "post_tepal", "post_libuv", ("--threads", "1", "--nodes", "1"), False),
    ("1 thread, two arrays", "post_tepal", "post_libuv", ("--threads", "1"), False),
    ("4 threads, list of nodes", "post_tepal", "post_libuv", ("--threads", "4", "--nodes", "1"), False),
    ("4 threads, two arrays", "post_tepal", "post_libuv", ("--threads", "4"), False),
)


def run(options, name, extra, pinned):
    """Run one program; returns nanoseconds per operation by the name of the operation."""
    done = subprocess.run([common.program(options, name), *extra], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120, check=False,
                          preexec_fn=common.pinned(options.server_cpu) if pinned else None)
    if done.returncode != 0:
        raise common.Failure("%s ended with status %d: %s" % (name, done.returncode, done.stderr.strip()))
    return {line["bench"]: line["ns"] for line in map(json.loads, done.stdout.splitlines())}


def measure_pair(options, first, second, extra, pinned, rounds):
    """Interleaved runs, A B and B A in turn; returns the lists of both by operation."""
    found = {}
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which in order:
            for bench, value in run(options, (first, second)[which], extra, pinned).items():
                found.setdefault(bench, ([], []))[which].append(value)
    return found


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="(7; quick: 2)")
    options = parser.parse_args()
    common.prepare(options)
    rounds = options.rounds or (2 if options.quick else 7)
    figures, rows = [], []
    for title, subject, peer, extra, pinned in PAIRS:
        if not common.program(options, peer):
            common.note("%s is left out: %s is not built" % (title, peer))
            continue
        if not common.program(options, subject):
            common.note("%s: %s is not built, so %s runs against itself" % (title, subject, peer))
            subject = peer
        for bench, (ours, theirs) in measure_pair(options, subject, peer, extra, pinned, rounds).items():
            ratio, low, high = common.interval([b / a for a, b in zip(ours, theirs)])
            figures.append({"row": title, "bench": bench, "subject": subject, "peer": peer, "subject_ns": ours,
                            "peer_ns": theirs, "rate_ratio": [ratio, low, high]})
            rows.append([title, bench, "%s %.2f" % (subject, statistics.median(ours)),
                         "%s %.2f" % (peer, statistics.median(theirs)), "%.2f" % ratio, "%.2f..%.2f" % (low, high)])
    common.table("Micro benchmarks, %d rounds (ratio: how many times the peer's rate)" % rounds,
                 ["row", "operation", "ns", "peer's ns", "ratio", "95%"], rows)
    common.finish(options, "micro benchmarks", figures)


if __name__ == "__main__":
    common.main(measure)
