"""Python's ssl module, at both ends, and what can only be done with it: half-closes, torn and forged records, silence."""

import contextlib
import select
import socket
import ssl
import threading

from ends import (ANSWER, TALK, Background, Client, Listener, Server, case, case_everywhere, dial, pattern,
                  reset_at_close, summary)

VERSIONS = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}
TLS13 = ssl.TLSVersion.TLSv1_3


def client_context(certificates, version=None, ca="ca"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.crt(ca))
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def server_context(certificates, version=None, certificate="server"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.pem(certificate))
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def connect(server, context, **options):
    """A connection of Python's to a server of ours."""
    connection = dial(server.port)
    try:
        return context.wrap_socket(connection, server_hostname="localhost", suppress_ragged_eofs=False, **options)
    except OSError:
        connection.close()
        raise


def accepting(context, serve):
    """A server of Python's for one connection, which is given to serve."""

    def handshake(connection):
        with context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as connection:
            return serve(connection)

    return Listener(handshake)


def read_all(connection):
    """Everything until close_notify. Without one the end is an error."""
    found = bytearray()
    with contextlib.suppress(ssl.SSLZeroReturnError):  # so it is called if both ends have said theirs
        while part := connection.recv(65536):
            found += part
    return bytes(found)


def read_line(connection):
    found = b""
    while not found.endswith(b"\n"):
        part = connection.recv(1)
        assert part, f"it ended after {found}"
        found += part
    return found


def say_the_end(connection):
    """close_notify, without waiting for the other's: unwrap() would, so it must not be able to."""
    connection.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.unwrap()
    connection.settimeout(30)


def answer(connection):
    assert read_line(connection) == b"hello\n"
    connection.sendall(ANSWER.encode())
    say_the_end(connection)


@case_everywhere
def a_client_sends_and_receives(driver, certificates):
    sent, received = pattern(300000), pattern(1500000)
    for version, name in VERSIONS.items():
        server = Server(driver, certificates, f"bytes={len(sent)}", f"pattern={len(received)}", "close")
        with connect(server, client_context(certificates, version)) as connection:
            assert connection.version() == name
            connection.sendall(sent)
            assert read_all(connection) == received
        server.made(version=name)
        server.expect(f"received {summary(sent)}")
        server.lost("clean", sent)
        server.ended()


@case_everywhere
def a_server_receives_and_sends(driver, certificates):
    sent, received = pattern(300000), pattern(1500000)
    for version, name in VERSIONS.items():

        def serve(connection):
            found = b""
            while len(found) < len(sent):
                found += connection.recv(65536)
            connection.sendall(received)
            say_the_end(connection)
            return found

        server = accepting(server_context(certificates, version), serve)
        client = Client(driver, certificates, server.port, f"pattern={len(sent)}", "peer-eof", "close")
        client.made(version=name, verified=1, peer="CN=server")
        client.expect(f"eof {summary(received)}")
        client.lost("clean", received)
        client.ended()
        assert server.result() == sent


@case_everywhere
def a_client_ends_its_side_and_gets_a_long_answer(driver, certificates):
    received = pattern(4000000)
    server = Server(driver, certificates, "until=\n", "peer-eof", f"pattern={len(received)}", "eof")
    with connect(server, client_context(certificates, TLS13)) as connection:
        connection.sendall(b"hello\n")
        say_the_end(connection)
        assert read_all(connection) == received
    server.made(version="TLSv1.3")
    server.expect("received", f"eof {summary('hello' + chr(10))}")
    server.lost("clean", "hello\n")
    server.ended()


@case_everywhere
def a_server_ends_its_side_and_gets_a_long_answer(driver, certificates):
    received = pattern(4000000)

    def serve(connection):
        connection.sendall(b"hello\n")
        say_the_end(connection)
        return read_all(connection)

    server = accepting(server_context(certificates, TLS13), serve)
    client = Client(driver, certificates, server.port, "until=\n", "peer-eof", f"pattern={len(received)}", "eof")
    client.made(version="TLSv1.3")
    client.expect("received", f"eof {summary('hello' + chr(10))}")
    client.lost("clean", "hello\n")
    client.ended()
    assert server.result() == received


@case_everywhere
def our_client_ends_its_side_and_gets_a_long_answer(driver, certificates):
    sent, received = pattern(300000), pattern(4000000)

    def serve(connection):
        found = read_all(connection)
        connection.sendall(received)
        say_the_end(connection)
        return found

    server = accepting(server_context(certificates, TLS13), serve)
    client = Client(driver, certificates, server.port, f"pattern={len(sent)}", "eof", "peer-eof")
    client.made(version="TLSv1.3")
    client.expect(f"eof {summary(received)}")
    client.lost("clean", received)
    client.ended()
    assert server.result() == sent


@case_everywhere
def our_server_ends_its_side_and_gets_a_long_answer(driver, certificates):
    sent, received = pattern(300000), pattern(4000000)
    server = Server(driver, certificates, f"pattern={len(sent)}", "eof", "peer-eof")
    with connect(server, client_context(certificates, TLS13)) as connection:
        assert read_all(connection) == sent
        connection.sendall(received)
        say_the_end(connection)
        server.made(version="TLSv1.3")
        server.expect(f"eof {summary(received)}")
        server.lost("clean", received)
    server.ended()


@case
def on_tls_1_2_the_end_of_one_side_is_the_end_of_both(driver, certificates):
    server = Server(driver, certificates, "until=\n", "peer-eof", f"send={ANSWER}", "eof")
    with connect(server, client_context(certificates, ssl.TLSVersion.TLSv1_2)) as connection:
        connection.sendall(b"hello\n")
        say_the_end(connection)
        assert read_all(connection) in (ANSWER.encode(), b"")
    server.made(version="TLSv1.2")
    server.expect("received", "eof", "refused eof EOPNOTSUPP", "lost clean")
    server.ended()


@case_everywhere
def a_client_takes_up_its_session(driver, certificates):
    for version in VERSIONS:
        context, session = client_context(certificates, version), None
        server = Server(driver, certificates, *TALK, count=3)
        for number in range(3):
            with connect(server, context, session=session) as connection:
                connection.sendall(b"hello\n")
                assert read_all(connection) == ANSWER.encode()
                assert connection.session_reused == (number > 0)
                session = connection.session
            server.made(resumed=int(number > 0))
            server.expect("received", "lost clean")
        server.ended()


@case
def certificates_of_clients(driver, certificates):
    for name, good in ((None, False), ("client", True), ("strange-client", False)):
        for version in VERSIONS:
            server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"), *TALK)
            context = client_context(certificates, version)
            if name:
                context.load_cert_chain(certificates.pem(name))
            try:
                with connect(server, context) as connection:
                    connection.sendall(b"hello\n")
                    found = read_all(connection)
            except (ssl.SSLError, ConnectionError) as error:
                found = error
            if good:
                assert found == ANSWER.encode(), found
                server.made(verified=1, peer="CN=client")
                server.expect("received", "lost clean")
            else:
                assert isinstance(found, ssl.SSLError) and "alert" in str(found).lower(), found
                server.failed("TEPAL_ETLS_UNKNOWN_AUTHORITY" if name else "TEPAL_ETLS_NO_CERTIFICATE")
            server.ended()


@case
def certificates_for_servers(driver, certificates):
    for name, code in ((None, "TEPAL_ETLS_CERTIFICATE_REQUIRED"), ("client", None),
                       ("strange-client", "TEPAL_ETLS_REFUSED")):
        context = server_context(certificates, TLS13)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.crt("ca"))
        server = accepting(context, answer)
        ours = ("--certificate", certificates.pem(name)) if name else ()
        talk = ("peer-eof",) if code else ("send=hello\n", "until=\n", "peer-eof")  # or a reset may come first
        client = Client(driver, certificates, server.port, *ours, *talk)
        client.made()
        if code:
            client.lost(code)
            with contextlib.suppress(ssl.SSLError):
                server.result()
                raise AssertionError("Python was content")
        else:
            client.expect("received", "eof", "lost clean")
            server.result()
        client.ended()


@case_everywhere
def an_upgrade_in_the_middle(driver, certificates):
    """A line, an answer, then TLS: our server. The client does not wait, so its hello comes with its line."""
    for at_once in (False, True):
        server = Server(driver, certificates, "--starttls", "until=STARTTLS\n", "send=go on\n", "starttls", *TALK)
        with dial(server.port) as plain:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context(certificates).wrap_bio(incoming, outgoing, server_hostname="localhost")
            if at_once:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
            plain.sendall(b"STARTTLS\n" + outgoing.read())
            assert read_line(plain) == b"go on\n"
            pump(plain, incoming, outgoing, tls.do_handshake)
            pump(plain, incoming, outgoing, lambda: tls.write(b"hello\n"))
            assert pump(plain, incoming, outgoing, lambda: tls.read(100)) == ANSWER.encode()
        server.expect("made plain", "received")
        server.made(name="localhost")
        server.expect("received", "lost clean")
        server.ended()


@case_everywhere
def an_upgrade_of_our_client(driver, certificates):
    def serve(connection):
        connection.sendall(b"ready\n")
        assert read_line(connection) == b"STARTTLS\n"
        connection.sendall(b"go on\n")
        with server_context(certificates).wrap_socket(connection, server_side=True) as connection:
            answer(connection)

    server = Listener(serve)
    client = Client(driver, certificates, server.port, "--starttls", "until=ready\n", "send=STARTTLS\n", "until=go on\n",
                    "starttls", "send=hello\n", f"until={ANSWER}", "close")
    client.expect("made plain", "received", "received")
    client.made(verified=1)
    client.expect("received", "lost clean")
    client.ended()
    server.result()


def pump(plain, incoming, outgoing, act):
    """Do something with a TLS object, moving bytes between it and a socket until it is done."""
    while True:
        try:
            done = act()
            plain.sendall(outgoing.read())
            return done
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            part = plain.recv(65536)
            assert part, "it ended"
            incoming.write(part)


def by_hand(plain, context):
    """A client's TLS on a socket, whose records are ours to tear and to forge: (object, incoming, outgoing)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    pump(plain, incoming, outgoing, tls.do_handshake)
    return tls, incoming, outgoing


@case_everywhere
def what_the_server_says_late_costs_nothing(driver, certificates):
    """A server of TLS 1.3 sends tickets once the handshake is done, to a client that may have gone by then: a reset in
    answer to them would take with it what it had sent."""
    sent, is_gone = pattern(500000), threading.Event()

    def serve(plain):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server_context(certificates, TLS13).wrap_bio(incoming, outgoing, server_side=True)
        with contextlib.suppress(ssl.SSLWantReadError):
            incoming.write(plain.recv(4000))
            tls.do_handshake()
        plain.sendall(outgoing.read())
        assert is_gone.wait(30)
        pump(plain, incoming, outgoing, tls.do_handshake)  # the tickets
        found = bytearray()
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while part := pump(plain, incoming, outgoing, lambda: tls.read(65536)):
                found += part
        return bytes(found)

    server = Listener(serve, receive_bytes=16384)  # so that most of it is still on our side
    client = Client(driver, certificates, server.port, f"pattern={len(sent)}", "close")
    client.made()
    client.lost("clean", b"")
    is_gone.set()
    assert server.result() == sent
    client.ended()


@case_everywhere
def bytes_that_come_one_by_one_are_put_together(driver, certificates):
    for version in VERSIONS:
        server = Server(driver, certificates, *TALK)
        with dial(server.port) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context(certificates, version).wrap_bio(incoming, outgoing, server_hostname="localhost")
            found = b""
            for act in (tls.do_handshake, lambda tls=tls: tls.write(b"hello\n"), lambda tls=tls: tls.read(100)):
                while True:
                    try:
                        found = act()
                        break
                    except ssl.SSLWantReadError:
                        for byte in outgoing.read():
                            plain.send(bytes([byte]))
                        incoming.write(plain.recv(1))
                for byte in outgoing.read():
                    plain.send(bytes([byte]))
            assert found == ANSWER.encode(), found
        server.made(version=VERSIONS[version])
        server.expect("received", "lost clean")
        server.ended()


@case_everywhere
def a_stream_that_is_cut_off_is_not_whole(driver, certificates):
    """Between two records, in the head of one, in the middle of one."""
    for version in VERSIONS:
        for cut in (0, 1, 4, 5, 20):
            server = Server(driver, certificates, "until=\n", "peer-eof")
            with dial(server.port) as plain:
                tls, _, outgoing = by_hand(plain, client_context(certificates, version))
                tls.write(b"hello\n")
                plain.sendall(outgoing.read())
                tls.write(pattern(1000))
                plain.sendall(outgoing.read()[:cut])
                server.made()
                server.expect("received")
                plain.shutdown(socket.SHUT_WR)
                server.lost("TEPAL_ETRUNCATED", "hello\n")
            server.ended()


@case_everywhere
def a_server_that_goes_without_a_word_is_not_whole(driver, certificates):
    for version in VERSIONS:
        server = accepting(server_context(certificates, version), lambda connection: connection.sendall(b"part\n"))
        client = Client(driver, certificates, server.port, "until=\n", "peer-eof")
        client.made()
        client.expect("received")
        client.lost("TEPAL_ETRUNCATED", "part\n")
        client.ended()
        server.result()


@case_everywhere
def a_forged_record_is_found_out(driver, certificates):
    for version in VERSIONS:
        server = Server(driver, certificates, "until=\n", "peer-eof")
        with dial(server.port) as plain:
            tls, incoming, outgoing = by_hand(plain, client_context(certificates, version))
            tls.write(b"hello\n")
            record = bytearray(outgoing.read())
            tls.write(b"good bye\n")
            plain.sendall(record)
            record = bytearray(outgoing.read())
            record[-1] ^= 1
            plain.sendall(record)
            server.made()
            server.expect("received")
            server.lost("TEPAL_ETLS_DAMAGED", "hello\n")
            try:
                pump(plain, incoming, outgoing, lambda: tls.read(100))
                raise AssertionError("Python was told nothing")
            except ssl.SSLError as error:
                assert "bad record mac" in str(error), error
        server.ended()


@case
def a_client_that_goes_during_the_handshake(driver, certificates):
    for length in (0, 1, 100):
        server = Server(driver, certificates, *TALK)
        with dial(server.port) as plain:
            outgoing = ssl.MemoryBIO()
            tls = client_context(certificates).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            plain.sendall(outgoing.read()[:length])
        server.failed("TEPAL_ETLS_ENDED")
        server.ended()


@case
def a_server_that_goes_during_the_handshake(driver, certificates):
    for take in (1, 4000):
        server = Listener(lambda connection, take=take: connection.recv(take))
        client = Client(driver, certificates, server.port, *TALK)
        client.failed("TEPAL_ETLS_ENDED", "ECONNRESET")
        client.ended()
        server.result()


@case_everywhere
def silence_has_a_limit(driver, certificates):
    server = Server(driver, certificates, "--handshake-ms", "200", *TALK)
    with dial(server.port) as plain:
        server.failed("ETIMEDOUT")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100) == b""
    server.ended()
    silent = Listener(read_until_the_end)
    client = Client(driver, certificates, silent.port, "--handshake-ms", "200", *TALK)
    client.failed("ETIMEDOUT")
    client.ended()
    silent.result()


def read_until_the_end(connection):
    with contextlib.suppress(ConnectionResetError):
        return read_all(connection)
    return None


def expect_loss(end):
    """It is lost while it writes; a write may be the first to hear."""
    line = end.line()
    if line == "refused pattern TEPAL_ECLOSED":
        line = end.line()
    assert line.split()[:2] in (["lost", "ECONNRESET"], ["lost", "EPIPE"]), line


@case_everywhere
def no_signal_ends_who_writes_to_nobody(driver, certificates):
    """SIGPIPE is as it was when the program began: it would end it."""
    for version in VERSIONS:
        for reset in (True, False):

            def serve(connection, reset=reset):
                assert read_line(connection).endswith(b"\n")
                if reset:
                    reset_at_close(connection)

            server = accepting(server_context(certificates, version), serve)
            client = Client(driver, certificates, server.port, "pattern=1000000000")
            client.made()
            expect_loss(client)
            client.ended()
            server.result()
            server = Server(driver, certificates, "until=\n", "pattern=1000000000")
            with connect(server, client_context(certificates, version)) as connection:
                connection.sendall(b"hello\n")
                assert connection.recv(100)
                if reset:
                    reset_at_close(connection)
            server.made()
            server.expect("received")
            expect_loss(server)
            server.ended()


def send_what_fits(connection, data, sent):
    """Send from there on until the connection takes no more. Returns how much is sent then."""
    with contextlib.suppress(ssl.SSLWantWriteError):
        while sent < len(data):
            sent += connection.send(data[sent:sent + 16384])
    return sent


def receive_what_is_there(connection, found):
    with contextlib.suppress(ssl.SSLWantReadError):
        while part := connection.recv(65536):
            found += part


@case_everywhere
def an_echo_waits_for_who_does_not_read(driver, certificates):
    endless = pattern(48 << 20)
    for version in VERSIONS:
        server = Server(driver, certificates, "echo", "close")
        with connect(server, client_context(certificates, version)) as connection:
            connection.setblocking(False)
            sent, before, found = 0, -1, bytearray()
            while sent > before:  # until every buffer on the way has been full for a while
                before, sent = sent, send_what_fits(connection, endless, sent)
                select.select([], [connection], [], 0.2)
            assert sent < len(endless), "it took everything without giving anything back"
            data = endless[:sent + (1 << 20)]
            while True:
                receive_what_is_there(connection, found)
                sent = send_what_fits(connection, data, sent)
                if len(found) >= len(data):
                    break
                ready = select.select([connection], [connection] if sent < len(data) else [], [], 30)
                assert any(ready), f"nothing comes after {len(found)} bytes, {sent} sent"
            assert found == data, f"{len(found)} of {len(data)} bytes, or not the same"
            say_the_end(connection)
            assert read_all(connection) == b""
        server.made(version=VERSIONS[version])
        server.expect(f"eof {summary(data)}")
        server.lost("clean", data)
        server.ended()


@case_everywhere
def many_clients_at_once(driver, certificates):
    count, sent = 40, pattern(20000)
    server = Server(driver, certificates, "echo", "close", count=count)

    def talk():
        with connect(server, client_context(certificates)) as connection:
            connection.sendall(sent)
            found = b""
            while len(found) < len(sent):
                part = connection.recv(65536)
                assert part, f"it ended after {len(found)}"
                found += part
            say_the_end(connection)
            return found == sent and read_all(connection) == b""

    talks = [Background(talk) for _ in range(count)]
    assert all(talk.result() for talk in talks)
    words = [server.line().split()[0] for _ in range(3 * count)]
    assert sorted(words) == ["eof"] * count + ["lost"] * count + ["made"] * count, words
    server.ended()
