"""Tests of the programs in examples/: each does what its head comment says."""

import os
import re
import signal
import socket
import subprocess
import threading

import cert
import tls
from echo import check_echo
from programs import BUILD, LIMIT, ROOT, Echo, Program, dial, eventually, folder, read_all, read_exactly


def start(driver, name, *arguments, **more):
    return Program(BUILD / "examples" / name, *arguments, environment={"TEPAL_DRIVER": driver}, **more)


def port_of(program):
    """The port in the line that says where it listens."""
    line = program.line()
    found = re.search(r"listening on .*?(\d+)/?$", line)
    assert found, line
    return int(found.group(1))


def ends_well(program):
    assert program.stop() == 0, program.error_text()


def dial_port(port):
    return dial(f"127.0.0.1:{port}")


def echo_server_echoes(driver):
    program = start(driver, "echo_server")
    port = port_of(program)
    for _ in range(3):
        check_echo(dial_port(port))
    with dial_port(port) as peer:  # left open: the server ends it
        peer.sendall(b"hello")
        assert read_exactly(peer, 5) == b"hello"
        ends_well(program)


def echo_server_explains_a_port_in_use(driver):
    program = start(driver, "echo_server")
    other = start(driver, "echo_server", port_of(program))
    assert other.wait() == 1 and "Address already in use" in other.error_text(), other.error_text()
    ends_well(program)


def start_echo_short(driver):
    """It and a connection to it. It takes its port as given, and somebody else may have that by then: others are tried."""
    for _ in range(20):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = start(driver, "echo_short", port)
        dialed = []

        def it_listens_or_has_ended():
            try:
                dialed.append(dial_port(port))
            except ConnectionRefusedError:
                pass
            return dialed or "Address already in use" in program.error_text()

        eventually(it_listens_or_has_ended, "it does not listen")
        if dialed:
            return program, dialed[0]
    raise AssertionError("each of twenty ports was in use")


def echo_short_does_what_the_readme_shows(driver):
    program, dialed = start_echo_short(driver)
    with dialed as peer:
        peer.sendall(b"hello\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"hello\n"
    eventually(lambda: program.error_text() == "closed: all was sent back\n", "it said nothing of the end")
    program.kill()


def echo_client_gets_the_answer_after_its_half_close(driver):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = start(driver, "echo_client", "127.0.0.1", listener.getsockname()[1], "what is it")
        peer, _ = listener.accept()
        with peer:
            assert read_all(peer) == b"what is it"  # its end has come before anything was answered
            for number in range(1000):
                peer.sendall(b"line %d\n" % number)
        assert program.wait() == 0, program.error_text()
        assert program.rest() == [f"line {number}" for number in range(1000)]


def echo_client_lists_the_addresses_that_failed(driver):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        program = start(driver, "echo_client", "127.0.0.1", port, "hello")
        assert program.wait() == 1
        assert program.error_text() == f"127.0.0.1:{port}: Connection refused\n", program.error_text()


def read_line(connection):
    line = bytearray()
    while not line.endswith(b"\n"):
        line += read_exactly(connection, 1)
    return bytes(line)


def join(port):
    member = dial_port(port)
    assert read_line(member) == b"welcome\n"
    return member


def chat_sends_a_line_to_all_others(driver):
    program = start(driver, "chat")
    port = port_of(program)
    anna, bert, carl = (join(port) for _ in range(3))
    anna.sendall(b"hel")
    anna.sendall(b"lo\nall\n")
    for member in (bert, carl):
        assert read_line(member) == b"hello\n" and read_line(member) == b"all\n"
    bert.close()
    carl.sendall(b"bye\n")
    assert read_line(anna) == b"bye\n"
    anna.close()
    carl.close()
    ends_well(program)


def chat_drops_lines_for_a_member_who_does_not_read(driver):
    program = start(driver, "chat")
    port = port_of(program)
    speaker, sleeper, listener = (join(port) for _ in range(3))
    line = b"x" * 500 + b"\n"
    batch, count = 200, 20000
    heard = []

    def listen():
        while len(heard) < count and (found := listener.recv(1 << 20)):
            heard.extend([None] * found.count(b"\n"))

    reader = threading.Thread(target=listen)
    reader.start()
    for number in range(0, count, batch):
        speaker.sendall(line * batch)
        eventually(lambda: len(heard) >= number, "the other member reads")  # so it never misses any itself
    reader.join(LIMIT)
    assert len(heard) == count, len(heard)
    missed = got = 0
    lines = sleeper.makefile("rb")
    while got + missed < count:
        text = lines.readline()
        if found := re.match(rb"\(you missed (\d+) lines\)\n", text):
            missed += int(found.group(1))
        else:
            assert text == line, text
            got += 1
    assert missed > 0 and got > 0, (missed, got)
    ends_well(program)


def chat_ends_a_member_whose_line_is_too_long(driver):
    program = start(driver, "chat")
    port = port_of(program)
    with join(port) as member:
        member.sendall(b"x" * 512)
        try:
            assert member.recv(1) == b""
        except ConnectionResetError:
            pass
    ends_well(program)
    assert "a member was lost: Message too long" in program.error_text(), program.error_text()


HELLO = b"hello from tepal\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO)


def http_hello_answers_requests_in_any_pieces(driver):
    program = start(driver, "http_hello")
    port = port_of(program)
    request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    with dial_port(port) as peer:
        for byte in request:
            peer.sendall(bytes([byte]))
        assert read_exactly(peer, len(ANSWER)) == ANSWER
        peer.sendall(request * 500)  # at once, and on the same connection
        assert read_exactly(peer, 500 * len(ANSWER)) == ANSWER * 500
    ends_well(program)


def http_hello_answers_after_a_half_close(driver):
    program = start(driver, "http_hello")
    with dial_port(port_of(program)) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == ANSWER
    ends_well(program)


def http_hello_closes_when_asked_to(driver):
    program = start(driver, "http_hello")
    port = port_of(program)
    with dial_port(port) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        found = read_all(peer)
        assert found.count(b"HTTP/1.1 200 OK") == 1 and b"Connection: close\r\n" in found, found
    with dial_port(port) as peer:
        peer.sendall(b"x" * 100000)
        assert read_all(peer).startswith(b"HTTP/1.1 431 ")
    ends_well(program)


def relay_carries_both_ways_with_half_close(driver):
    server = Echo(driver)
    program = start(driver, "relay", *server.address.rsplit(":", 1))
    port = port_of(program)
    for _ in range(3):
        check_echo(dial_port(port))
    peers = [dial_port(port) for _ in range(50)]
    for peer in peers:
        peer.sendall(b"hello")
    for peer in peers:
        assert read_exactly(peer, 5) == b"hello"
        peer.close()
    ends_well(program)
    assert server.stop() == 0


def relay_ends_a_client_whose_server_is_not_there(driver):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        program = start(driver, "relay", "127.0.0.1", closed.getsockname()[1])
        try:
            with dial_port(port_of(program)) as peer:
                assert peer.recv(1) == b""
        except ConnectionResetError:  # it may come as early as in connect
            pass
    ends_well(program)
    assert "no connection to 127.0.0.1: Connection refused" in program.error_text(), program.error_text()


def timers_and_signals_beats_in_rhythm(driver):
    program = start(driver, "timers_and_signals", "5")
    assert program.wait() == 0, program.error_text()
    lines = program.rest()
    assert lines[0] == "first of all" and len(lines) == 6, lines
    for number, line in enumerate(lines[1:], 1):
        found = re.fullmatch(rf"beat {number}, (\d+) us late", line)  # a minus sign would be a timer that was early
        assert found, lines


def timers_and_signals_stops_at_a_signal(driver):
    for number in (signal.SIGINT, signal.SIGTERM):
        program = start(driver, "timers_and_signals", "0")
        while not program.line().startswith("beat 3,"):
            pass
        program.signal(number)
        assert program.wait() == 0, program.error_text()
        assert re.fullmatch(rf"signal {int(number)} after \d+ beats", program.rest()[-1])


def executor_counts_on_threads(driver):
    program = start(driver, "executor", "100", "2000000", "10")
    assert program.wait() == 0, program.error_text()
    assert program.rest() == ["25 primes below 100", "148933 primes below 2000000", "4 primes below 10"]
    assert "..." in program.error_text(), "the loop did not go on meanwhile"


def executor_passes_an_error_on(driver):
    program = start(driver, "executor", "10", "-1")
    assert program.wait() == 1
    assert program.error_text().endswith("executor: Invalid argument\n"), program.error_text()


def sim_requests_finds_the_bug_and_the_seed_finds_it_again(driver):
    program = start(driver, "sim_requests")
    assert program.wait() == 1
    lines = program.rest()
    assert lines[-1].endswith("seeds tried, one failed"), lines
    seed = re.search(r"TEPAL_SIM_SEED=(\d+)", lines[-2]).group(1)
    traces = []
    for _ in range(2):
        again = Program(BUILD / "examples" / "sim_requests", "--trace", environment={"TEPAL_SIM_SEED": seed})
        assert again.wait() == 1
        traces.append(again.rest())
        assert traces[-1][-1] == "1 seeds tried, one failed", traces[-1][-5:]
        assert all(line in traces[-1] for line in lines[:2]), lines
    assert traces[0] == traces[1]
    mended = Program(BUILD / "examples" / "sim_requests", "--fixed", environment={"TEPAL_SIM_SEED": seed})
    assert mended.wait() == 0, mended.rest()


def sim_requests_has_nothing_to_find_once_it_is_mended(driver):
    program = start(driver, "sim_requests", "--fixed", "2000")
    assert program.wait() == 0 and program.rest() == ["2000 seeds tried, none failed"]


def foreign_loop_is_driven_by_poll(driver):
    server = Echo(driver)
    program = start(driver, "foreign_loop", *server.address.rsplit(":", 1), stdin=subprocess.PIPE)
    for number in range(20):
        program.process.stdin.write(f"line {number}\n")
        program.process.stdin.flush()
        assert program.line() == f"line {number}"
    program.process.stdin.close()
    assert program.wait() == 0, program.error_text()
    assert server.stop() == 0


def start_tls_echo_server(driver):
    program = start(driver, "tls_echo_server", *tls.files().server)
    return program, port_of(program)


def ask(driver, port, text, authorities=None, host="localhost"):
    client = start(driver, "tls_client", host, port, tls.files().root[0] if authorities is None else authorities, text)
    return client.wait(), client.rest(), client.error_text()


def tls_echo_server_and_tls_client_talk(driver):
    server, port = start_tls_echo_server(driver)
    status, lines, errors = ask(driver, port, "hello")
    assert (status, lines) == (0, ["hello"]) and re.fullmatch(r"TLSv1\.3, TLS_\w+\n", errors), (status, lines, errors)
    with tls.shake(f"127.0.0.1:{port}") as peer:
        tls.echoes(peer, tls.TEXT)
        ends_well(server)
    assert "connection lost: the loop, transport or server is closed" in server.error_text(), server.error_text()


def tls_client_trusts_the_right_server_only(driver):
    server, port = start_tls_echo_server(driver)
    for authorities, host, says in (("", "localhost", "an authority that is not trusted"),
                                    (tls.files().other[0], "localhost", "an authority that is not trusted"),
                                    (None, "127.0.0.2", "Connection refused")):
        status, lines, errors = ask(driver, port, "hello", authorities, host)
        assert (status, lines) == (1, []) and errors.startswith("no connection: ") and says in errors, errors
    status, lines, errors = ask(driver, port, "hello", "/nowhere/ca.pem")
    assert (status, lines) == (1, []) and errors.startswith("no TLS: ") and "/nowhere/ca.pem" in errors, errors
    with dial_port(port) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: "the peer speaks plain HTTP" in server.error_text(), "it is told")
    ends_well(server)


def tls_echo_server_reads_its_certificate_again(driver):
    with folder() as place:
        certificate, key = cert.make_as(place, "it", *cert.signed_by(tls.files().root))
        program = start(driver, "tls_echo_server", certificate, key)
        port = port_of(program)
        found = set()
        for says in ("reloaded", "not reloaded", None):
            with tls.shake(f"127.0.0.1:{port}") as peer:
                tls.echoes(peer)
                found.add(peer.getpeercert()["serialNumber"])
            if says == "reloaded":
                cert.make_as(place, "it", "--force", *cert.signed_by(tls.files().root))
            elif says:
                os.unlink(key)
            if says:
                program.signal(signal.SIGHUP)
                eventually(lambda: any(line.startswith(says) for line in program.errors), says)
        assert len(found) == 2, found
        ends_well(program)


def tls_echo_server_explains_a_wrong_key(driver):
    program = start(driver, "tls_echo_server", tls.files().server[0], tls.files().client[1])
    assert program.wait() == 1 and program.error_text().startswith("no TLS: "), program.error_text()


def every_example_is_tested(driver):
    names = {os.path.splitext(entry)[0] for entry in os.listdir(ROOT / "examples") if entry.endswith(".c")}
    untested = [name for name in names if not any(test.startswith(name) for test in TESTS)]
    assert not untested, untested


TESTS = {test.__name__: test for test in (
    echo_server_echoes,
    echo_server_explains_a_port_in_use,
    echo_short_does_what_the_readme_shows,
    echo_client_gets_the_answer_after_its_half_close,
    echo_client_lists_the_addresses_that_failed,
    chat_sends_a_line_to_all_others,
    chat_drops_lines_for_a_member_who_does_not_read,
    chat_ends_a_member_whose_line_is_too_long,
    http_hello_answers_requests_in_any_pieces,
    http_hello_answers_after_a_half_close,
    http_hello_closes_when_asked_to,
    relay_carries_both_ways_with_half_close,
    relay_ends_a_client_whose_server_is_not_there,
    timers_and_signals_beats_in_rhythm,
    timers_and_signals_stops_at_a_signal,
    executor_counts_on_threads,
    executor_passes_an_error_on,
    sim_requests_finds_the_bug_and_the_seed_finds_it_again,
    sim_requests_has_nothing_to_find_once_it_is_mended,
    foreign_loop_is_driven_by_poll,
    tls_echo_server_and_tls_client_talk,
    tls_client_trusts_the_right_server_only,
    tls_echo_server_reads_its_certificate_again,
    tls_echo_server_explains_a_wrong_key,
    every_example_is_tested,
)}
