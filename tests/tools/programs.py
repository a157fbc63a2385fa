"""What the tests of the programs share: starting and ending them, talking to them, and saying what came out."""

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / os.environ.get("BUILD", "build")
TEPAL = BUILD / "tools" / "tepal"
LIMIT = 30  # seconds; a program that takes longer for anything hangs
DRIVERS = ("epoll", "poll")


class Skip(Exception):
    """Raised by a test that cannot be made here; its text is the reason."""


class Program:
    """A program of ours that runs, its output read by threads. Ended by the test or, failing that, by run_tests."""

    running = []

    def __init__(self, *command, stdin=None, stderr=subprocess.PIPE, environment=None):
        self.process = subprocess.Popen([str(word) for word in command], stdin=stdin or subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=stderr, text=True,
                                        env={**os.environ, **(environment or {})})
        self.lines = queue.Queue()
        self.errors = []
        self.threads = [threading.Thread(target=self._read_lines, daemon=True)]
        if self.process.stderr:
            self.threads.append(threading.Thread(target=self._read_errors, daemon=True))
        for thread in self.threads:
            thread.start()
        Program.running.append(self)

    def _read_lines(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def line(self):
        """The next line of its output; fails if none comes."""
        line = self.lines.get(timeout=LIMIT)
        assert line is not None, f"it ended instead of saying something: {''.join(self.errors)}"
        return line

    def rest(self):
        """The lines that are left once it has ended."""
        self.wait()
        found = []
        while (line := self.lines.get(timeout=LIMIT)) is not None:
            found.append(line)
        return found

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        status = self.process.wait(LIMIT)
        for thread in self.threads:
            thread.join(LIMIT)
        return status

    def stop(self):
        """Ask it to end; returns its exit status."""
        self.signal()
        return self.wait()

    def error_text(self):
        return "".join(self.errors)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Echo(Program):
    """A `tepal echo`, listening. `address` is the first address, as it prints it."""

    def __init__(self, driver, *options, listen=("127.0.0.1:0",)):
        where = [word for address in listen for word in ("--listen", address)]
        super().__init__(TEPAL, "echo", "--driver", driver, *where, *options)
        self.addresses = []
        for _ in listen:
            line = self.line()
            assert line.startswith("listening "), line
            self.addresses.append(line.removeprefix("listening "))
        self.address = self.addresses[0]

    def dial(self):
        return dial(self.address)


def run(*command, timeout=LIMIT):
    """Run a program to its end: (status, output, errors)."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def dial(address):
    """A socket connected to an address as Tepal prints it."""
    if address.startswith("unix:"):
        name = address.removeprefix("unix:")
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT)
        connection.connect("\0" + name[1:] if name.startswith("@") else name)
        return connection
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=LIMIT)


def read_all(connection):
    """Everything until the end of the stream."""
    found = bytearray()
    while part := connection.recv(65536):
        found += part
    return bytes(found)


def read_exactly(connection, length):
    found = bytearray()
    while len(found) < length:
        part = connection.recv(length - len(found))
        assert part, f"the stream ended after {len(found)} of {length} bytes"
        found += part
    return bytes(found)


def eventually(condition, what):
    """Wait until a condition holds that nothing tells us of (another process's state)."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.002)


def folder():
    """A new folder that goes with the test."""
    return tempfile.TemporaryDirectory(prefix="tepal-test-")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def has_tls():
    return "without TLS" not in run(TEPAL, "--version")[1]


def needs_tls():
    if not has_tls():
        raise Skip("this Tepal was built without TLS")


def run_tests(prefix, tests, wanted):
    """Run {name: function}, those whose names contain `wanted`. Returns [passed, failed, skipped]."""
    totals = [0, 0, 0]
    for name, test in tests.items():
        name = f"{prefix}/{name}"
        if wanted not in name:
            continue
        try:
            test()
            print(f"PASS  {name}")
            totals[0] += 1
        except Skip as reason:
            print(f"SKIP  {name}: {reason}")
            totals[2] += 1
        except Exception:
            print(f"FAIL  {name}")
            print("".join(f"      {line}\n" for line in traceback.format_exc().splitlines()), end="")
            for program in Program.running:
                print(f"      status {program.process.poll()}, errors: {program.error_text()!r}")
            totals[1] += 1
        for program in Program.running:
            program.kill()
        Program.running.clear()
        sys.stdout.flush()
    return totals
