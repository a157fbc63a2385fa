"""GnuTLS's gnutls-cli and gnutls-serv: a second TLS that shares no code with ours."""

import contextlib
import signal

from ends import ANSWER, TALK, Client, Other, Server, case, case_everywhere, needs, run_other, summary

VERSIONS = {"NORMAL:-VERS-ALL:+VERS-TLS1.2": "TLSv1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3": "TLSv1.3"}
BAD = {
    "expired": "TEPAL_ETLS_EXPIRED",
    "future": "TEPAL_ETLS_NOT_YET_VALID",
    "elsewhere": "TEPAL_ETLS_WRONG_HOST",
    "unknown": "TEPAL_ETLS_UNKNOWN_AUTHORITY",
    "self-signed": "TEPAL_ETLS_SELF_SIGNED",
    "unfit": "TEPAL_ETLS_UNFIT",
}


def words_of(server, certificates, *options, name="localhost", ca="ca"):
    return ("gnutls-cli", "--port", server.port, "--x509cafile", certificates.crt(ca), "--verify-hostname", name,
            "--sni-hostname", name, *options, "127.0.0.1")


def ask(server, certificates, *options, line="hello\n", **others):
    """Have gnutls-cli send a line and read until the end: (status, output and errors)."""
    needs("gnutls-cli")
    client = Other(*words_of(server, certificates, *options, **others))
    with contextlib.suppress(BrokenPipeError):  # it did not like the server
        client.type(line)
    output = client.all_output()
    return client.wait(), output + client.error_text()


def expect_talk(server, **wanted):
    found = server.made(**wanted)
    server.expect(f"received {summary('hello' + chr(10))}")
    server.lost("clean", "hello\n")
    return found


def serve(certificates, *options, certificate="server"):
    """A gnutls-serv that sends back what it gets."""
    server = Other("gnutls-serv", "--port", "0", "--echo", "--x509certfile", certificates.crt(certificate),
                   "--x509keyfile", certificates.key(certificate), *options)
    assert server.port
    return server


def expect_echo(client, **wanted):
    client.made(**{"verified": 1, **wanted})
    client.expect(f"received {summary('hello' + chr(10))}")
    client.lost("clean", "hello\n")
    client.ended()


ECHOED = ("send=hello\n", "until=\n", "close")


@case_everywhere
def gnutls_cli_is_served(driver, certificates):
    for priority, version in VERSIONS.items():
        for certificate in ("server", "rsa", "chained"):
            server = Server(driver, certificates, *TALK, certificate=certificate)
            status, said = ask(server, certificates, "--priority", priority)
            assert status == 0 and ANSWER in said and "certificate is trusted" in said, (status, said)
            expect_talk(server, version=version, name="localhost")
            server.ended()


@case_everywhere
def gnutls_serv_is_dialled(driver, certificates):
    for priority, version in VERSIONS.items():
        for certificate in ("server", "rsa", "chained"):
            server = serve(certificates, "--priority", priority, certificate=certificate)
            client = Client(driver, certificates, server.port, *ECHOED)
            expect_echo(client, version=version, peer=f"CN={certificate}")
            server.kill()


@case_everywhere
def gnutls_cli_takes_up_its_session(driver, certificates):
    for priority, version in VERSIONS.items():
        server = Server(driver, certificates, *TALK, count=2)
        client = Other(*words_of(server, certificates, "--priority", priority, "--resume", "--waitresumption"))
        client.type("hello\n")
        server.made(version=version, resumed=0)
        line = server.line()
        while not line.startswith("made "):
            line = server.line()
        assert " resumed=1 " in line, line
        client.leave()
        said = client.all_output() + client.error_text()
        assert "This is a resumed session" in said, said
        client.kill()
        while not server.line().startswith("ended"):
            pass


@case
def gnutls_serv_takes_up_our_session(driver, certificates):
    for priority, version in VERSIONS.items():
        server = serve(certificates, "--priority", priority)
        client = Client(driver, certificates, server.port, "--count", "2", *ECHOED)
        for resumed in (0, 1):
            client.made(version=version, resumed=resumed)
            client.expect("received", "lost clean")
        client.ended()
        server.kill()


@case
def certificates_of_clients(driver, certificates):
    for priority in VERSIONS:
        ours = ("--clients", "must", "--ca", certificates.crt("ca"), *TALK)
        for name, code in (("client", None), ("strange-client", "TEPAL_ETLS_UNKNOWN_AUTHORITY"),
                           ("old-client", "TEPAL_ETLS_EXPIRED"), (None, "TEPAL_ETLS_NO_CERTIFICATE")):
            server = Server(driver, certificates, *ours)
            shown = ("--x509certfile", certificates.crt(name), "--x509keyfile", certificates.key(name)) if name else ()
            status, said = ask(server, certificates, "--priority", priority, *shown)
            if code:
                assert status != 0 and ANSWER not in said, (name, status, said)
                server.failed(code)
            else:
                assert status == 0 and ANSWER in said, (status, said)
                expect_talk(server, verified=1, peer="CN=client")
            server.ended()


@case
def certificates_for_servers(driver, certificates):
    for priority, version in VERSIONS.items():
        ask_for = ("--priority", priority, "--require-client-cert", "--verify-client-cert", "--x509cafile",
                   certificates.crt("ca"))
        server = serve(certificates, *ask_for)
        client = Client(driver, certificates, server.port, "--certificate", certificates.pem("client"), *ECHOED)
        expect_echo(client, version=version)
        for words in ((), ("--certificate", certificates.pem("strange-client"))):
            client = Client(driver, certificates, server.port, *words, "peer-eof")
            line = client.line()
            if line.startswith("made "):  # on 1.3 the client is done first
                line = client.line()
            assert line.split()[1] in ("TEPAL_ETLS_CERTIFICATE_REQUIRED", "TEPAL_ETLS_REFUSED",
                                       "TEPAL_ETLS_ALERT"), line  # on 1.2 it says internal_error
            client.ended()
        server.kill()


@case
def gnutls_cli_does_not_trust_everybody(driver, certificates):
    for certificate in ("expired", "unknown", "elsewhere", "self-signed"):
        for priority in VERSIONS:
            server = Server(driver, certificates, *TALK, certificate=certificate)
            status, said = ask(server, certificates, "--priority", priority)
            assert status != 0 and ANSWER not in said, (certificate, status, said)
            line = server.line()
            assert line.startswith("failed TEPAL_ETLS_REFUSED"), line
            server.ended()


@case
def a_bad_certificate_of_gnutls_serv_is_refused(driver, certificates):
    for certificate, code in BAD.items():
        for priority in VERSIONS:
            server = serve(certificates, "--priority", priority, certificate=certificate)
            client = Client(driver, certificates, server.port, *ECHOED)
            client.failed(code)
            client.ended()
            server.kill()


@case
def an_application_protocol_is_agreed_upon(driver, certificates):
    for priority in VERSIONS:
        server = Server(driver, certificates, "--alpn", "h2,http/1.1", *TALK, count=2)
        status, said = ask(server, certificates, "--priority", priority, "--alpn", "http/1.1", "--alpn", "h2")
        assert status == 0 and "Application protocol: h2" in said, (status, said)
        expect_talk(server, alpn="h2")
        status, said = ask(server, certificates, "--priority", priority, "--alpn", "smtp")
        assert status != 0 and "application protocol" in said.lower(), (status, said)
        server.failed("TEPAL_ETLS_ALPN")
        server.ended()
        other = serve(certificates, "--priority", priority, "--alpn", "http/1.1", "--alpn-fatal")
        client = Client(driver, certificates, other.port, "--alpn", "h2,http/1.1", *ECHOED)
        expect_echo(client, alpn="http/1.1")
        client = Client(driver, certificates, other.port, "--alpn", "smtp", *ECHOED)
        client.failed("TEPAL_ETLS_ALPN")
        client.ended()
        other.kill()


@case
def no_version_in_common_ends_it(driver, certificates):
    old, new = VERSIONS
    for ours, priority in ((("--minimum", "1.3"), old), (("--maximum", "1.2"), new)):
        server = Server(driver, certificates, *ours, *TALK)
        status, said = ask(server, certificates, "--priority", priority)
        assert status != 0 and ANSWER not in said, (status, said)
        server.failed("TEPAL_ETLS_VERSION")
        server.ended()
        other = serve(certificates, "--priority", priority)
        client = Client(driver, certificates, other.port, *ours, *ECHOED)
        client.failed("TEPAL_ETLS_VERSION", "TEPAL_ETLS_NOTHING_IN_COMMON")
        client.ended()
        other.kill()


@case_everywhere
def keys_are_renewed(driver, certificates):
    """gnutls-cli does so when told ^rekey^; we do so before each line."""
    server = Server(driver, certificates, "until=\n", "update", "send=first\n", "until=\n", "update", f"send={ANSWER}",
                    "close")
    client = Other(*words_of(server, certificates, "--priority", tuple(VERSIONS)[1], "--inline-commands"))
    client.type("hello\n")
    client.wait_for("first")
    client.type("^rekey^\n")
    client.type("hello\n")
    client.wait_for(ANSWER.strip())
    server.made(version="TLSv1.3")
    server.expect("received", "received")
    server.lost("clean", "hello\nhello\n")
    server.ended()
    other = serve(certificates, "--priority", tuple(VERSIONS)[1])
    ours = Client(driver, certificates, other.port, "update", *ECHOED)
    expect_echo(ours, version="TLSv1.3")
    other.kill()


@case
def renegotiation_is_refused(driver, certificates):
    server = Server(driver, certificates, "echo", "close")
    client = Other(*words_of(server, certificates, "--priority", tuple(VERSIONS)[0], "--rehandshake"))
    server.made(version="TLSv1.2")
    line = server.line()
    if line.startswith("eof "):
        line = server.line()
    assert line.startswith("lost "), line
    server.ended()
    client.kill()


@case
def an_end_that_was_not_said_is_none(driver, certificates):
    for priority in VERSIONS:
        other = serve(certificates, "--priority", priority)
        client = Client(driver, certificates, other.port, "send=hello\n", "until=\n", "peer-eof")
        client.made()
        client.expect("received")
        other.kill()
        client.lost("TEPAL_ETRUNCATED", "hello\n")
        client.ended()


@case_everywhere
def gnutls_cli_starts_tls_in_the_middle(driver, certificates):
    """At a signal; before it a line goes to and fro in the clear."""
    server = Server(driver, certificates, "--starttls", "until=STARTTLS\n", "send=go on\n", "starttls", *TALK)
    client = Other(*words_of(server, certificates, "--starttls"))
    client.type("STARTTLS\n")
    client.wait_for("go on")
    client.signal(signal.SIGALRM)
    server.expect("made plain", "received")
    client.wait_for_error("Starting TLS handshake")
    client.type("hello\n")
    client.wait_for(ANSWER.strip())
    server.made(name="localhost")
    server.expect("received", "lost clean")
    server.ended()


@case
def gnutls_cli_speaks_to_a_mail_server(driver, certificates):
    server = Server(driver, certificates, "--starttls", "send=220 here\r\n", "until=\r\n",
                    "send=250-here\r\n250 STARTTLS\r\n", "until=STARTTLS\r\n", "send=220 begin\r\n", "starttls", *TALK)
    status, said = ask(server, certificates, "--starttls-proto", "smtp")
    assert status == 0 and ANSWER in said, (status, said)
    server.expect("made plain", "received", "received")
    server.made(name="localhost")
    server.expect("received", "lost clean")
    server.ended()


@case
def a_short_run_of_the_tests_of_gnutls(driver, certificates):
    """gnutls-cli-debug tries a server with what it knows of faulty ones."""
    needs("gnutls-cli-debug")
    server = Server(driver, certificates, "echo", "close", count=1000)
    status, output, errors = run_other("gnutls-cli-debug", "--port", server.port, "127.0.0.1", timeout=60)
    said = (output + errors).decode()
    assert status == 0, said
    for line in ("for TLS 1.3 (RFC8446) support... yes", "for TLS 1.2 (RFC5246) support... yes",
                 "for TLS 1.1 (RFC4346) support... no", "for TLS 1.0 (RFC2246) support... no",
                 "TLS1.2 neg fallback from TLS 1.6 to... TLS1.2", "for safe renegotiation (RFC5746) support... yes",
                 "for ext master secret (RFC7627) support... yes", "for certificate chain order... sorted",
                 "whether the server understands TLS closure alerts... yes",
                 "for anonymous authentication support... no", "for RSA key exchange support... no",
                 "for AES-CBC cipher (RFC3268) support... no", "whether %NO_EXTENSIONS is required... no"):
        assert line in said, (line, said)
    server.kill()
