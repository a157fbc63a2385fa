#!/usr/bin/python3
"""Private memory per idle TCP connection that has echoed once: the slope of the Private_* lines of the server's smaps
over the number of connections. Beside it the kernel's slab, of both ends of each connection and of the whole machine,
so a rough figure."""

import time

import common

CONNECTIONS = (1000, 4000, 8000)


def private_bytes(pid):
    """Sum of the Private_* lines of a process, in bytes."""
    with open("/proc/%d/smaps" % pid, encoding="utf-8") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def slab_bytes():
    with open("/proc/meminfo", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))


def measure():
    options = common.arguments(__doc__).parse_args()
    common.prepare(options)
    figures, rows = {}, []
    for name in common.servers_present(options):
        private, slab = [], []
        for connections in CONNECTIONS:
            with common.Server(options, name) as server:
                before = slab_bytes()
                with common.Held(options, server.address, connections):
                    time.sleep(0.2)
                    private.append((connections, private_bytes(server.pid)))
                    slab.append((connections, slab_bytes() - before))
        figures[name] = {"bytes_per_connection": common.slope(private), "slab_per_connection": common.slope(slab),
                         "private": private}
        rows.append([name, "%.0f" % figures[name]["bytes_per_connection"],
                     *("%d" % (size // 1024) for _, size in private),
                     "%.0f" % figures[name]["slab_per_connection"]])
    common.table("Memory per idle connection (slope over %s connections)" % ", ".join(map(str, CONNECTIONS)),
                 ["server", "bytes each", *("KiB at %d" % n for n in CONNECTIONS), "kernel slab each"], rows)
    common.finish(options, "memory per idle connection", figures)


if __name__ == "__main__":
    common.main(measure)
