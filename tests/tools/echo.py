"""Tests of `tepal echo`: what it answers, and how it ends."""

import os
import socket
import threading

from programs import TEPAL, Echo, Skip, eventually, folder, has_ipv6, read_all, read_exactly, run

TEXT = os.urandom(1 << 20)


def check_echo(connection, text=TEXT):
    """Send, end our side, and read it all back."""
    with connection:
        sender = threading.Thread(target=lambda: (connection.sendall(text), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        found = read_all(connection)
        sender.join()
        assert found == text, f"{len(found)} of {len(text)} bytes came back, or not the same"


def stats_of(server):
    """End the server and read its counters."""
    assert server.stop() == 0, server.error_text()
    return {words[0]: words[1] for line in server.rest() if (words := line.split(None, 1))}


def the_real_port_is_printed(driver):
    server = Echo(driver)
    host, port = server.address.rsplit(":", 1)
    assert host == "127.0.0.1" and int(port) > 0, server.address
    check_echo(server.dial())
    assert server.stop() == 0
    assert server.error_text() == "", server.error_text()


def ipv6_is_served(driver):
    if not has_ipv6():
        raise Skip("there is no IPv6 here")
    server = Echo(driver, listen=["[::1]:0"])
    assert server.address.startswith("[::1]:"), server.address
    check_echo(server.dial())
    assert server.stop() == 0


def a_unix_path_is_served_and_removed(driver):
    with folder() as place:
        path = os.path.join(place, "echo")
        server = Echo(driver, listen=[f"unix:{path}"])
        assert server.address == f"unix:{path}", server.address
        check_echo(server.dial())
        assert server.stop() == 0
        assert not os.path.exists(path), "the path is still there"


def an_abstract_unix_name_is_served(driver):
    name = f"unix:@tepal-test-{os.getpid()}-{driver}"
    server = Echo(driver, listen=[name])
    assert server.address == name, server.address
    check_echo(server.dial())
    assert server.stop() == 0


def a_name_is_looked_up(driver):
    server = Echo(driver, listen=["localhost:0"])
    check_echo(server.dial())
    assert server.stop() == 0


def several_addresses_are_served_at_once(driver):
    with folder() as place:
        server = Echo(driver, listen=["127.0.0.1:0", f"unix:{place}/echo", "127.0.0.2:0"])
        assert len(server.addresses) == 3
        for address in server.addresses:
            server.address = address
            check_echo(server.dial())
        assert server.stop() == 0


def what_was_sent_before_the_half_close_comes_back(driver):
    server = Echo(driver)
    for length in (1, 100, 70000, len(TEXT)):
        check_echo(server.dial(), TEXT[:length])
    assert server.stop() == 0


def a_peer_that_does_not_read_is_not_read_from(driver):
    server = Echo(driver, "--stats")
    with server.dial() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.settimeout(0.5)
        sent = 0
        try:
            while sent < 256 << 20:
                sent += peer.send(TEXT)
        except TimeoutError:
            pass
        assert sent < 64 << 20, f"it took {sent} bytes without giving any back"
        peer.settimeout(30)
        peer.shutdown(socket.SHUT_WR)
        assert len(read_all(peer)) == sent
    assert int(stats_of(server)["pauses"]) >= 1


def many_connections_at_once(driver):
    server = Echo(driver, "--stats")
    peers = [server.dial() for _ in range(200)]
    for number, peer in enumerate(peers):
        peer.sendall(b"%06d" % number)
    for number, peer in enumerate(peers):
        assert read_exactly(peer, 6) == b"%06d" % number
        peer.close()
    stats = stats_of(server)
    assert stats["connections"] == "200" and stats["bytes"] == "1200", stats
    assert stats["driver"] == driver, stats
    assert int(stats["cpu_user_us"]) + int(stats["cpu_system_us"]) > 0, stats


def workers_share_a_port(driver):
    server = Echo(driver, "--workers", "3", "--stats")
    peers = [server.dial() for _ in range(120)]
    for peer in peers:
        peer.sendall(b"hello")
    for peer in peers:
        assert read_exactly(peer, 5) == b"hello"
        peer.close()
    assert server.stop() == 0, server.error_text()
    workers = [line.split() for line in server.rest() if line.startswith("worker ")]
    shares = [int(words[3]) for words in workers]
    assert len(shares) == 3 and sum(shares) == 120 and min(shares) > 0, shares


def workers_share_a_unix_path(driver):
    with folder() as place:
        server = Echo(driver, "--workers", "3", "--stats", listen=[f"unix:{place}/echo"])
        peers = [server.dial() for _ in range(60)]
        for peer in peers:
            peer.sendall(b"hello")
        for peer in peers:
            assert read_exactly(peer, 5) == b"hello"
            peer.close()
        assert stats_of(server)["connections"] == "60"


def an_idle_connection_ends_with_the_server(driver):
    server = Echo(driver)
    with server.dial() as peer:
        peer.sendall(b"hello")
        assert read_exactly(peer, 5) == b"hello"
        server.signal()
        assert peer.recv(1) == b""
    assert server.wait() == 0, server.error_text()


def a_signal_lets_what_is_under_way_arrive(driver):
    for workers in ("1", "2"):
        server = Echo(driver, "--workers", workers)
        with server.dial() as peer:
            peer.settimeout(0.3)
            sent = 0
            try:
                while True:  # until every buffer on the way is full
                    sent += peer.send(TEXT[:65536])
            except TimeoutError:
                pass
            server.signal()
            peer.settimeout(30)
            assert len(read_all(peer)) == sent
        assert server.wait() == 0, server.error_text()


def a_peer_that_never_stops_sending_gets_an_end(driver):
    server = Echo(driver, "--grace", "2", "--stats")
    with server.dial() as peer:
        began = threading.Event()

        def send():
            try:
                while True:
                    peer.sendall(TEXT[:10007])
                    began.set()
            except OSError:  # the server is gone
                pass

        sender = threading.Thread(target=send)
        sender.start()
        began.wait()
        server.signal()
        length, reset = 0, False
        try:
            while part := peer.recv(65536):
                length += len(part)
        except ConnectionResetError:
            reset = True  # on a busy machine a pause in its sending may look like the end of it
    sender.join()  # sending fails now
    assert server.wait() == 0 and server.error_text() == "", server.error_text()
    assert reset or f"bytes            {length}" in server.rest(), f"of what was echoed only {length} bytes came"


def a_peer_that_never_reads_is_cut_off_in_the_end(driver):
    server = Echo(driver, "--grace", "0.2")
    with server.dial() as peer:
        peer.settimeout(0.3)
        try:
            while True:
                peer.send(TEXT)
        except TimeoutError:
            pass
        assert server.stop() == 0, server.error_text()
        assert "cut off" in server.error_text(), server.error_text()


def a_second_signal_ends_it_at_once(driver):
    server = Echo(driver, "--grace", "3600")
    with server.dial() as peer:
        peer.settimeout(0.3)
        try:
            while True:
                peer.send(TEXT)
        except TimeoutError:
            pass
        server.signal()
        # Closing has begun when new connections are refused.
        eventually(lambda: is_refused(server), "the server still accepts")
        assert server.stop() == 0, server.error_text()


def is_refused(server):
    try:
        server.dial().close()
        return False
    except OSError:
        return True


def an_address_in_use_is_explained(driver):
    server = Echo(driver)
    status, output, errors = run(TEPAL, "echo", "--driver", driver, "--listen", server.address)
    assert status == 1 and output == "", (status, output)
    assert f"cannot listen on {server.address}: Address already in use" in errors, errors
    with folder() as place:
        other = Echo(driver, listen=[f"unix:{place}/echo"])
        status, _, errors = run(TEPAL, "echo", "--driver", driver, "--listen", other.address)
        assert status == 1 and "Address already in use" in errors, (status, errors)
        assert other.stop() == 0
    assert server.stop() == 0


def an_address_that_cannot_be_had_is_explained(driver):
    for address, says in {
        "192.0.2.1:0": "Cannot assign requested address",
        "unix:/nowhere/echo": "No such file or directory",
        "no-such-host.invalid:0": "cannot listen on no-such-host.invalid:0: ",
    }.items():
        status, output, errors = run(TEPAL, "echo", "--driver", driver, "--listen", address)
        assert status == 1 and output == "" and says in errors, (address, status, errors)


def an_unknown_driver_is_explained(driver):
    status, _, errors = run(TEPAL, "echo", "--driver", driver + "x", "--listen", "127.0.0.1:0")
    assert status == 1 and f"on driver {driver}x: there is no such driver" in errors, (status, errors)
    status, _, errors = run("env", f"TEPAL_DRIVER={driver}x", TEPAL, "echo", "--listen", "127.0.0.1:0")
    assert status == 1 and "TEPAL_DRIVER in the environment names no driver" in errors, (status, errors)


TESTS = {test.__name__: test for test in (
    the_real_port_is_printed,
    ipv6_is_served,
    a_unix_path_is_served_and_removed,
    an_abstract_unix_name_is_served,
    a_name_is_looked_up,
    several_addresses_are_served_at_once,
    what_was_sent_before_the_half_close_comes_back,
    a_peer_that_does_not_read_is_not_read_from,
    many_connections_at_once,
    workers_share_a_port,
    workers_share_a_unix_path,
    an_idle_connection_ends_with_the_server,
    a_signal_lets_what_is_under_way_arrive,
    a_peer_that_never_stops_sending_gets_an_end,
    a_peer_that_never_reads_is_cut_off_in_the_end,
    a_second_signal_ends_it_at_once,
    an_address_in_use_is_explained,
    an_address_that_cannot_be_had_is_explained,
    an_unknown_driver_is_explained,
)}
