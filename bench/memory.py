#!/usr/bin/python3
"""Private memory per idle connection that has echoed once: the slope of the Private_* lines of the server's smaps over
the number of connections. Beside it the kernel's slab, of both ends of each connection and of the whole machine, so a
rough figure. With --tls the connections are encrypted, and beside the servers stands what OpenSSL's own objects take:
as many server ends of connections made in memory, with their buffers released."""

import json
import subprocess
import time

import common

CONNECTIONS = (1000, 4000, 8000)
TLS_CONNECTIONS = (500, 2000, 4000)


def private_bytes(pid):
    """Sum of the Private_* lines of a process, in bytes."""
    with open("/proc/%d/smaps" % pid, encoding="utf-8") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def slab_bytes():
    with open("/proc/meminfo", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:"))


def of_server(options, name, counts):
    """Private bytes of a server, and the machine's slab, at each number of connections."""
    private, slab = [], []
    for connections in counts:
        with common.Server(options, name, tls=options.tls) as server:
            before = slab_bytes()
            with common.Held(options, server.address, connections, options.tls):
                time.sleep(0.2)
                private.append((connections, private_bytes(server.pid)))
                slab.append((connections, slab_bytes() - before))
    return private, slab


def of_openssl(options, counts):
    """Private bytes of a program that holds so many SSL objects, and what malloc has in use for one."""
    private = []
    for number in counts:
        with subprocess.Popen([common.program(options, "tls_objects"), "--objects", str(number),
                               *common.tls_arguments(options)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            said = process.stdout.readline()
            if not said.startswith("{"):
                raise common.Failure("tls_objects ended without a word")
            private.append((number, private_bytes(process.pid)))
            process.communicate("", timeout=30)
    return private, json.loads(said)["heap_bytes"]


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--tls", action="store_true", help="encrypted connections")
    options = parser.parse_args()
    common.prepare(options)
    counts = TLS_CONNECTIONS if options.tls else CONNECTIONS
    figures, rows = {}, []

    def add(name, private, slab=None):
        figures[name] = {"bytes_per_connection": common.slope(private), "private": private,
                         "slab_per_connection": common.slope(slab) if slab else None}
        rows.append([name, "%.0f" % figures[name]["bytes_per_connection"],
                     *("%d" % (size // 1024) for _, size in private),
                     "%.0f" % figures[name]["slab_per_connection"] if slab else ""])

    for name in common.servers_present(options, tls=options.tls):
        add(name, *of_server(options, name, counts))
    if options.tls:
        private, heap = of_openssl(options, counts)
        add("OpenSSL alone", private)
        figures["OpenSSL alone"]["heap_bytes"] = heap
    common.table("Memory per idle %sconnection (slope over %s connections)"
                 % ("TLS " if options.tls else "", ", ".join(map(str, counts))),
                 ["server", "bytes each", *("KiB at %d" % n for n in counts), "kernel slab each"], rows)
    if options.tls:
        print("\nOf an object of OpenSSL's, malloc has %.0f bytes in use." % heap)
    common.finish(options, "memory per idle connection", figures)


if __name__ == "__main__":
    common.main(measure)
