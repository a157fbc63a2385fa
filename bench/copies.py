#!/usr/bin/python3
"""Bytes copied by memcpy and memmove per byte of payload, counted inside the server by copies.so and told apart by who
copies: OpenSSL's libraries, or the program and what it is built on. The difference between a load of 2N messages and one
of N, so that handshakes cancel out. What the compiler makes of copies of a fixed length, what ciphers move while they
encrypt and what the kernel copies is not seen (copies.c)."""

import os
import tempfile
import time

import common
import syscalls

ROWS = ((64, 64, "64 x 64 B"), (64, 1024, "64 x 1 KiB"), (64, 16384, "64 x 16 KiB"), (16, 65536, "16 x 64 KiB"))
OPENSSL = ("libssl", "libcrypto")


def per_message(options, name, connections, size, messages):
    """Bytes and calls per message by the object that copies."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "copies")
        environment = {"LD_PRELOAD": common.program(options, "copies.so"), "BENCH_COUNT": path}
        with common.Server(options, name, environment=environment, tls=not options.plain) as server:
            counts = [syscalls.snapshot(server, path, 0)]
            for number in (messages, 2 * messages):
                common.run_load(options, server.address, connections=connections, size=size, messages=number,
                                tls=not options.plain)
                time.sleep(0.2)  # until the server has seen all connections end
                counts.append(syscalls.snapshot(server, path, len(counts)))
    first, second, third = counts
    return {who: {what: ((third[who][what] - second[who][what]) - (second[who][what] - first[who][what])) / messages
                  for what in ("bytes", "calls")} for who in first}


def measure():
    parser = common.arguments(__doc__)
    parser.add_argument("--messages", type=int, help="N (10,000; quick: 2,000)")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    options = parser.parse_args()
    common.prepare(options)
    if not common.program(options, "copies.so"):
        raise common.Failure("there is no copies.so in the build")
    messages = options.messages or (2000 if options.quick else 10000)
    figures, rows = {}, []
    for name in common.servers_present(options, tls=not options.plain):
        figures[name] = {}
        for connections, size, title in ROWS:
            found = per_message(options, name, connections, size, messages)
            theirs = sum(one["bytes"] for who, one in found.items() if who.startswith(OPENSSL)) / size
            ours = sum(one["bytes"] for who, one in found.items() if not who.startswith(OPENSSL)) / size
            figures[name][title] = {"openssl": theirs, "others": ours, "objects": found}
            rows.append([name, title, *("%.3f" % (round(value, 3) + 0.0) for value in (theirs + ours, theirs, ours)),
                         "%.1f" % sum(one["calls"] for one in found.values())])
    common.table("Bytes copied per byte of payload%s" % ("" if options.plain else ", TLS"),
                 ["server", "row", "all", "by OpenSSL", "by others", "calls a message"], rows)
    common.finish(options, "bytes copied per byte of payload", figures)


if __name__ == "__main__":
    common.main(measure)
