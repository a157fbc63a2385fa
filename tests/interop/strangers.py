"""Ends that do not speak TLS at all: browsers on the wrong port, noise, servers of other protocols."""

import contextlib
import random

from ends import ANSWER, TALK, Client, Listener, Server, case, case_everywhere, dial, read_all, run_other
from openssl_clients import ask, expect_answer, expect_talk


def answer_of(plain):
    """What a server of ours says to such a client before it goes; a reset is an answer too."""
    try:
        return read_all(plain)
    except ConnectionResetError:
        return b""


@case_everywhere
def plain_http_is_told_from_noise(driver, certificates):
    requests = (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /form HTTP/1.1\r\n\r\n", b"HEAD / HTTP/1.0\r\n\r\n",
                b"PUT /a HTTP/1.1\r\n\r\n", b"CONNECT localhost:443 HTTP/1.1\r\n\r\n")
    server = Server(driver, certificates, *TALK, count=len(requests) + 1)
    for request in requests:
        with dial(server.port) as plain:
            plain.sendall(request)
            server.failed("TEPAL_ETLS_HTTP")
            answer_of(plain)
    expect_answer(ask(server, certificates))  # the server goes on
    expect_talk(server)
    server.ended()


@case
def curl_without_tls_is_told_from_noise(driver, certificates):
    server = Server(driver, certificates, *TALK)
    status, output, _ = run_other("curl", "--silent", "--max-time", "20", f"http://127.0.0.1:{server.port}/")
    assert status != 0 and output == b"" or b"HTTP" in output, (status, output)
    server.failed("TEPAL_ETLS_HTTP")
    server.ended()


@case_everywhere
def noise_is_no_tls(driver, certificates):
    dice = random.Random(2012)
    texts = [b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO there\r\n", bytes(100), b"\xff" * 100, b"\x80\x2e\x01\x00\x02" + bytes(43)]
    for _ in range(20):
        text = bytearray(dice.randbytes(dice.randrange(20, 3000)))
        text[0] = dice.choice([byte for byte in range(256) if byte != 22])  # what a handshake begins with
        texts.append(bytes(text))
    server = Server(driver, certificates, *TALK, count=len(texts) + 1)
    for text in texts:
        with dial(server.port) as plain:
            with contextlib.suppress(ConnectionError):
                plain.sendall(text)
            # What happens to begin as TLS does is a mistake in it.
            server.failed("TEPAL_ETLS_NOT_TLS", "TEPAL_ETLS_PROTOCOL", "TEPAL_ETLS_VERSION")
            answer_of(plain)
    expect_answer(ask(server, certificates))
    expect_talk(server)
    server.ended()


@case
def plain_noise_is_said_to_be_no_tls(driver, certificates):
    for text in (b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO there\r\n", bytes(100), b"\xff" * 100):
        server = Server(driver, certificates, *TALK)
        with dial(server.port) as plain:
            plain.sendall(text)
            server.failed("TEPAL_ETLS_NOT_TLS")
            answer_of(plain)
        server.ended()


@case_everywhere
def a_server_of_something_else_is_no_tls(driver, certificates):
    def http(connection):
        connection.recv(4000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    def ssh(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.recv(4000)

    def mail(connection):
        connection.sendall(b"220 localhost ESMTP\r\n")
        connection.recv(4000)

    for serve, codes in ((http, ("TEPAL_ETLS_HTTP", "TEPAL_ETLS_NOT_TLS")), (ssh, ("TEPAL_ETLS_NOT_TLS",)),
                         (mail, ("TEPAL_ETLS_NOT_TLS",))):
        server = Listener(serve)
        client = Client(driver, certificates, server.port, *TALK)
        client.failed(*codes)
        client.ended()
        server.result()


@case
def a_request_in_the_middle_of_a_handshake_is_no_request(driver, certificates):
    """Plain text after a good beginning is not taken for the conversation's."""
    server = Server(driver, certificates, *TALK)
    with dial(server.port) as plain:
        plain.sendall(b"\x16\x03\x01")  # a record of a handshake begins
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        line = server.failed("TEPAL_ETLS_PROTOCOL", "TEPAL_ETLS_NOT_TLS", "TEPAL_ETLS_VERSION")
        assert ANSWER not in line
        answer_of(plain)
    server.ended()
