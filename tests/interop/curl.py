"""curl(1), as a client of a server of ours that gives one HTTP answer."""

from ends import Server, case, case_everywhere, pattern, run_other

VERSIONS = {"--tls-max=1.2": "TLSv1.2", "--tlsv1.3": "TLSv1.3"}
SHORT = ("until=\r\n\r\n", "send=HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n", "close")


def get(server, certificates, *options, host="localhost", ca="ca"):
    """(status, body, what -w prints and the errors)"""
    words = [("--tls-max", word[10:]) if word.startswith("--tls-max=") else (word,) for word in map(str, options)]
    status, output, errors = run_other(
        "curl", "--silent", "--show-error", "--max-time", "25", "--noproxy", "*", "--cacert", certificates.crt(ca),
        "--resolve", f"{host}:{server.port}:127.0.0.1", *(word for pair in words for word in pair),
        f"https://{host}:{server.port}/")
    return status, output, errors.decode()


@case_everywhere
def a_page_is_had(driver, certificates):
    for option, version in VERSIONS.items():
        server = Server(driver, certificates, "--alpn", "http/1.1", *SHORT)
        outcome = get(server, certificates, option)
        assert outcome == (0, b"hello\n", ""), outcome
        server.made(version=version, alpn="http/1.1", name="localhost")
        server.expect("received", "lost clean")
        server.ended()


@case_everywhere
def a_long_page_that_ends_with_the_connection_is_had_whole(driver, certificates):
    body = pattern(4000000)
    for option in VERSIONS:
        server = Server(driver, certificates, "until=\r\n\r\n", "send=HTTP/1.0 200 OK\r\n\r\n", f"pattern={len(body)}",
                        "close")
        status, output, errors = get(server, certificates, option)
        assert status == 0 and output == body, (status, len(output), errors)
        server.made()
        server.expect("received", "lost clean")
        server.ended()


@case
def a_certificate_is_shown(driver, certificates):
    for option in VERSIONS:
        server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"), *SHORT, count=2)
        status, output, errors = get(server, certificates, option, "--cert", certificates.crt("client"), "--key",
                                     certificates.key("client"))
        assert (status, output) == (0, b"hello\n"), (status, output, errors)
        server.made(verified=1, peer="CN=client")
        server.expect("received", "lost clean")
        status, output, errors = get(server, certificates, option)
        assert status != 0 and output == b"", (status, output, errors)
        server.failed("TEPAL_ETLS_NO_CERTIFICATE")
        server.ended()


@case
def it_does_not_trust_everybody(driver, certificates):
    for certificate, ca in (("elsewhere", "ca"), ("expired", "ca"), ("server", "stranger"), ("self-signed", "ca")):
        server = Server(driver, certificates, *SHORT, certificate=certificate)
        status, output, errors = get(server, certificates, ca=ca)
        assert status == 60 and output == b"", (status, output, errors)
        # curl looks at the name only after the handshake, and goes then.
        line = server.line()
        assert line.startswith("failed TEPAL_ETLS_REFUSED") or certificate == "elsewhere", line
        if line.startswith("made "):
            line = server.line()
            if line.startswith("eof "):
                line = server.line()
            assert line.startswith("lost "), line
        server.ended()


@case
def a_session_is_taken_up_again(driver, certificates):
    """On 1.3: before that, curl wants sessions that its server keeps, and no tickets."""
    for option in tuple(VERSIONS)[1:]:
        server = Server(driver, certificates, *SHORT, count=2)
        address = f"https://localhost:{server.port}/"
        status, output, errors = get(server, certificates, option, address)
        assert (status, output) == (0, b"hello\nhello\n"), (status, output, errors)
        for resumed in (0, 1):
            server.made(resumed=resumed)
            server.expect("received", "lost clean")
        server.ended()


@case
def a_page_that_is_cut_short_is_noticed(driver, certificates):
    """We abort in the middle: no close_notify, so curl must not take it for whole."""
    for option in VERSIONS:
        server = Server(driver, certificates, "until=\r\n\r\n", "send=HTTP/1.0 200 OK\r\n\r\npart", "abort")
        status, output, errors = get(server, certificates, option)
        assert status in (35, 52, 56), (status, output, errors)
        server.made()
        server.expect("received", "lost TEPAL_ECANCELED")
        server.ended()
