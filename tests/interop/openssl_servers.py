"""openssl(1) s_server, as a server to a client of ours."""

import hashlib
import itertools
import signal
import ssl

from ends import Client, Other, Server, case, case_everywhere, folder, pattern, summary
from openssl_clients import VERSIONS, secrets, with_certificate

# A client's part of the smallest conversation with a server that sends lines back from their end.
TALK = ("send=hello\n", "until=\n", "close")
BACK = "olleh\n"


def serve(certificates, *options, certificate="server", folder_of_files=None):
    """An s_server on a port of the kernel's choice."""
    chain = ("-cert_chain", certificates.crt(certificate)) if certificate == "chained" else ()
    where = ("env", "-C", folder_of_files) if folder_of_files else ()
    server = Other(*where, "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificates.crt(certificate),
                   "-key", certificates.key(certificate), *chain, *options)
    assert server.port
    return server


def turn_back(certificates, *options, **others):
    """One that sends each line back from its end."""
    return serve(certificates, "-rev", *options, **others)


def expect_talk(client, **wanted):
    """The client's side of TALK."""
    found = client.made(**{"verified": 1, **wanted})
    client.expect(f"received {summary(BACK)}")
    client.lost("clean", BACK)
    return found


@case_everywhere
def a_long_answer_arrives_whole(driver, certificates):
    body = pattern(1500000)
    with folder() as place:
        with open(f"{place}/long.txt", "wb") as file:
            file.write(body)
        for option, version in VERSIONS.items():
            server = serve(certificates, option, "-WWW", folder_of_files=place)
            client = Client(driver, certificates, server.port, "send=GET /long.txt HTTP/1.0\r\n\r\n", "peer-eof", "close")
            client.made(version=version, verified=1, resumed=0, name="localhost", peer="CN=server")
            whole = b"HTTP/1.0 200 ok\r\nContent-type: text/plain\r\n\r\n" + body
            client.expect(f"eof {summary(whole)}")
            client.lost("clean", whole)
            client.ended()
            server.kill()


@case_everywhere
def what_is_sent_before_the_close_arrives_whole(driver, certificates):
    sent = pattern(1500000)
    for option, version in VERSIONS.items():
        server = serve(certificates, option, "-quiet", "-naccept", "1")
        client = Client(driver, certificates, server.port, f"pattern={len(sent)}", "close")
        client.made(version=version)
        client.lost("clean", b"")
        client.ended()
        output = server.all_output()
        assert output == sent.decode(), (len(output), server.error_text())


@case
def every_kind_of_certificate_is_good(driver, certificates):
    for certificate in ("server", "rsa", "ed25519", "chained"):
        for option, version in VERSIONS.items():
            server = turn_back(certificates, option, certificate=certificate)
            client = Client(driver, certificates, server.port, *TALK)
            expect_talk(client, version=version, peer=f"CN={certificate}")
            client.ended()
            server.kill()


@case_everywhere
def a_session_is_taken_up_again(driver, certificates):
    for option, version in VERSIONS.items():
        server = turn_back(certificates, option)
        with folder() as place:
            session = f"{place}/session"
            client = Client(driver, certificates, server.port, "send=hello\n", "until=\n", f"session={session}", "close")
            client.made(version=version, resumed=0)
            client.expect("received", "session", "lost clean")
            client.ended()
            for _ in range(2):
                client = Client(driver, certificates, server.port, "--session", session, *TALK)
                expect_talk(client, version=version, resumed=1)
                client.ended()
        server.kill()


@case_everywhere
def a_context_takes_up_sessions_by_itself(driver, certificates):
    for option, version in VERSIONS.items():
        server = turn_back(certificates, option)
        client = Client(driver, certificates, server.port, "--count", "3", *TALK)
        for resumed in (0, 1, 1):
            expect_talk(client, version=version, resumed=resumed)
        client.ended()
        client = Client(driver, certificates, server.port, "--no-resumption", "--count", "2", *TALK)
        for _ in range(2):
            expect_talk(client, version=version, resumed=0)
        client.ended()
        server.kill()


@case
def a_session_of_another_server_does_no_harm(driver, certificates):
    for option in VERSIONS:
        with folder() as place:
            first, second = turn_back(certificates, option), turn_back(certificates, option)
            client = Client(driver, certificates, first.port, "send=hello\n", "until=\n", f"session={place}/session",
                            "close")
            client.made(resumed=0)
            client.expect("received", "session", "lost clean")
            client.ended()
            client = Client(driver, certificates, second.port, "--session", f"{place}/session", *TALK)
            expect_talk(client, resumed=0)
            client.ended()
            first.kill()
            second.kill()


@case_everywhere
def a_certificate_is_shown_to_a_server_that_asks(driver, certificates):
    for ask in ("-verify", "-Verify"):
        for option in VERSIONS:
            server = turn_back(certificates, option, ask, "3", "-verify_return_error", "-CAfile", certificates.crt("ca"))
            client = Client(driver, certificates, server.port, "--certificate", certificates.pem("client"), *TALK)
            expect_talk(client)
            client.ended()
            server.signal(signal.SIGTERM)
            said = server.all_output() + server.error_text()
            assert "CN = client" in said, said


@case
def a_client_without_a_certificate(driver, certificates):
    """It is served where it may have one, and told so where it must."""
    for option, version in VERSIONS.items():
        server = turn_back(certificates, option, "-verify", "3", "-verify_return_error", "-CAfile",
                           certificates.crt("ca"))
        client = Client(driver, certificates, server.port, *TALK)
        expect_talk(client)
        client.ended()
        server.kill()
        server = turn_back(certificates, option, "-Verify", "3", "-verify_return_error", "-CAfile",
                           certificates.crt("ca"))
        client = Client(driver, certificates, server.port, "peer-eof")
        if version == "TLSv1.3":  # where the client is done before the server has seen what it shows
            client.made()
            client.lost("TEPAL_ETLS_CERTIFICATE_REQUIRED")
        else:  # handshake_failure says no more
            client.failed("TEPAL_ETLS_CERTIFICATE_REQUIRED", "TEPAL_ETLS_NOTHING_IN_COMMON")
        client.ended()
        server.kill()


@case
def a_bad_certificate_of_ours_is_not_accepted(driver, certificates):
    for name in ("old-client", "strange-client", "second"):
        for option, version in VERSIONS.items():
            server = turn_back(certificates, option, "-verify", "3", "-verify_return_error", "-CAfile",
                               certificates.crt("ca"))
            client = Client(driver, certificates, server.port, "--certificate", certificates.pem(name), "peer-eof")
            if version == "TLSv1.3":
                client.made()
                client.lost("TEPAL_ETLS_REFUSED")
            else:
                client.failed("TEPAL_ETLS_REFUSED")
            client.ended()
            server.kill()


BAD = {
    "expired": "TEPAL_ETLS_EXPIRED",
    "future": "TEPAL_ETLS_NOT_YET_VALID",
    "elsewhere": "TEPAL_ETLS_WRONG_HOST",
    "address": "TEPAL_ETLS_WRONG_HOST",
    "unknown": "TEPAL_ETLS_UNKNOWN_AUTHORITY",
    "self-signed": "TEPAL_ETLS_SELF_SIGNED",
    "unfit": "TEPAL_ETLS_UNFIT",
}


@case_everywhere
def a_bad_certificate_is_refused(driver, certificates):
    for certificate, code in BAD.items():
        for option in VERSIONS:
            server = turn_back(certificates, option, certificate=certificate)
            client = Client(driver, certificates, server.port, *TALK)
            line = client.failed(code)
            assert "certificate" in line, line
            client.ended()
            server.wait_for_error("alert")  # the server is told
            server.kill()


@case
def an_insecure_client_takes_any_certificate(driver, certificates):
    for certificate in BAD:
        server = turn_back(certificates, certificate=certificate)
        client = Client(driver, certificates, server.port, "--insecure", *TALK, ca=None, name=None)
        expect_talk(client, verified=0, peer=f"CN={certificate}")
        client.ended()
        server.kill()


@case
def an_address_is_verified_as_one(driver, certificates):
    for certificate, host, good in (("address", "127.0.0.1", True), ("server", "127.0.0.1", True),
                                    ("elsewhere", "127.0.0.1", False), ("second", "127.0.0.1", False)):
        server = turn_back(certificates, certificate=certificate)
        client = Client(driver, certificates, server.port, *TALK, name=None, address=f"{host}:{server.port}")
        if good:
            expect_talk(client)
        else:
            client.failed("TEPAL_ETLS_WRONG_HOST")
        client.ended()
        server.kill()


@case
def a_name_is_asked_for(driver, certificates):
    server = turn_back(certificates, "-servername", "second.test", "-servername_fatal", "-cert2",
                       certificates.crt("second"), "-key2", certificates.key("second"))
    client = Client(driver, certificates, server.port, *TALK, name="second.test")
    expect_talk(client, name="second.test", peer="CN=second")
    client.ended()
    client = Client(driver, certificates, server.port, *TALK, name="third.test")
    client.failed("TEPAL_ETLS_UNKNOWN_NAME")
    client.ended()
    server.kill()


@case_everywhere
def an_application_protocol_is_agreed_upon(driver, certificates):
    for option in VERSIONS:
        server = turn_back(certificates, option, "-alpn", "http/1.1,h2")
        for offered, agreed in (("h2,http/1.1", "http/1.1"), ("h2", "h2")):
            client = Client(driver, certificates, server.port, "--alpn", offered, *TALK)
            expect_talk(client, alpn=agreed)
            client.ended()
        client = Client(driver, certificates, server.port, *TALK)
        expect_talk(client, alpn="-")
        client.ended()
        client = Client(driver, certificates, server.port, "--alpn", "smtp", *TALK)
        client.failed("TEPAL_ETLS_ALPN")
        client.ended()
        server.kill()


@case
def no_version_in_common_ends_it(driver, certificates):
    for ours, theirs in ((("--minimum", "1.3"), ("-tls1_2",)), (("--maximum", "1.2"), ("-tls1_3",)),
                         ((), ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"))):
        server = turn_back(certificates, *theirs)
        client = Client(driver, certificates, server.port, *ours, *TALK)
        client.failed("TEPAL_ETLS_VERSION")
        client.ended()
        server.kill()


@case
def no_cipher_in_common_ends_it(driver, certificates):
    for ours, theirs in (
        (("--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384")),
        (("--cipher-suites", "TLS_AES_128_GCM_SHA256"), ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384")),
        ((), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA")),
    ):
        server = turn_back(certificates, *theirs)
        client = Client(driver, certificates, server.port, *ours, *TALK)
        client.failed("TEPAL_ETLS_NOTHING_IN_COMMON", "TEPAL_ETLS_CIPHER")  # it is told of a failure, and no more
        client.ended()
        server.kill()


@case
def another_group_for_the_key_exchange_is_used(driver, certificates):
    server = turn_back(certificates, "-tls1_3", "-groups", "P-384")
    client = Client(driver, certificates, server.port, *TALK)
    expect_talk(client, version="TLSv1.3")
    client.ended()
    server.kill()


@case_everywhere
def keys_are_renewed_by_the_server(driver, certificates):
    for command in ("k", "K"):
        server = serve(certificates, "-tls1_3", "-msg", "-naccept", "1")
        client = Client(driver, certificates, server.port, "send=hello\n", "until=one\n", "send=hello again\n",
                        "until=two\n", "send=good bye\n", "close")
        client.made(version="TLSv1.3")
        server.wait_for("hello")
        server.type("one\n")
        server.wait_for("hello again")
        server.type(f"{command}\n")
        server.wait_for("KeyUpdate")
        server.type("two\n")
        server.wait_for("good bye")
        client.expect("received", "received", "lost clean")
        client.ended()
        updates = [line for line in server.all_output().splitlines() if line.endswith("KeyUpdate")]
        assert len(updates) == (1 if command == "k" else 2), updates


@case_everywhere
def keys_are_renewed_by_the_client(driver, certificates):
    server = serve(certificates, "-tls1_3", "-msg", "-naccept", "1")
    client = Client(driver, certificates, server.port, "update", "send=hello\n", "until=one\n", "update",
                    "send=hello again\n", "close")
    client.made(version="TLSv1.3")
    server.wait_for("hello")
    server.type("one\n")
    server.wait_for("hello again")
    client.expect("received", "lost clean")
    client.ended()
    updates = [line for line in server.all_output().splitlines() if line.endswith("KeyUpdate")]
    assert len(updates) >= 3, updates


@case_everywhere
def renegotiation_is_refused(driver, certificates):
    server = serve(certificates, "-tls1_2", "-msg")
    client = Client(driver, certificates, server.port, "send=hello\n", "until=two\n", "close")
    client.made(version="TLSv1.2")
    server.wait_for("hello")
    server.type("r\n")
    server.wait_for("no_renegotiation")
    server.kill()
    line = client.line()
    assert line.startswith("lost "), line
    client.ended()
    assert sum("ClientHello" in line for line in server.seen) == 1, server.seen


@case
def a_stapled_answer_is_asked_for(driver, certificates):
    response = certificates.answer_ocsp("server")
    for option in VERSIONS:
        server = turn_back(certificates, option, "-status_file", response)
        client = Client(driver, certificates, server.port, "--request-ocsp", *TALK)
        expect_talk(client, ocsp=response.stat().st_size)
        client.ended()
        client = Client(driver, certificates, server.port, *TALK)
        expect_talk(client, ocsp=0)
        client.ended()
        server.kill()


@case_everywhere
def an_end_that_was_not_said_is_none(driver, certificates):
    """Told Q, s_server closes its socket and says nothing; killed, all the more so."""
    for option, leave in itertools.product(VERSIONS, (lambda server: server.type("Q\n"), Other.kill)):
        server = serve(certificates, option)
        client = Client(driver, certificates, server.port, "send=hello\n", "until=\n", "peer-eof")
        client.made()
        server.wait_for("hello")
        server.type("answer\n")
        client.expect("received")
        leave(server)
        client.lost("TEPAL_ETRUNCATED", "answer\n")
        client.ended()


@case
def plain_text_in_the_middle_is_refused(driver, certificates):
    """Which s_server sends when told P."""
    for option in VERSIONS:
        server = serve(certificates, option)
        client = Client(driver, certificates, server.port, "send=hello\n", "until=\n", "peer-eof")
        client.made()
        server.wait_for("hello")
        server.type("P\n")
        line = client.line()
        assert line.split()[1] in ("TEPAL_ETLS_PROTOCOL", "TEPAL_ETLS_DAMAGED", "TEPAL_ETLS_NOT_TLS",
                                   "TEPAL_ETLS_VERSION"), line
        assert f" {summary('')} " in line, line
        client.ended()
        server.kill()


@case_everywhere
def a_half_close_ends_our_direction(driver, certificates):
    """s_server ends its own as soon as it hears of ours."""
    server = serve(certificates, "-tls1_3")
    client = Client(driver, certificates, server.port, "send=hello\n", "eof", "send=too late\n", "peer-eof")
    client.made(version="TLSv1.3")
    client.expect("refused send EPIPE", f"eof {summary('')}")
    client.lost("clean", "")
    client.ended()
    server.wait_for("hello")
    server.kill()


@case
def tls_1_2_cannot_half_close(driver, certificates):
    server = turn_back(certificates, "-tls1_2")
    client = Client(driver, certificates, server.port, "eof", *TALK)
    client.made(version="TLSv1.2")
    client.expect("refused eof EOPNOTSUPP", f"received {summary(BACK)}")  # and nothing is lost by that
    client.lost("clean", BACK)
    client.ended()
    server.kill()


@case
def both_ends_compute_the_same_binding(driver, certificates):
    server = serve(certificates, "-tls1_3", "-keymatexport", "EXPORTER-Channel-Binding", "-keymatexportlen", "32")
    client = Client(driver, certificates, server.port, "binding=tls-exporter", "binding=tls-server-end-point",
                    "send=hello\n", "until=\n", "close")
    client.made()
    words = client.expect("binding tls-exporter").split()
    assert words[2].upper() in server.wait_for("Keying material: ")
    words = client.expect("binding tls-server-end-point").split()
    der = ssl.PEM_cert_to_DER_cert(certificates.crt("server").read_text())
    assert words[2] == hashlib.sha256(der).hexdigest(), words
    server.type("answer\n")
    client.expect("received", "lost clean")
    client.ended()
    server.kill()


@case
def both_ends_log_the_same_secrets(driver, certificates):
    for option in VERSIONS:
        ours, theirs = certificates.file("ours.log"), certificates.file("theirs.log")
        server = turn_back(certificates, option, "-keylogfile", theirs, "-naccept", "1")
        client = Client(driver, certificates, server.port, "--keylog", ours, *TALK)
        expect_talk(client)
        client.ended()
        server.wait()
        assert secrets(ours) and secrets(ours) == secrets(theirs), (secrets(ours), secrets(theirs))
        ours.unlink()
        theirs.unlink()


@case_everywhere
def who_sends_much_is_told_why_it_was_refused(driver, certificates):
    """Both ends are ours. A reset because of what the server does not read any more must not overtake its alert."""
    for _ in range(3):
        server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"))
        client = Client(driver, certificates, server.port, "pattern=3000000", "peer-eof")
        server.failed("TEPAL_ETLS_NO_CERTIFICATE")
        client.made(version="TLSv1.3")
        line = client.line()
        if line == "refused pattern TEPAL_ECLOSED":
            line = client.line()
        assert line.startswith("lost TEPAL_ETLS_CERTIFICATE_REQUIRED"), line
        client.ended()
        server.ended()


@case_everywhere
def two_of_ours_talk_as_well(driver, certificates):
    """Both ends are ours: what the others are compared with."""
    sent = pattern(300000)
    for version, name in (("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")):
        server = Server(driver, certificates, "--maximum", version, "--alpn", "one,two", "echo", "close")
        client = Client(driver, certificates, server.port, "--alpn", "two", f"pattern={len(sent)}",
                        f"bytes={len(sent)}", "close")
        client.made(version=name, alpn="two", verified=1)
        server.made(version=name, alpn="two", verified=0)
        client.expect(f"received {summary(sent)}")
        client.lost("clean", sent)
        client.ended()
        server.expect(f"eof {summary(sent)}")
        server.lost("clean", sent)
        server.ended()
