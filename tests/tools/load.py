"""Tests of `tepal load`: what it counts, what it notices, and what it prints."""

import json
import os
import pty
import resource
import signal
import socket
import subprocess
import threading

from programs import LIMIT, TEPAL, Echo, Program, Skip, eventually, folder, has_ipv6, run

QUICK = ("--seconds", "0.3")


def load(driver, address, *options):
    return run(TEPAL, "load", "--driver", driver, "--connect", address, *options)


def measured(driver, address, *options, status=0):
    """Run a load, and return its JSON."""
    ended, output, errors = load(driver, address, "--json", *options)
    assert ended == status, (ended, output, errors)
    if status == 0:
        assert errors == "", errors
    return json.loads(output)


class BadServer:
    """An echo server with a fault: what it does with each portion is up to `answer(connection, data, count)`."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        count = 0
        with connection:
            try:
                while data := connection.recv(65536):
                    if self.answer(connection, data, count) is False:
                        return
                    count += 1
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def every_byte_comes_back(driver):
    server = Echo(driver)
    for options in (["--connections", "50"],
                    ["--connections", "20", "--depth", "16", "--size", "100"],
                    ["--connections", "3", "--depth", "4", "--size", "1m"],
                    ["--connections", "2", "--depth", "300", "--size", "1"]):
        result = measured(driver, server.address, *QUICK, *options)
        assert result["bytes_lost"] == 0 and result["connections_lost"] == 0, result
        assert result["messages"] > 0 and result["driver"] == driver, result
        assert result["bytes_sent"] == result["bytes_received"] == result["messages"] * result["size"], result
        assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"] <= result["max_us"], result
    assert server.stop() == 0, server.error_text()
    assert server.error_text() == "", server.error_text()


def every_kind_of_address_is_reached(driver):
    with folder() as place:
        listen = ["127.0.0.1:0", f"unix:{place}/echo", f"unix:@tepal-test-{os.getpid()}-{driver}"]
        server = Echo(driver, listen=listen + (["[::1]:0"] if has_ipv6() else []))
        port = server.addresses[0].rsplit(":", 1)[1]
        for address in [*server.addresses, f"localhost:{port}"]:
            assert measured(driver, address, "--seconds", "0.1")["bytes_lost"] == 0
        assert server.stop() == 0


def a_source_address_can_be_chosen(driver):
    server = Echo(driver)
    assert measured(driver, server.address, *QUICK, "--source", "127.0.0.3")["bytes_lost"] == 0
    assert server.stop() == 0


def many_connections_are_opened(driver):
    server = Echo(driver, "--workers", "2")
    result = measured(driver, server.address, *QUICK, "--connections", "1000")
    assert result["connections"] == 1000 and result["bytes_lost"] == 0, result
    assert server.stop() == 0


def nine_thousand_connections_in_one_process(driver):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 9100:
        raise Skip("fewer than 9,100 descriptors are allowed here")
    server = Echo(driver)
    result = measured(driver, server.address, "--seconds", "0.5", "--connections", "9000")
    assert (result["connections"], result["bytes_lost"], result["connections_lost"]) == (9000, 0, 0), result
    assert server.stop() == 0


def the_result_is_printed_for_people(driver):
    server = Echo(driver)
    status, output, errors = load(driver, server.address, *QUICK, "--connections", "5")
    assert (status, errors) == (0, ""), (status, errors)
    for name in ("driver", "connections", "messages", "messages/s", "MiB/s", "latency", "bytes lost"):
        assert any(line.startswith(name + "  ") for line in output.splitlines()), (name, output)
    assert "\r" not in output, output
    assert server.stop() == 0


def no_progress_is_shown_in_a_pipe(driver):
    server = Echo(driver)
    status, _, errors = load(driver, server.address, "--seconds", "0.6")
    assert (status, errors) == (0, ""), (status, errors)
    assert server.stop() == 0


def progress_is_shown_on_a_terminal(driver):
    server = Echo(driver)
    ours, theirs = pty.openpty()
    shown = []

    def look():
        try:
            while data := os.read(ours, 4096):
                shown.append(data)
        except OSError:  # the other end is closed
            pass

    program = Program(TEPAL, "load", "--driver", driver, "--connect", server.address, "--seconds", "0.7",
                      stderr=theirs)
    os.close(theirs)
    reader = threading.Thread(target=look)
    reader.start()
    assert program.wait() == 0
    reader.join(LIMIT)
    os.close(ours)
    text = b"".join(shown)
    assert b"messages/s" in text and b"\n" not in text, text
    assert text.endswith(b"\r\x1b[K"), text
    assert server.stop() == 0


def a_refused_connection_is_explained(driver):
    with socket.socket() as closed:  # bound, so that nobody else gets the port, but not listening
        closed.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % closed.getsockname()[1]
        status, output, errors = load(driver, address, "--json")
    assert status == 1 and output == "", (status, output)
    assert f"cannot connect to {address}: Connection refused" in errors and "tepal echo" in errors, errors


def a_name_that_does_not_exist_is_explained(driver):
    status, output, errors = load(driver, "no-such-host.invalid:7000")
    assert status == 1 and output == "" and "cannot connect to no-such-host.invalid:7000" in errors, (status, errors)


def too_many_connections_are_explained(driver):
    done = subprocess.run(["bash", "-c", 'ulimit -n 100 && exec "$@"', "bash", TEPAL, "load", "--driver", driver,
                           "--connect", "127.0.0.1:1", "--connections", "100"],
                          capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and "ulimit -n" in done.stderr, (done.returncode, done.stderr)


def a_wrong_byte_is_noticed(driver):
    def flip(connection, data, count):
        if count == 5:
            data = data[:10] + bytes([data[10] ^ 1]) + data[11:]
        connection.sendall(data)

    with BadServer(flip) as server:
        result = measured(driver, server.address, *QUICK, status=1)
        assert result["bytes_lost"] == 1 and result["connections_lost"] == 0, result


def a_swapped_pair_of_messages_is_noticed(driver):
    held = []

    def swap(connection, data, count):
        held.append(data)
        if len(held) == 2:
            connection.sendall(held.pop() + held.pop())

    with BadServer(swap) as server:
        # One byte a message: two reads would join, and be no swap, were the server quicker than the client.
        result = measured(driver, server.address, *QUICK, "--depth", "8", "--size", "8000", "--limit", "1", status=1)
        assert result["bytes_lost"] > 0, result


def a_missing_byte_is_noticed(driver):
    def shorten(connection, data, count):
        connection.sendall(data[1:] if count == 5 else data)

    with BadServer(shorten) as server:
        result = measured(driver, server.address, *QUICK, "--limit", "0.3", status=1)
        assert result["bytes_lost"] >= 1 and result["connections_lost"] == 1, result


def a_repeated_byte_is_noticed(driver):
    def repeat(connection, data, count):
        connection.sendall(data + data[-1:] if count == 5 else data)

    with BadServer(repeat) as server:
        result = measured(driver, server.address, *QUICK, status=1)
        assert result["bytes_lost"] >= 1, result


def a_server_that_hangs_up_is_noticed(driver):
    with BadServer(lambda connection, data, count: False) as server:
        ended, output, errors = load(driver, server.address, "--json", "--seconds", "60", "--connections", "4")
        result = json.loads(output)
        assert ended == 1 and result["connections_lost"] == 4 and result["bytes_lost"] == 4 * 64, (result, errors)
        assert "4 connections were lost" in errors, errors


def a_silent_server_is_given_up(driver):
    with BadServer(lambda connection, data, count: None) as server:
        result = measured(driver, server.address, "--seconds", "0.1", "--limit", "0.2", status=1)
        assert result["bytes_lost"] == 64 and result["messages"] == 0, result


def a_signal_ends_it_early_with_its_result(driver):
    server = Echo(driver, "--stats")
    program = Program(TEPAL, "load", "--driver", driver, "--connect", server.address, "--seconds", "3600", "--json")
    eventually(lambda: has_begun(program), "it does not work")
    program.signal(signal.SIGINT)
    assert program.wait() == 0, program.error_text()
    result = json.loads(program.line())
    assert result["bytes_lost"] == 0 and result["seconds"] < 60, result
    assert server.stop() == 0


def has_begun(program):
    """Whether it has used processor time: for its handlers to be in place it has to run its loop."""
    with open(f"/proc/{program.process.pid}/stat") as stat:
        words = stat.read().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12]) >= 3  # ticks


TESTS = {test.__name__: test for test in (
    every_byte_comes_back,
    every_kind_of_address_is_reached,
    a_source_address_can_be_chosen,
    many_connections_are_opened,
    nine_thousand_connections_in_one_process,
    the_result_is_printed_for_people,
    no_progress_is_shown_in_a_pipe,
    progress_is_shown_on_a_terminal,
    a_refused_connection_is_explained,
    a_name_that_does_not_exist_is_explained,
    too_many_connections_are_explained,
    a_wrong_byte_is_noticed,
    a_swapped_pair_of_messages_is_noticed,
    a_missing_byte_is_noticed,
    a_repeated_byte_is_noticed,
    a_server_that_hangs_up_is_noticed,
    a_silent_server_is_given_up,
    a_signal_ends_it_early_with_its_result,
)}
