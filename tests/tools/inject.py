"""Every system call that the server uses fails in turn, by strace(1): what is lost is said, and it goes on or ends well."""

import json
import os
import shutil
import signal

from programs import TEPAL, Echo, Program, Skip, folder, run

CONNECTIONS = 6  # of a load

# What comes and goes by itself: nothing may be lost. (False EAGAINs are not among them: no edge would follow.)
HARMLESS = (
    "recvfrom:error=EINTR:when=3+5",
    "sendto:error=EINTR:when=3+5",
    "accept4:error=EINTR:when=1+2",
    "accept4:error=ECONNABORTED:when=1+2",
    "accept4:error=EPROTO:when=2+3",
    "accept4:error=EMFILE:when=2+50",
    "accept4:error=ENOMEM:when=2+50",
    "epoll_wait,epoll_pwait,epoll_pwait2,poll,ppoll:error=EINTR:when=2+3",
    "setsockopt:error=ENOBUFS:when=4+2",
    "ioctl:error=ENOTTY:when=1+1",
    "shutdown:error=ENOTCONN:when=1+1",
    "close:error=EINTR:when=AFTERWARDS+2",
)
# What ends a connection: that one alone.
LOSSES = (
    "recvfrom:error=ECONNRESET:when=20+40",
    "recvfrom:error=ENOMEM:when=20+40",
    "sendto:error=EPIPE:when=20+40",
    "sendto:error=ENOBUFS:when=20+40",
    "accept4:error=EPERM:when=2+4",
)
# What a server cannot do without: it says so and ends.
FATAL = (
    "epoll_create1,eventfd2:error=EMFILE",
    "socket:error=EAFNOSUPPORT",
    "bind:error=EACCES",
    "listen:error=EADDRINUSE",
)


def strace(rule, log):
    if shutil.which("strace") is None or run("strace", "-o", log, "true")[0] != 0:
        raise Skip("strace cannot be used here")
    return ["strace", "-f", "-qq", "-o", log, "-e", f"trace={rule.split(':')[0]}", "-e", f"inject={rule}"]


def check_injected(rule, log):
    """A rule that never came to anything would show nothing."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        assert any("(INJECTED)" in line for line in lines), f"{rule} did not happen"


class InjectedEcho(Echo):
    """An Echo whose system calls fail by this rule."""

    def __init__(self, driver, rule, place):
        self.rule, self.log = rule, f"{place}/log"
        Program.__init__(self, *strace(rule, self.log), TEPAL, "echo", "--driver", driver, "--listen", "127.0.0.1:0")
        self.address = self.line().removeprefix("listening ")

    def stop(self):
        """strace holds signals back until its program ends, so that one is told."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
            for child in children.read().split():
                os.kill(int(child), signal.SIGTERM)
        status = self.wait()
        check_injected(self.rule, self.log)
        return status


def after_the_connections():
    """Which close(2) is the first that is neither of the program's loader nor of a connection: strace(1) fails a call
    by leaving it out, and the peer of a descriptor that stays open would wait for its end."""
    with folder() as place:
        log = f"{place}/log"
        if shutil.which("strace") is None or run("strace", "-o", log, "-e", "trace=close", TEPAL, "--version")[0] != 0:
            raise Skip("strace cannot be used here")
        with open(log, encoding="utf-8", errors="replace") as lines:
            return sum(line.startswith("close(") for line in lines) + CONNECTIONS + 1


def drive(driver, address):
    """A short load: its result, or None if it could not connect."""
    status, output, errors = run(TEPAL, "load", "--driver", driver, "--connect", address, "--connections",
                                 str(CONNECTIONS), "--seconds", "0.1", "--limit", "5", "--json")
    assert status in (0, 1) and (output or errors), (status, output, errors)
    return json.loads(output) if output else None


def harmless_failures_lose_nothing(driver):
    afterwards = str(after_the_connections())
    for rule in HARMLESS:
        rule = rule.replace("AFTERWARDS", afterwards)
        with folder() as place:
            server = InjectedEcho(driver, rule, place)
            result = drive(driver, server.address)
            assert result and (result["bytes_lost"], result["connections_lost"]) == (0, 0), (rule, result)
            assert server.stop() == 0, (rule, server.error_text())


def a_failure_of_a_connection_is_its_own(driver):
    for rule in LOSSES:
        with folder() as place:
            server = InjectedEcho(driver, rule, place)
            for _ in range(2):  # it goes on
                drive(driver, server.address)
            assert server.stop() == 0, (rule, server.error_text())


def failures_of_a_start_are_explained(driver):
    for rule in FATAL:
        if driver == "poll" and rule.startswith("epoll_create1"):
            rule = rule.replace("epoll_create1,", "")
        with folder() as place:
            log = f"{place}/log"
            status, output, errors = run(*strace(rule, log), TEPAL, "echo", "--driver", driver, "--listen",
                                         "127.0.0.1:0")
            check_injected(rule, log)
        assert status == 1 and output == "" and "cannot" in errors, (rule, status, output, errors)


TESTS = {test.__name__: test for test in (
    harmless_failures_lose_nothing,
    a_failure_of_a_connection_is_its_own,
    failures_of_a_start_are_explained,
)}
