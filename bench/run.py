#!/usr/bin/python3
"""CPU time per message, server and client together, in interleaved pairs: A B, B A, A B, ... on two CPUs, in one run,
with a server paired with itself to show the noise. Of each pair the median ratio and its bootstrap 95% interval; a claim
quotes the worse end. To measure one claim by itself: --row '32 x 64 B' --pair tepal-uring,uring --pairs 60"""

import statistics
import time

import common
import workloads

TITLES = [row.title for row in workloads.ROWS]
FIGURES = ("cpu", "server", "client", "per_second", "p50_us", "p99_us", "p999_us")


def once(options, side, row):
    """Start a server, load it, end it. Microseconds of CPU per message and what else the load generator saw."""
    with common.Server(options, side.name, extra=side.extra, tls=row.tls) as server:
        seen = common.run_load(options, server.address, seconds=options.seconds, warm_up=options.warm_up,
                               server_pid=server.pid, **row.load)
    if seen["messages"] == 0:
        raise common.Failure("%s answered no message within %g s" % (side, options.seconds))
    server_us = seen["server_us"] / seen["messages"]
    client_us = (seen["client_user_us"] + seen["client_system_us"]) / seen["messages"]
    return {"cpu": server_us + client_us, "server": server_us, "client": client_us,
            "per_second": seen["messages"] / seen["seconds"],
            **{name: seen[name] for name in ("p50_us", "p99_us", "p999_us")}}


def measure_row(options, row, pairs, deadline):
    """Rounds over the pairs that have not settled, the order within each pair turned every time."""
    for number in range(options.pairs):
        open_pairs = [pair for pair in pairs
                      if number < options.rounds or not pair.settled(row.decides, options.within)]
        for pair in open_pairs:
            if time.monotonic() > deadline:
                common.note("%s: its time is over after %d rounds" % (row.title, number))
                return
            order = (0, 1) if number % 2 == 0 else (1, 0)
            found = {which: once(options, pair.sides[which], row) for which in order}
            pair.rounds.append((found[0], found[1]))
        if not open_pairs:
            return
        common.note("%s: round %d, %d pairs" % (row.title, number + 1, len(open_pairs)))


def show_servers(row, pairs):
    """Each side's own figures: medians over all rounds that it took part in."""
    found = {}
    for pair in pairs:
        for which in (0, 1):
            found.setdefault(str(pair.sides[which]), []).extend(rounds[which] for rounds in pair.rounds)
    medians = {side: {name: statistics.median(one[name] for one in seen) for name in FIGURES}
               for side, seen in found.items() if seen}
    common.table("%s: each server (medians; CPU in microseconds a %s, latency in microseconds)" % (row.title, row.unit),
                 ["server", "CPU", "server", "client", "a second", "p50", "p99", "p99.9"],
                 [[side] + ["%.2f" % one[name] for name in FIGURES[:3]] + ["%.0f" % one[name] for name in FIGURES[3:]]
                  for side, one in medians.items()])
    return medians


def show_pairs(row, pairs):
    """The ratios of each pair that was measured."""
    figures, cells = [], []
    for pair in pairs:
        if not pair.rounds:
            continue
        one = {"pair": str(pair), "first": str(pair.sides[0]), "second": str(pair.sides[1]), "rounds": len(pair.rounds)}
        for figure in ("cpu", "server", "client", "p50_us"):
            ratios = pair.ratios(figure) if all(side[figure] > 0 for seen in pair.rounds for side in seen) else None
            one[figure] = list(common.interval(ratios)) if ratios else None
        one["raw"] = [[first[row.decides], second[row.decides]] for first, second in pair.rounds]
        figures.append(one)
        cells.append([one["pair"], one["rounds"]] + [text for figure in ("cpu", "server", "client")
                                                     for text in ratio_cells(one[figure])])
    common.table("%s: ratios of CPU a %s (below 1: the first takes less)" % (row.title, row.unit),
                 ["pair", "rounds", "server + client", "95%", "server", "95%", "client", "95%"], cells)
    return figures


def ratio_cells(three):
    if three is None:
        return ["", ""]
    return ["%.3f" % three[0], "%.3f..%.3f" % tuple(three[1:])]


def parse():
    parser = common.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="of each pair, at least (12; quick: 3)")
    parser.add_argument("--pairs", type=int,
                        help="go on up to this number of rounds while an interval is wider than --within (60; quick: 3)")
    parser.add_argument("--within", type=float, default=1.5, help="percent of the median (1.5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time of one run (0.5)")
    parser.add_argument("--warm-up", type=float, default=0.15, help="seconds (0.15)")
    parser.add_argument("--minutes", type=float,
                        help="for all rows, each of which has its share, what others leave included (60; quick: 4)")
    parser.add_argument("--row", action="append", choices=TITLES, metavar="TITLE",
                        help="only this row; may be repeated: " + ", ".join(TITLES))
    parser.add_argument("--pair", action="append", metavar="A,B", default=[],
                        help="only this pair, and a server with itself; may be repeated")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 12)
    options.pairs = max(options.pairs or (3 if options.quick else 60), options.rounds)
    options.minutes = options.minutes or (4 if options.quick else 60)
    if options.quick:
        options.seconds = min(options.seconds, 0.2)
        options.warm_up = min(options.warm_up, 0.1)
        options.row = options.row or list(workloads.QUICK)
    return options


def measure():
    options = parse()
    common.prepare(options)
    named = [name for pair in workloads.named(options.pair) for name in pair]
    rows = [row for row in workloads.ROWS if not options.row or row.title in options.row]
    present = {tls: common.servers_found(options, list(dict.fromkeys(named)), tls)
               for tls in sorted({row.tls for row in rows})}
    rows = [row for row in rows if workloads.pairs_of(row, present[row.tls], options.pair)]
    if not rows:
        raise common.Failure("there is no server for any of these rows: build with the option bench")
    end, figures = time.monotonic() + options.minutes * 60, {}
    for index, row in enumerate(rows):
        now = time.monotonic()
        pairs = workloads.pairs_of(row, present[row.tls], options.pair)
        measure_row(options, row, pairs, now + max(end - now, 0) / (len(rows) - index))
        if not any(pair.rounds for pair in pairs):
            common.note("%s: not measured, the time is over" % row.title)
            continue
        figures[row.title] = {"unit": row.unit, "decides": row.decides, "servers": show_servers(row, pairs),
                              "pairs": show_pairs(row, pairs)}
        common.finish(options, "CPU per message", figures)  # after each row, so that nothing is lost


if __name__ == "__main__":
    common.main(measure)
