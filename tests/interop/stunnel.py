"""stunnel: TLS for programs that have none. As a client it takes plain connections to a server of ours, as a server it
takes our TLS to a plain one."""

import contextlib
import socket
import threading
from types import SimpleNamespace

from ends import (ANSWER, Client, Listener, Other, Server, case, case_everywhere, dial, folder, pattern, read_all, summary)

VERSIONS = {"TLSv1.2": "TLSv1.2", "TLSv1.3": "TLSv1.3"}


@contextlib.contextmanager
def stunnel(certificates, version, **options):
    """One that runs while this does."""
    with folder() as place:
        lines = ["foreground = yes", "pid =", "debug = info", "[test]", "accept = 127.0.0.1:0",
                 f"sslVersionMin = {version}", f"sslVersionMax = {version}", f"CAfile = {certificates.crt('ca')}",
                 *(f"{name} = {value}" for name, value in options.items())]
        with open(f"{place}/stunnel.conf", "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
        tunnel = Other("stunnel4", f"{place}/stunnel.conf")
        assert tunnel.port
        yield tunnel
        tunnel.kill()


def as_client(certificates, version, server, **options):
    return stunnel(certificates, version, client="yes", connect=server.address,
                   **{"verifyChain": "yes", "checkHost": "localhost", "sni": "localhost", **options})


def as_server(certificates, version, plain, certificate="server", **options):
    return stunnel(certificates, version, connect=f"127.0.0.1:{plain.port}", cert=certificates.crt(certificate),
                   key=certificates.key(certificate), **options)


@case_everywhere
def plain_clients_reach_a_server_of_ours(driver, certificates):
    sent, received = pattern(300000), pattern(1500000)
    for version in VERSIONS:
        server = Server(driver, certificates, f"bytes={len(sent)}", f"pattern={len(received)}", "close")
        with as_client(certificates, version, server) as tunnel, dial(tunnel.port) as plain:
            plain.sendall(sent)
            assert read_all(plain) == received
            server.made(version=version, name="localhost")
            server.expect(f"received {summary(sent)}")
            server.lost("clean", sent)
            server.ended()


@case_everywhere
def a_plain_server_is_reached_by_a_client_of_ours(driver, certificates):
    sent, received = pattern(300000), pattern(1500000)

    def serve(connection):
        found = b""
        while len(found) < len(sent):
            found += connection.recv(65536)
        connection.sendall(received)
        return found

    for version in VERSIONS:
        plain = Listener(serve)
        with as_server(certificates, version, plain) as tunnel:
            client = Client(driver, certificates, tunnel.port, f"pattern={len(sent)}", "peer-eof", "close")
            client.made(version=version, verified=1)
            client.expect(f"eof {summary(received)}")
            client.lost("clean", received)
            client.ended()
            assert plain.result() == sent


@case_everywhere
def half_closes_go_through(driver, certificates):
    """A plain end of one direction becomes close_notify, and the other way about; the other direction goes on."""
    sent, received = pattern(300000), pattern(1500000)
    server = Server(driver, certificates, "peer-eof", f"pattern={len(received)}", "eof")
    with as_client(certificates, "TLSv1.3", server) as tunnel, dial(tunnel.port) as plain:
        sender = threading.Thread(target=lambda: (plain.sendall(sent), plain.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_all(plain) == received
        sender.join()
        server.made(version="TLSv1.3")
        server.expect(f"eof {summary(sent)}")
        server.lost("clean", sent)
        server.ended()

    def serve(connection):
        found = read_all(connection)
        connection.sendall(received)
        return found

    listener = Listener(serve)
    with as_server(certificates, "TLSv1.3", listener) as tunnel:
        client = Client(driver, certificates, tunnel.port, f"pattern={len(sent)}", "eof", "peer-eof")
        client.made(version="TLSv1.3")
        client.expect(f"eof {summary(received)}")
        client.lost("clean", received)
        client.ended()
        assert listener.result() == sent


def answer(connection):
    assert connection.recv(100) == b"hello\n"
    connection.sendall(ANSWER.encode())


@case
def certificates_of_clients(driver, certificates):
    for version in VERSIONS:
        for name, good in (("client", True), ("strange-client", False)):
            server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"), "until=\n",
                            f"send={ANSWER}", "close")
            with as_client(certificates, version, server, cert=certificates.crt(name),
                           key=certificates.key(name)) as tunnel, dial(tunnel.port) as plain:
                plain.sendall(b"hello\n")
                with contextlib.suppress(ConnectionResetError):
                    assert read_all(plain) == (ANSWER.encode() if good else b"")
                if good:
                    server.made(version=version, verified=1, peer="CN=client")
                    server.expect("received", "lost clean")
                else:
                    server.failed("TEPAL_ETLS_UNKNOWN_AUTHORITY")
                server.ended()


@case
def certificates_for_servers(driver, certificates):
    talk = ("send=hello\n", "until=\n", "close")
    for version in VERSIONS:
        plain = Listener(answer)
        with as_server(certificates, version, plain, verifyChain="yes", requireCert="yes") as tunnel:
            for words in ((), ("--certificate", certificates.pem("strange-client"))):
                client = Client(driver, certificates, tunnel.port, *words, "peer-eof")
                line = client.line()
                if line.startswith("made "):  # on 1.3 the client is done first
                    line = client.line()
                assert line.split()[1] in ("TEPAL_ETLS_CERTIFICATE_REQUIRED", "TEPAL_ETLS_REFUSED",
                                           "TEPAL_ETLS_NOTHING_IN_COMMON"), line
                client.ended()
            client = Client(driver, certificates, tunnel.port, "--certificate", certificates.pem("client"), *talk)
            client.made(version=version)
            client.expect("received", "lost clean")
            client.ended()
            plain.result()


@case
def stunnel_does_not_trust_everybody(driver, certificates):
    for certificate in ("elsewhere", "expired", "unknown"):
        for version in VERSIONS:
            server = Server(driver, certificates, "until=\n", "close", certificate=certificate)
            with as_client(certificates, version, server) as tunnel, dial(tunnel.port) as plain:
                with contextlib.suppress(ConnectionResetError):
                    assert read_all(plain) == b""
                server.failed("TEPAL_ETLS_REFUSED", "TEPAL_ETLS_ALERT")  # of the name it says internal_error
                server.ended()


@case
def a_bad_certificate_of_stunnel_is_refused(driver, certificates):
    for certificate, code in (("elsewhere", "TEPAL_ETLS_WRONG_HOST"), ("expired", "TEPAL_ETLS_EXPIRED"),
                              ("unknown", "TEPAL_ETLS_UNKNOWN_AUTHORITY")):
        with socket.create_server(("127.0.0.1", 0)) as plain:
            place = SimpleNamespace(port=plain.getsockname()[1])
            with as_server(certificates, "TLSv1.3", place, certificate=certificate) as tunnel:
                client = Client(driver, certificates, tunnel.port, "send=hello\n", "peer-eof")
                client.failed(code)
                client.ended()


@case
def stunnel_starts_tls_in_front_of_a_mail_server(driver, certificates):
    def serve(connection):
        connection.sendall(b"220 there\r\n")
        answer(connection)

    plain = Listener(serve)
    with as_server(certificates, "TLSv1.3", plain, protocol="smtp") as tunnel:
        client = Client(driver, certificates, tunnel.port, "--starttls", "until=\r\n", "send=EHLO here\r\n",
                        "until=STARTTLS", "until=\r\n", "send=STARTTLS\r\n", "until=\r\n", "starttls", "send=hello\n",
                        f"until={ANSWER}", "peer-eof")
        client.expect("made plain", "received", "received", "received", "received")
        client.made(version="TLSv1.3", verified=1)
        client.expect("received", "eof", "lost clean")
        client.ended()
        plain.result()
