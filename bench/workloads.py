"""The rows that run.py measures and the pairs of each, those that claims rest on first."""

import common

SIZES = ((64, "64 B"), (1024, "1 KiB"), (16384, "16 KiB"), (65536, "64 KiB"))
SUBJECTS = ("tepal-uring", "tepal-epoll")
PEERS = ("libuv", "asio")


class Row:
    """One workload: how the load is made, the servers' own options, and the figure whose interval must settle."""

    def __init__(self, title, decides="cpu", unit="message", extra=(), tls=False, **load):
        self.title = title
        self.decides = decides
        self.unit = unit
        self.extra = tuple(extra)
        self.tls = tls
        self.load = {**load, "tls": tls}


def echo(connections, size, name):
    return Row("{:,} x {}".format(connections, name), connections=connections, size=size)


# Claims are made for 32 connections and more; one connection alone shows latency.
ROWS = [echo(connections, size, name) for size, name in SIZES for connections in (32, 256, 1000)]
SPLIT = Row("16 small writes", decides="server", connections=64, size=64)
CHURN = Row("churn", decides="server", unit="connection", connections=32, size=64, churn=True)
IDLE = Row("32 busy, 5,000 idle", connections=32, size=64, idle=5000)
BULK = Row("bulk one way", unit="16 KiB", extra=("--sink",), connections=32, size=16384, sink=True)
ROWS += [SPLIT, CHURN, IDLE, BULK] + [echo(1, size, name) for size, name in SIZES]
ROWS += [Row("TLS {} x {}".format(connections, name), tls=True, connections=connections, size=size)
         for connections, size, name in ((64, 1024, "1 KiB"), (16, 65536, "64 KiB"), (64, 64, "64 B"),
                                         (64, 16384, "16 KiB"))]
ROWS += [Row("TLS handshakes, " + kind, decides="server", unit="connection", tls=True, connections=32, size=64,
             churn=True, resume=kind == "resumed") for kind in ("full", "resumed")]
QUICK = ("32 x 64 B", "256 x 1 KiB", "32 x 64 KiB", "16 small writes", "churn", "bulk one way", "1 x 64 B",
         "TLS 64 x 1 KiB", "TLS handshakes, full")

MANY, ONE = ("--split", "16"), ("--split-bufs", "16")


class Side:
    """One side of a pair: a server and how it is started."""

    def __init__(self, name, extra=()):
        self.name = name
        self.extra = tuple(extra)

    def __str__(self):
        return {MANY: "%s 16 writes", ONE: "%s 16 buffers"}.get(self.extra, "%s") % self.name


class Pair:
    """Two sides and what each round found."""

    def __init__(self, first, second):
        self.sides = (first, second)
        self.rounds = []

    def __str__(self):
        return "%s / %s" % self.sides

    def ratios(self, figure):
        return [first[figure] / second[figure] for first, second in self.rounds]

    def settled(self, figure, within):
        """Whether the interval of the figure's ratio is within so many percent of its median."""
        if len(self.rounds) < 3:
            return False
        median, low, high = common.interval(self.ratios(figure), 1000)
        return max(high - median, median - low) <= within / 100 * median


def named(wanted):
    """Pairs of names for those of --pair: `A,B`."""
    pairs = [tuple(text.split(",")) for text in wanted]
    for names in pairs:
        if len(names) != 2 or any(name not in common.SERVERS for name in names):
            raise common.Failure("--pair takes two servers, A,B, out of: " + ", ".join(common.SERVERS))
    return pairs


def tls_pairs(present):
    """Tepal with the limit and with libevent, and the limit with libevent; then the rest of what there is."""
    pairs = [("tepal-epoll", "epoll-tls"), ("tepal-epoll", "libevent-tls"), ("tepal-uring", "epoll-tls"),
             ("epoll-tls", "libevent-tls")]
    paired = {name for names in pairs for name in names}
    pairs += [("tepal-epoll", name) for name in present if name not in paired]
    return [names for names in pairs if names[0] in present and names[1] in present]


def default_pairs(present):
    """Each of Tepal's drivers with its limit, then with the peers, then the rest of what there is."""
    pairs = [(name, common.LIMITS[name]) for name in SUBJECTS]
    pairs += [(name, peer) for name in SUBJECTS for peer in PEERS]
    if "tepal" in present:
        pairs += [("tepal", peer) for peer in PEERS]
    pairs += [("tepal-uring", "tepal-epoll"), ("uring", "epoll"), ("uring", "libuv"), ("epoll", "libuv")]
    paired = {name for names in pairs for name in names}
    pairs += [("tepal-epoll", name) for name in present if name not in paired]
    return [names for names in pairs if names[0] in present and names[1] in present]


def split_pairs(names):
    """Answers in 16 pieces: written one by one, and by a library that can also as one gathering write. A loop by hand
    gathers; the one on io_uring answers with one send only."""
    pairs = []
    for first, second in names:
        if "uring" in (first, second):
            continue
        left = Side(first, ONE if first in common.LIMITS.values() else MANY)
        if second in common.LIMITS.values():
            pairs.append(Pair(left, Side(second, ONE)))
            continue
        pairs.append(Pair(left, Side(second, MANY)))
        if second == "libuv":
            pairs.append(Pair(left, Side(second, ONE)))
    return pairs


def pairs_of(row, present, wanted=()):
    """The pairs of a row; the last is a server with itself, which shows the noise. None where none of those wanted are
    here: plain servers take no part in a row of TLS, nor the other way round."""
    names = named(wanted) if wanted else tls_pairs(present) if row.tls else default_pairs(present)
    both = [pair for pair in names if pair[0] in present and pair[1] in present]
    if not present or (wanted and not both):
        return []
    names = [pair for pair in both if pair[0] != pair[1]]
    if row is SPLIT:
        pairs = split_pairs(names)
    else:
        pairs = [Pair(Side(first, row.extra), Side(second, row.extra)) for first, second in names]
    itself = next((name for name in ("uring", "epoll", "epoll-tls")
                   if name in present and (row is not SPLIT or name != "uring")), present[0])
    side = Side(itself, ONE if row is SPLIT else row.extra)
    return pairs + [Pair(side, side)]
