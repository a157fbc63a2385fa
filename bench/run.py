#!/usr/bin/python3
"""CPU time per message, server and client together, in interleaved pairs: A B, B A, A B, ... on two CPUs, in one run,
with a server paired with itself to show the noise. Of each pair the median ratio and its bootstrap 95% interval."""

import statistics
import time

import common

# Title, connections, bytes of a message.
ROWS = (
    ("64 x 64 B", 64, 64),
    ("64 x 1 KiB", 64, 1024),
    ("64 x 64 KiB", 64, 65536),
    ("1,000 x 64 B", 1000, 64),
)
SPLIT_ROW = "64 x 64 B, 16 writes"
ALL_ROWS = tuple(row[0] for row in ROWS) + (SPLIT_ROW,)


class Side:
    """One side of a pair: a server and how it is started."""

    def __init__(self, name, extra=()):
        self.name = name
        self.extra = tuple(extra)

    def __str__(self):
        return " ".join((self.name, *self.extra)).replace("--split 16", "16 writes") \
            .replace("--split-bufs 16", "16 buffers")


class Pair:
    """Two sides and what each round found."""

    def __init__(self, first, second):
        self.sides = (first, second)
        self.rounds = []

    def ratios(self, figure):
        return [first[figure] / second[figure] for first, second in self.rounds]

    def settled(self, within):
        """Whether the interval of the whole CPU time's ratio is within so many percent of its median."""
        if len(self.rounds) < 3:
            return False
        median, low, high = common.interval(self.ratios("cpu"), 1000)
        return max(high - median, median - low) <= within / 100 * median


def pairs_of(row, present, subject):
    """The pairs of a row: the subject with each peer, and the first of the peers with itself."""
    peers = [name for name in present if name != subject]
    if row != SPLIT_ROW:
        itself = common.LIMIT if common.LIMIT in present else subject
        return [Pair(Side(subject), Side(name)) for name in peers] + [Pair(Side(itself), Side(itself))]
    many, one = ("--split", "16"), ("--split-bufs", "16")
    # A hand-written server that is the subject for want of Tepal gathers; a library is asked to do so by itself.
    ours = Side(subject, one if subject == common.LIMIT else many)
    pairs = [Pair(ours, Side("libuv", extra)) for extra in (many, one) if "libuv" in peers]
    pairs += [Pair(ours, Side(name, one)) for name in peers if name == common.LIMIT]
    pairs += [Pair(ours, Side(name, many)) for name in peers if name == "libevent"]
    return pairs + [Pair(ours, ours)]


def once(options, side, connections, size):
    """Start a server, load it, end it. Microseconds of CPU per message and what else the load generator saw."""
    with common.Server(options, side.name, extra=side.extra) as server:
        seen = common.run_load(options, server.address, connections=connections, size=size, seconds=options.seconds,
                               warm_up=options.warm_up, server_pid=server.pid)
    if seen["messages"] == 0:
        raise common.Failure("%s answered no message within %g s" % (side, options.seconds))
    server_us = seen["server_us"] / seen["messages"]
    client_us = (seen["client_user_us"] + seen["client_system_us"]) / seen["messages"]
    return {"cpu": server_us + client_us, "server": server_us, "client": client_us,
            "per_second": seen["messages"] / seen["seconds"],
            **{name: seen[name] for name in ("p50_us", "p99_us", "p999_us")}}


def measure_row(options, row, pairs, deadline):
    """Rounds over all pairs of a row, the order within each pair turned every time."""
    connections, size = next(((c, s) for title, c, s in ROWS if title == row), (64, 64))
    for number in range(options.pairs):
        if number >= options.rounds and all(pair.settled(options.within) for pair in pairs):
            break
        if time.monotonic() > deadline and number >= 1:
            common.note("%s: stopped by --minutes after %d rounds" % (row, number))
            break
        for pair in pairs:
            if number >= options.rounds and pair.settled(options.within):
                continue
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {which: once(options, pair.sides[which], connections, size) for which in order}
            pair.rounds.append((found[0], found[1]))
        common.note("%s: round %d" % (row, number + 1))


def show_servers(row, pairs):
    """Each side's own figures: medians over all rounds that it took part in."""
    found = {}
    for pair in pairs:
        for which in (0, 1):
            found.setdefault(str(pair.sides[which]), []).extend(rounds[which] for rounds in pair.rounds)
    names = ("cpu", "server", "client", "per_second", "p50_us", "p99_us", "p999_us")
    medians = {side: {name: statistics.median(one[name] for one in seen) for name in names}
               for side, seen in found.items()}
    common.table("%s: each server (medians; CPU in microseconds a message, latency in microseconds)" % row,
                 ["server", "CPU", "server", "client", "messages/s", "p50", "p99", "p99.9"],
                 [[side] + ["%.2f" % one[name] for name in names[:3]] + ["%.0f" % one[name] for name in names[3:]]
                  for side, one in medians.items()])
    return medians


def show_pairs(row, pairs):
    figures, cells = [], []
    for pair in pairs:
        entry = {"pair": [str(side) for side in pair.sides], "rounds": len(pair.rounds)}
        line = ["%s / %s" % pair.sides, len(pair.rounds)]
        for figure in ("cpu", "server"):
            median, low, high = common.interval(pair.ratios(figure))
            entry[figure] = {"ratio": median, "low": low, "high": high, "ratios": pair.ratios(figure)}
            line += ["%.3f" % median, "%.3f..%.3f" % (low, high)]
        figures.append(entry)
        cells.append(line)
    common.table("%s: ratios of CPU time per message" % row,
                 ["pair", "rounds", "server + client", "95%", "server alone", "95%"], cells)
    return figures


def parse():
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="of each pair, at least (12; quick: 3)")
    parser.add_argument("--pairs", type=int, help="go on up to this number while an interval is wider than --within")
    parser.add_argument("--within", type=float, default=1.5, help="percent of the median (1.5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time of one run (0.5)")
    parser.add_argument("--warm-up", type=float, default=0.15, help="seconds (0.15)")
    parser.add_argument("--minutes", type=float, default=14, help="begin no round after this time (14)")
    parser.add_argument("--row", action="append", choices=ALL_ROWS, help="only this row; may be repeated")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 12)
    options.pairs = max(options.pairs or 0, options.rounds)
    if options.quick:
        options.seconds = min(options.seconds, 0.25)
    return options


def measure():
    options = parse()
    common.prepare(options)
    present = common.servers_present(options)
    subject = common.SUBJECT if common.SUBJECT in present else present[0]
    rows = options.row or ALL_ROWS
    start, figures = time.monotonic(), {}
    for index, row in enumerate(rows):
        # Each row may use its share of the time, so that a slow one does not starve the last.
        deadline = start + options.minutes * 60 * (index + 1) / len(rows)
        pairs = pairs_of(row, present, subject)
        measure_row(options, row, pairs, deadline)
        figures[row] = {"servers": show_servers(row, pairs), "pairs": show_pairs(row, pairs)}
    common.finish(options, "CPU per message", figures)


if __name__ == "__main__":
    common.main(measure)
