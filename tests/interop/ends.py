"""What the tests with other people's programs share: our end of a connection (peer.c), theirs, and what both know."""

import functools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
from programs import BUILD, LIMIT, Program, Skip, eventually, folder, read_all  # noqa: E402, F401

PEER = BUILD / "tests" / "tls-peer"
PERIOD = 65521
ANSWER = "answer\n"
TALK = ("until=\n", f"send={ANSWER}", "close")  # a server's part of the smallest conversation: a line, an answer


@functools.cache
def period():
    """What the pattern of peer.c is made of."""
    return bytes(10 if index % 64 == 63 else 97 + (index * index + index // 64) % 26 for index in range(PERIOD))


def pattern(length):
    return (period() * (length // PERIOD + 1))[:length]


def summary(data):
    """A count and a sum, as peer.c prints them."""
    data = data.encode() if isinstance(data, str) else data
    return f"{len(data)} {zlib.crc32(data):08x}"


def needs(*programs):
    """Skip the test where a program of another's is not installed."""
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


class Peer(Program):
    """Our end. Its lines are looked at one by one, in order, and nothing may come that was not expected."""

    def __init__(self, driver, *words):
        super().__init__(PEER, *words, environment={"TEPAL_DRIVER": driver})
        line = self.line()
        assert line.startswith(f"driver {driver}, "), line

    def line(self):
        line = super().line()
        assert not line.startswith("reported "), line
        return line

    def expect(self, *starts):
        """The next lines begin so. Returns the last one."""
        for start in starts:
            line = self.line()
            assert f"{line} ".startswith(f"{start} "), f"{line!r} instead of {start!r}"
        return line

    def made(self, **wanted):
        """It is connected; what it says of that. A value in `wanted` is what it must say."""
        line = self.expect("made")
        found = re.fullmatch(r"made (?P<version>\S+) (?P<cipher>\S+) alpn=(?P<alpn>\S+) resumed=(?P<resumed>\d) "
                             r"verified=(?P<verified>\d) name=(?P<name>\S+) ocsp=(?P<ocsp>\d+) "
                             r"half_close=(?P<half_close>\d) peer=(?P<peer>.*)", line)
        assert found, line
        found = found.groupdict()
        for name, value in wanted.items():
            assert found[name] == str(value), f"{name} is not {value}: {line}"
        assert found["half_close"] == str(int(found["version"] == "TLSv1.3")), line
        return found

    def failed(self, *codes):
        """It was not connected, and is told why."""
        line = self.expect("failed")
        assert line.split()[1] in codes, f"{line!r} instead of {' or '.join(codes)}"
        return line

    def lost(self, code, data=None):
        """The connection has ended with a code, or "clean"; data is all that came on it."""
        return self.expect(f"lost {code}" + ("" if data is None else f" {summary(data)}"))

    def ended(self):
        """It has come to its end in good order: no signal, no leak that a sanitizer knows of."""
        self.expect("ended")
        status = self.wait()
        assert status == 0 and self.error_text() == "", (status, self.error_text())


class Server(Peer):
    """Our end as a server; ends after `count` connections."""

    def __init__(self, driver, certificates, *words, certificate="server", count=1, address="127.0.0.1:0"):
        super().__init__(driver, "--listen", address, "--certificate", certificates.pem(certificate),
                         "--count", str(count), *words)
        self.address = self.expect("listening").split()[1]

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])


class Client(Peer):
    """Our end as a client of 127.0.0.1 that trusts our authority and expects the host "localhost"."""

    def __init__(self, driver, certificates, port, *words, ca="ca", name="localhost", address=None):
        trust = ("--ca", certificates.crt(ca)) if ca else ()
        name = ("--server-name", name) if name else ()
        super().__init__(driver, "--connect", address or f"127.0.0.1:{port}", *trust, *name, *words)


class Other(Program):
    """Somebody else's program, at whose keyboard we sit."""

    def __init__(self, *command):
        needs(command[0])
        super().__init__(*command, stdin=subprocess.PIPE)
        self.seen = []

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def leave(self):
        """The end of its input."""
        self.process.stdin.close()

    def wait_for(self, part):
        """Read on until a line of its output holds that."""
        while part not in (line := self.line()):
            self.seen.append(line)
        self.seen.append(line)
        return line

    def all_output(self):
        self.seen += self.rest()
        return "\n".join(self.seen)

    def wait_for_error(self, part):
        """Wait until it has written something like that to its standard error."""
        eventually(lambda: part in self.error_text(), f"{part!r} among the errors of {self.process.args[:2]}")

    @functools.cached_property
    def port(self):
        """The port it listens on, of 127.0.0.1, as the kernel knows it: many programs print the 0 they were given."""
        found = []
        eventually(lambda: found.append(port_of(self.process.pid)) or found[-1], f"{self.process.args[0]} listens")
        return found[-1]


def port_of(process):
    """The port of a process's first listening socket for IPv4, or None."""
    inodes = set()
    for name in Path(f"/proc/{process}/fd").iterdir():
        try:
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(name)))
        except OSError:
            pass  # closed meanwhile
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            return int(words[1].rpartition(":")[2], 16)
    return None


def run_other(*command, data=b"", timeout=LIMIT):
    """Run somebody else's program to its end on some input: (status, output, errors), both as bytes."""
    needs(command[0])
    done = subprocess.run([str(word) for word in command], input=data, capture_output=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


class Background:
    """A function that runs on a thread of its own; result() gives what it returned, or raises what it raised."""

    def __init__(self, function, *arguments):
        self.outcome = []
        self.thread = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
        self.thread.start()

    def _run(self, function, *arguments):
        try:
            self.outcome = [function(*arguments), None]
        except BaseException as error:  # pylint: disable=broad-except
            self.outcome = [None, error]

    def result(self):
        self.thread.join(LIMIT)
        assert self.outcome, "a thread of the test hangs"
        if self.outcome[1]:
            raise self.outcome[1]
        return self.outcome[0]


class Listener:
    """A TCP server made of Python's sockets: each of `count` connections is given to a function, one after the other."""

    def __init__(self, serve, count=1, receive_bytes=None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(LIMIT)
        self.port = self.socket.getsockname()[1]
        self.background = Background(self._serve, serve, count)

    def _serve(self, serve, count):
        results = []
        with self.socket:
            for _ in range(count):
                connection = self.socket.accept()[0]
                connection.settimeout(LIMIT)
                with connection:
                    results.append(serve(connection))
        return results

    def result(self):
        """What the function returned for the last connection, once all are over."""
        return self.background.result()[-1]


def dial(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
    connection.settimeout(LIMIT)
    return connection


def reset_at_close(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_usable(driver):
    """None, or why there is no such driver, or no TLS, in this build or on this system."""
    done = subprocess.run([PEER], env={**os.environ, "TEPAL_DRIVER": driver}, capture_output=True, text=True,
                          timeout=LIMIT, check=False)
    line = done.stdout.partition("\n")[0]
    if line.endswith(", -"):
        return "the library was built without TLS"
    return None if line.startswith("driver ") else line


def case(test):
    """A test of this folder: test(driver, certificates). It is run on one driver."""
    test.drivers = "one"
    return test


def case_everywhere(test):
    """One that is run on every driver."""
    test.drivers = "every"
    return test


def cases_of(module, main_only):
    """{name: function} of a module: all its cases, or only those for every driver."""
    return {name: test for name, test in vars(module).items()
            if getattr(test, "drivers", None) in (("every",) if main_only else ("one", "every"))}
