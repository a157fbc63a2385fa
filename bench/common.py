"""What the measuring scripts share: the list of servers, starting and stopping them, the load generator, statistics
and tables. It starts programs of the build directory alone, on loopback, and ends only what it started."""

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Name, program in the build's bench/, environment.
SERVERS = {
    "tepal": ("echo_tepal", {}),
    "tepal-epoll": ("echo_tepal", {"TEPAL_DRIVER": "epoll"}),
    "tepal-uring": ("echo_tepal", {"TEPAL_DRIVER": "uring"}),
    "tepal-poll": ("echo_tepal", {"TEPAL_DRIVER": "poll"}),
    "epoll": ("echo_epoll", {}),
    "epoll-level": ("echo_epoll_level", {}),
    "uring": ("echo_uring", {}),
    "libuv": ("echo_libuv", {}),
    "libevent": ("echo_libevent", {}),
    "asio": ("echo_asio", {}),
    "asyncio": ("echo_asyncio", {}),
    "epoll-tls": ("echo_epoll_tls", {}),
    "libevent-tls": ("echo_libevent_tls", {}),
}
# What each of Tepal's drivers is held against: the same kernel interface by hand.
LIMITS = {"tepal-epoll": "epoll", "tepal-uring": "uring"}
# Measured only when named with --servers: `tepal` is whichever driver is chosen, so one of the two above.
NOT_BY_DEFAULT = ("tepal", "tepal-poll", "epoll-level", "asyncio")
# Servers that know nothing but TLS, and those that can be asked for it; Tepal on both drivers is held against one limit.
TLS_ONLY = ("epoll-tls", "libevent-tls")
TLS_ABLE = ("tepal", "tepal-epoll", "tepal-uring", "tepal-poll", "asyncio", *TLS_ONLY)
TLS_LIMITS = {"tepal-epoll": "epoll-tls", "tepal-uring": "epoll-tls"}
TLS_DAYS = 30


class Failure(Exception):
    """A measurement that cannot be used; its text says why."""


class Nothing(Failure):
    """None of the servers that were named can do what is measured, which is no failure."""


def arguments(description):
    """The options that every script takes; the caller adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--build", default=os.environ.get("BUILD", "build-bench"), help="build directory")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--servers", help="comma-separated names out of: " + ", ".join(SERVERS))
    parser.add_argument("--server-cpu", type=int, default=1)
    parser.add_argument("--load-cpu", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    return parser


def prepare(options):
    """Make ends of the process orderly, and the limits those that thousands of connections need."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options.build = os.path.join(ROOT, options.build)
    cpus = os.sched_getaffinity(0)
    if options.server_cpu not in cpus or options.load_cpu not in cpus:
        note("not both CPUs %d and %d are here: nothing is pinned" % (options.server_cpu, options.load_cpu))
        options.server_cpu = options.load_cpu = None


def note(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def program(options, name):
    """Path of a built program, or None."""
    path = os.path.join(options.build, "bench", name)
    return path if os.path.exists(path) else None


def tls_arguments(options):
    """What a server is told for TLS: a P-256 certificate and its key in the build directory, made where there are none
    that are good for another day."""
    folder = os.path.join(options.build, "bench", "tls")
    certificate, key = os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")
    good = os.path.exists(certificate) and os.path.exists(key) and subprocess.run(
        ["openssl", "x509", "-in", certificate, "-checkend", "86400"], capture_output=True, check=False).returncode == 0
    if not good:
        os.makedirs(folder, exist_ok=True)
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days",
             str(TLS_DAYS), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", key, "-out", certificate], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure("openssl makes no certificate: " + done.stderr.strip())
    return ("--tls-cert", certificate, "--tls-key", key)


def refusal(options, name, tls=False):
    """Why a server cannot run here, or None: a program that is not built, a driver or a kernel interface refused."""
    binary = program(options, SERVERS[name][0])
    if not binary:
        return "there is no %s in %s/bench" % (SERVERS[name][0], options.build)
    extra = tls_arguments(options) if tls else ()
    with subprocess.Popen([binary, "--port", "0", *extra], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env={**os.environ, **SERVERS[name][1]}) as process:
        started = process.stdout.readline().startswith("listening ")
        process.terminate()
        said = process.communicate()[1].strip()
    return None if started else said or "it does not start"


def able(name, tls):
    """Whether a server is one that can do with TLS, or without."""
    return name in TLS_ABLE if tls else name not in TLS_ONLY


def servers_found(options, default=None, tls=False):
    """Names of the servers to measure, through TLS or without, which may be none; says which are left out and why."""
    wanted = options.servers.split(",") if options.servers else default or \
        [name for name in SERVERS if name not in NOT_BY_DEFAULT]
    present = []
    for name in wanted:
        if name not in SERVERS:
            raise Failure("no server is called %s; there are %s" % (name, ", ".join(SERVERS)))
        if not able(name, tls):
            continue
        why = refusal(options, name, tls)
        if why is None:
            present.append(name)
        else:
            note("%s is left out: %s" % (name, why))
    return present


def servers_present(options, default=None, tls=False):
    """The same, where it must be one at least."""
    present = servers_found(options, default, tls)
    if options.servers and not any(able(name, tls) for name in options.servers.split(",")):
        raise Nothing("%s: none of them is %s" % (options.servers, "for TLS" if tls else "without TLS"))
    if not present:
        raise Failure("nothing to measure in %s/bench: build with the option bench" % options.build)
    return present


def pinned(cpu):
    return None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})


class Server:
    """A server under test, running; use it in a with statement."""

    def __init__(self, options, name, extra=(), environment=None, wrapper=(), patience=20, tls=False):
        binary, own = SERVERS[name]
        command = [*wrapper, program(options, binary), "--port", "0", *extra,
                   *(tls_arguments(options) if tls else ())]
        self.name = name
        self.report = None
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **own, **(environment or {})}, preexec_fn=pinned(options.server_cpu))
        self.pid = self.process.pid
        try:
            self.address = self._announced(patience)
        except BaseException:
            self._kill()
            raise

    def _announced(self, patience):
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise Failure("%s says nothing for %d seconds" % (self.name, patience))
        line = self.process.stdout.readline().strip()
        if not line.startswith("listening 127."):
            raise Failure("%s says %r where `listening 127.0.0.1:PORT` was expected" % (self.name, line))
        return line.split()[1]

    def _kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _output(self, seconds, wake=False):
        """What it has printed, once it has ended; None if it has not, and was not woken. valgrind keeps signals back
        while a program sleeps in io_uring_enter, so a connection that comes makes it look at them."""
        if wake:
            host, port = self.address.split(":")
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), timeout=1).close()
        try:
            return self.process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            if wake:
                raise
            return None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self._kill()
            return
        self.process.terminate()
        try:
            text = self._output(2)
            if text is None:
                text = self._output(28, wake=True)
        except subprocess.TimeoutExpired:
            self._kill()
            raise Failure("%s does not end on SIGTERM" % self.name) from None
        if self.process.returncode != 0:
            raise Failure("%s ended with status %d" % (self.name, self.process.returncode))
        lines = text.strip().splitlines()
        self.report = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None


def run_load(options, address, limit=60, **flags):
    """Run the load generator to its end and return its report; a lost byte is a failure."""
    command = [program(options, "load"), "--connect", address, "--limit", str(limit)]
    if options.load_cpu is not None:
        command += ["--cpu", str(options.load_cpu)]
    for name, value in flags.items():
        if value is not False:
            command += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit + 30)
    except subprocess.TimeoutExpired:
        raise Failure("the load generator does not end") from None
    if done.returncode != 0:
        raise Failure("the load generator failed: %s %s" % (done.stderr.strip(), done.stdout.strip()))
    return json.loads(done.stdout)


class Held:
    """Idle connections that have echoed once, held open; use it in a with statement."""

    def __init__(self, options, address, connections, tls=False):
        self.process = subprocess.Popen(
            [program(options, "load"), "--connect", address, "--connections", str(connections), "--hold",
             *(["--tls"] if tls else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(options.load_cpu))
        if not select.select([self.process.stdout], [], [], 60)[0] or \
                self.process.stdout.readline() != "held %d\n" % connections:
            self.process.kill()
            self.process.wait()
            raise Failure("%d connections could not be opened" % connections)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        try:
            self.process.communicate("", timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def interval(values, resamples=4000):
    """Median and its bootstrap 95% interval; the same values always give the same interval."""
    if len(values) < 2:
        return statistics.median(values), values[0], values[0]
    source = random.Random(1)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(resamples))
    return statistics.median(values), medians[int(resamples * 0.025)], medians[int(resamples * 0.975) - 1]


def slope(points):
    """Slope of the least-squares line through (x, y) points."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def table(title, heads, rows):
    """A Markdown table on stdout, its columns aligned so that it also reads as plain text."""
    texts = [heads] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    print("\n### %s\n" % title)
    for index, row in enumerate(texts):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("| " + " | ".join(cells) + " |")
        if index == 0:
            print("|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (width + 1) + ":" for width in widths[1:]]) + "|")
    sys.stdout.flush()


def machine():
    """Where the figures come from."""
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def finish(options, what, figures):
    """Write the JSON file, if one was asked for."""
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"measured": what, "machine": machine(), "quick": options.quick, "figures": figures}, file,
                      indent=1)
            file.write("\n")


def main(measure):
    """Run a script's main function; a failure is one line and status 1."""
    try:
        measure()
    except Nothing as nothing:
        note(str(nothing))
    except Failure as failure:
        note(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
