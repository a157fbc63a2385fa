"""Tests of TLS in `tepal echo` and `tepal load`: with each other and with Python's ssl, and what they say when it fails."""

import atexit
import functools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import threading
from pathlib import Path

from cert import ENCRYPTED_KEY, make_as, signed_by
from load import QUICK, BadServer, load, measured
from programs import LIMIT, TEPAL, Echo, dial, eventually, folder, needs_tls, read_exactly, run

TEXT = os.urandom(200000)


class Files:
    """Certificates and keys, each a pair of paths, made once for all tests."""

    def __init__(self):
        self.folder = folder()
        atexit.register(self.folder.cleanup)
        place = self.folder.name
        self.root = make_as(place, "root", "--is-ca")
        self.other = make_as(place, "other", "--is-ca")
        self.server = make_as(place, "server", *signed_by(self.root))
        self.elsewhere = make_as(place, "elsewhere", "--name", "elsewhere.test", *signed_by(self.root))
        self.expired = make_as(place, "expired", "--expired", *signed_by(self.root))
        self.alone = make_as(place, "alone")
        self.client = make_as(place, "client", "--name", "client.test", *signed_by(self.root))
        self.stranger = make_as(place, "stranger", "--name", "client.test", *signed_by(self.other))


@functools.cache
def files():
    needs_tls()
    return Files()


def pair(found):
    return "--tls-cert", found[0], "--tls-key", found[1]


def serve(driver, *options, certificate=None, **more):
    return Echo(driver, *pair(certificate or files().server), *options, **more)


def trusting():
    return "--tls", "--ca", files().root[0]


def context(version=None, certificate=None):
    found = ssl.create_default_context(cafile=files().root[0])
    if version:
        found.minimum_version = found.maximum_version = version
    if certificate:
        found.load_cert_chain(*certificate)
    return found


def shake(address, given=None):
    """A connection of Python's to a server of ours; an end without close_notify raises."""
    return (given or context()).wrap_socket(dial(address), server_hostname="localhost", suppress_ragged_eofs=False)


def echoes(connection, text=b"hello"):
    connection.sendall(text)
    assert read_exactly(connection, len(text)) == text


def until_the_end(connection):
    found = bytearray()
    while part := connection.recv(65536):
        found += part
    return bytes(found)


def ends_well(server, says=""):
    assert server.stop() == 0, server.error_text()
    assert server.error_text() == says, server.error_text()


class TlsServer(BadServer):
    """A BadServer that speaks TLS."""

    def __init__(self, certificate, answer, version=None):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        if version:
            self.context.minimum_version = self.context.maximum_version = version
        super().__init__(answer)

    def _serve(self, connection):
        try:
            connection = self.context.wrap_socket(connection, server_side=True)
        except OSError:  # refused by the client, and ssl.SSLError is one
            connection.close()
            return
        super()._serve(connection)


# Echo and load with each other


def every_byte_comes_back(driver):
    server = serve(driver)
    for version, name in (("1.3", "TLSv1.3"), ("1.2", "TLSv1.2")):
        for options in (["--connections", "50"],
                        ["--connections", "20", "--depth", "16", "--size", "100"],
                        ["--connections", "3", "--depth", "4", "--size", "1m"]):
            result = measured(driver, server.address, *QUICK, *trusting(), "--tls-version", version, *options)
            assert (result["bytes_lost"], result["connections_lost"]) == (0, 0), result
            assert result["messages"] > 0 and result["tls_version"] == name, result
            assert result["tls_cipher"] and result["tls_alpn"] is None, result
    ends_well(server)


def sessions_are_resumed(driver):
    for workers in ("1", "3"):
        server = serve(driver, "--workers", workers, "--stats")
        result = measured(driver, server.address, *QUICK, *trusting(), "--connections", "300")
        assert result["bytes_lost"] == 0 and 0 < result["tls_resumed"] < 300, result
        assert server.stop() == 0, server.error_text()
        stats = dict(line.split(None, 1) for line in server.rest())
        assert stats["tls_resumed"] == str(result["tls_resumed"]) and stats["not_accepted"] == "0", stats


def the_result_tells_what_was_agreed_upon(driver):
    server = serve(driver, "--alpn", "echo/2,echo/1")
    status, output, errors = load(driver, server.address, *QUICK, *trusting(), "--alpn", "other,echo/1")
    assert (status, errors) == (0, ""), (status, errors)
    assert re.search(r"^tls +TLSv1\.3, TLS_\w+, echo/1; 0 of 1 handshakes resumed$", output, re.M), output
    assert measured(driver, server.address, *QUICK, *trusting(), "--alpn", "echo/2,echo/1")["tls_alpn"] == "echo/2"
    assert measured(driver, server.address, *QUICK, *trusting())["tls_alpn"] is None
    ends_well(server)


def a_protocol_that_nobody_shares_ends_the_handshake(driver):
    server = serve(driver, "--alpn", "echo/1")
    status, output, errors = load(driver, server.address, *trusting(), "--alpn", "other")
    assert status == 1 and output == "" and "no application protocol that both ends speak" in errors, errors
    assert server.stop() == 0
    assert "no application protocol that both ends speak" in server.error_text(), server.error_text()


def a_unix_socket_needs_a_name(driver):
    with folder() as place:
        server = serve(driver, listen=[f"unix:{place}/echo"])
        status, _, errors = load(driver, server.address, *trusting())
        assert status == 2 and "--server-name NAME" in errors, errors
        for options in ([*trusting(), "--server-name", "localhost"], ["--tls", "--insecure"]):
            assert measured(driver, server.address, *QUICK, *options)["bytes_lost"] == 0
        ends_well(server)


def the_key_may_be_in_the_file_of_the_certificate(driver):
    with folder() as place:
        both = Path(place) / "both.pem"
        both.write_text("".join(Path(path).read_text() for path in files().client))
        server = Echo(driver, "--tls-cert", both, "--tls-clients", "must", "--tls-ca", files().root[0])
        result = measured(driver, server.address, *QUICK, *trusting(), "--server-name", "client.test", "--cert", both)
        assert result["bytes_lost"] == 0, result
        ends_well(server)


# What load makes of servers


def refused(driver, address, *options, says, hint=""):
    status, output, errors = load(driver, address, *options)
    assert status == 1 and output == "", (status, output, errors)
    assert f"cannot connect to {address}: " in errors and says in errors and hint in errors, errors


def a_certificate_that_is_not_good_is_explained(driver):
    with folder() as place:
        for certificate, options, says, hint in (
            (files().server, ["--tls"], "authority that is not trusted", "--ca FILE"),
            (files().server, ["--tls", "--ca", files().other[0]], "authority that is not trusted", "--insecure"),
            (files().alone, ["--tls"], "signed by itself", "--ca FILE"),
            (files().expired, trusting(), "has expired", ""),
            (files().elsewhere, trusting(), "for another host", "--server-name NAME"),
            (files().server, [*trusting(), "--server-name", "elsewhere.test"], "for another host", ""),
            (files().server, [*trusting(), "--server-name", "127.0.0.9"], "for another host", ""),
        ):
            server = serve(driver, certificate=certificate, listen=["127.0.0.1:0", f"unix:{place}/echo"])
            refused(driver, server.address, *options, says=says, hint=hint)
            assert measured(driver, server.address, *QUICK, "--tls", "--insecure")["bytes_lost"] == 0
            assert server.stop() == 0
            assert re.match(r"tepal echo: a connection from 127\.0\.0\.1:\d+ was not accepted: \w", server.error_text())
    server = serve(driver, certificate=files().elsewhere)
    result = measured(driver, server.address, *QUICK, *trusting(), "--server-name", "elsewhere.test")
    assert result["bytes_lost"] == 0, result
    ends_well(server)


def a_server_without_tls_is_explained(driver):
    def answers(with_what):
        return lambda connection, data, count: connection.sendall(with_what)

    for answer, says, hint in (
        (answers(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), "speaks plain HTTP", "without --tls"),
        (answers(b"220 mail.example.test ESMTP\r\n"), "does not speak TLS", "without --tls"),
        (lambda connection, data, count: False, "closed the connection during the TLS handshake", ""),
    ):
        with BadServer(answer) as server:
            refused(driver, server.address, *trusting(), says=says, hint=hint)
    server = Echo(driver)  # sends the client's own first message back
    refused(driver, server.address, *trusting(), says="peer")
    assert server.stop() == 0


def a_load_that_should_speak_tls_is_told_so(driver):
    server = serve(driver)
    status, _, errors = load(driver, server.address, "--seconds", "60")
    assert status == 1 and "1 connections were lost" in errors and "--tls" in errors, (status, errors)
    assert server.stop() == 0
    assert "the peer does not speak TLS" in server.error_text(), server.error_text()


def a_server_with_other_versions_is_explained(driver):
    with TlsServer(files().server, None, version=ssl.TLSVersion.TLSv1_2) as server:
        refused(driver, server.address, *trusting(), "--tls-version", "1.3",
                says="no version of TLS that both ends allow")


def an_end_without_close_notify_is_a_loss(driver):
    def cut(connection, data, count):
        connection.sendall(data)
        if count == 2:
            connection.shutdown(socket.SHUT_WR)  # of the socket: TLS is not told

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with TlsServer(files().server, cut, version=version) as server:
            status, output, errors = load(driver, server.address, *trusting(), "--seconds", "60", "--json")
            result = json.loads(output)
            assert status == 1 and result["connections_lost"] == 1, (status, result)
            assert "without saying that it was complete" in errors, errors


def wrong_files_of_the_client_are_explained(driver):
    with folder() as place:
        empty = os.path.join(place, "empty.pem")
        Path(empty).write_text("")
        for options, says in (
            (["--tls", "--ca", "/nowhere/ca.pem"], ["/nowhere/ca.pem", "No such file or directory"]),
            (["--tls", "--ca", empty], [empty, "PEM"]),
            ([*trusting(), "--cert", files().client[0], "--key", files().server[1]], ["does not belong"]),
            ([*trusting(), "--cert", files().client[0]], [files().client[0], "PEM"]),
        ):
            status, output, errors = load(driver, "127.0.0.1:1", *options)
            assert status == 1 and output == "" and errors.startswith("tepal load: no TLS: "), (status, errors)
            assert all(part in errors for part in says), (says, errors)


# What echo makes of its files and clients


def wrong_files_of_the_server_are_explained(driver):
    with folder() as place:
        nothing, secret = os.path.join(place, "nothing.pem"), os.path.join(place, "secret.pem")
        Path(nothing).write_text("this is no PEM\n")
        Path(secret).write_text(ENCRYPTED_KEY)
        certificate = files().server[0]
        for options, says in (
            (["--tls-cert", "/nowhere/cert.pem"], ["/nowhere/cert.pem", "No such file or directory"]),
            (["--tls-cert", certificate, "--tls-key", "/nowhere/key.pem"], ["/nowhere/key.pem", "No such file"]),
            (["--tls-cert", nothing], [nothing, "PEM"]),
            (["--tls-cert", certificate], [certificate, "PEM"]),
            (["--tls-cert", certificate, "--tls-key", nothing], [nothing, "PEM"]),
            (["--tls-cert", certificate, "--tls-key", files().client[1]], ["does not belong"]),
            (["--tls-cert", certificate, "--tls-key", secret], [secret, "encrypted"]),
            ([*pair(files().server), "--tls-clients", "may", "--tls-ca", "/nowhere/ca.pem"], ["/nowhere/ca.pem"]),
            ([*pair(files().server), "--tls-clients", "may", "--tls-ca", nothing], [nothing, "PEM"]),
        ):
            status, output, errors = run(TEPAL, "echo", "--driver", driver, "--listen", "127.0.0.1:0", *options)
            assert status == 1 and output == "" and errors.startswith("tepal echo: no TLS: "), (status, errors)
            assert all(part in errors for part in says), (says, errors)


def a_handshake_that_fails_is_told_with_its_address(driver):
    server = serve(driver)
    told = []
    for words, says in ((b"GET / HTTP/1.1\r\n\r\n", "the peer speaks plain HTTP, not TLS"),
                        (b"\0\1\2\3hello, this is no TLS\r\n", "the peer does not speak TLS"),
                        (b"", "the peer closed the connection during the TLS handshake")):
        with dial(server.address) as peer:
            told.append(f"tepal echo: a connection from 127.0.0.1:{peer.getsockname()[1]} was not accepted: {says}\n")
            peer.sendall(words)
            if not words:
                peer.shutdown(socket.SHUT_WR)
            eventually(lambda: len(server.errors) == len(told), "a failed handshake is told")
    with shake(server.address) as peer:  # it goes on
        echoes(peer)
    ends_well(server, says="".join(told))


def a_flood_of_failures_is_no_flood_of_words(driver):
    server = serve(driver, "--stats")
    count = 400
    for _ in range(count):
        with dial(server.address) as peer:
            peer.sendall(b"this is no TLS\r\n")
            try:
                peer.recv(100)
            except ConnectionResetError:
                pass
    assert server.stop() == 0
    more = re.findall(r"^tepal echo: (\d+) more connections were not accepted$", server.error_text(), re.M)
    lines = server.error_text().splitlines()
    assert len(lines) - len(more) + sum(map(int, more)) == count, server.error_text()
    assert len(lines) <= count / 4, server.error_text()
    assert f"not_accepted     {count}" in server.rest()


def clients_may_show_a_certificate(driver):
    server = serve(driver, "--tls-clients", "may", "--tls-ca", files().root[0])
    for options in ([], ["--cert", files().client[0], "--key", files().client[1]]):
        assert measured(driver, server.address, *QUICK, *trusting(), *options)["bytes_lost"] == 0
    assert server.error_text() == "", server.error_text()
    fails_as_a_client(driver, server, files().stranger)
    assert server.stop() == 0
    assert "issued by an authority that is not trusted" in server.error_text(), server.error_text()


def clients_must_show_a_certificate(driver):
    server = serve(driver, "--tls-clients", "must", "--tls-ca", files().root[0])
    options = ["--cert", files().client[0], "--key", files().client[1]]
    assert measured(driver, server.address, *QUICK, *trusting(), *options)["bytes_lost"] == 0
    assert server.error_text() == "", server.error_text()
    fails_as_a_client(driver, server, None)
    eventually(lambda: "showed no certificate" in server.error_text(), "it is told")
    fails_as_a_client(driver, server, files().stranger)
    fails_as_a_client(driver, server, files().expired)
    assert server.stop() == 0
    assert "has expired" in server.error_text(), server.error_text()


def fails_as_a_client(driver, server, certificate):
    """On either version, and it says why."""
    options = ["--cert", certificate[0], "--key", certificate[1]] if certificate else []
    status, _, errors = load(driver, server.address, *trusting(), *options, "--tls-version", "1.3", "--seconds", "60")
    assert status == 1 and "1 connections were lost; the first: the peer " in errors, (status, errors)
    status, output, errors = load(driver, server.address, *trusting(), *options, "--tls-version", "1.2")
    assert status == 1 and output == "" and "cannot connect to " in errors, (status, errors)


def a_signal_has_the_files_read_again(driver):
    with folder() as place:
        old, new = (make_as(place, name, *signed_by(files().root)) for name in ("old", "new"))
        used = make_as(place, "used", *signed_by(files().root))

        def put(certificate, key, says):
            told = len(server.errors)
            shutil.copy(certificate, used[0])
            shutil.copy(key, used[1])
            server.signal(signal.SIGHUP)
            eventually(lambda: len(server.errors) > told, "it says what came of it")
            assert says in server.errors[-1], server.error_text()

        def shown():
            with shake(server.address) as peer:
                echoes(peer)
                return peer.getpeercert()["serialNumber"]

        server = serve(driver, "--workers", "2", certificate=used)
        first = shake(server.address)
        found = [first.getpeercert()["serialNumber"]]
        for files_now in (old, new):
            put(*files_now, says=f"tepal echo: read {used[0]} again")
            found.append(shown())
        assert len(set(found)) == 3, found
        Path(place, "bad").write_text("this is no PEM\n")
        for certificate, key, says in ((old[0], new[1], "does not belong"),
                                       (f"{place}/bad", old[1], used[0]),
                                       (old[0], f"{place}/bad", used[1])):
            put(certificate, key, says)
            assert "the old certificate stays" in server.errors[-1], server.error_text()
            assert shown() == found[-1]
        os.unlink(used[0])
        told = len(server.errors)
        server.signal(signal.SIGHUP)
        eventually(lambda: len(server.errors) > told, "it says what came of it")
        assert "No such file or directory" in server.errors[-1], server.error_text()
        assert shown() == found[-1]
        with first:  # nothing of that touched it
            echoes(first)
        assert server.stop() == 0


def without_tls_that_signal_ends_it(driver):
    server = Echo(driver)
    server.signal(signal.SIGHUP)
    assert server.wait() == -signal.SIGHUP


# Ends


def an_idle_connection_ends_with_the_server(driver):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        server = serve(driver)
        with shake(server.address, context(version)) as peer:
            echoes(peer)
            server.signal()
            assert peer.recv(1) == b""
        assert server.wait() == 0 and server.error_text() == "", server.error_text()


def a_signal_lets_what_is_under_way_arrive(driver):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        server = serve(driver)
        with shake(server.address, context(version)) as peer:
            echoes(peer)  # a client may think that the handshake is done when the server does not yet
            peer.sendall(TEXT)
            server.signal()
            assert until_the_end(peer) == TEXT
        assert server.wait() == 0 and server.error_text() == "", server.error_text()


def a_peer_that_never_stops_sending_gets_an_end(driver):
    for version in ("1.2", "1.3"):
        server = serve(driver, "--grace", "1", "--stats")
        ended = []
        options = [*trusting(), "--tls-version", version, "--seconds", "60", "--limit", "1", "--depth", "8"]
        thread = threading.Thread(target=lambda: ended.append(load(driver, server.address, *options)))
        thread.start()
        eventually(lambda: is_busy(server), "there is a connection")
        assert server.stop() == 0 and "aborted          0" in server.rest(), server.error_text()
        thread.join(LIMIT)
        status, _, errors = ended[0]
        assert status == 1 and "connections were lost" in errors, (status, errors)


def is_busy(program):
    """Whether it has used processor time enough to be at work."""
    with open(f"/proc/{program.process.pid}/stat") as stat:
        words = stat.read().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12]) >= 10  # ticks


def a_handshake_that_hangs_does_not_hold_the_end_up(driver):
    server = serve(driver)
    with dial(server.address) as silent, shake(server.address) as peer:
        echoes(peer)
        silent.sendall(b"\x16\x03\x01")
        server.signal()
        assert peer.recv(1) == b""
        assert server.wait() == 0 and server.error_text() == "", server.error_text()


TESTS = {test.__name__: test for test in (
    every_byte_comes_back,
    sessions_are_resumed,
    the_result_tells_what_was_agreed_upon,
    a_protocol_that_nobody_shares_ends_the_handshake,
    a_unix_socket_needs_a_name,
    the_key_may_be_in_the_file_of_the_certificate,
    a_certificate_that_is_not_good_is_explained,
    a_server_without_tls_is_explained,
    a_load_that_should_speak_tls_is_told_so,
    a_server_with_other_versions_is_explained,
    an_end_without_close_notify_is_a_loss,
    wrong_files_of_the_client_are_explained,
    wrong_files_of_the_server_are_explained,
    a_handshake_that_fails_is_told_with_its_address,
    a_flood_of_failures_is_no_flood_of_words,
    clients_may_show_a_certificate,
    clients_must_show_a_certificate,
    a_signal_has_the_files_read_again,
    without_tls_that_signal_ends_it,
    an_idle_connection_ends_with_the_server,
    a_signal_lets_what_is_under_way_arrive,
    a_peer_that_never_stops_sending_gets_an_end,
    a_handshake_that_hangs_does_not_hold_the_end_up,
)}
