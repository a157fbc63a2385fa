"""openssl(1) s_client, as a client of ours."""

import hashlib
import ssl

from ends import ANSWER, TALK, Other, Server, case, case_everywhere, folder, pattern, run_other, summary

VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}
REFUSED = ("TEPAL_ETLS_REFUSED",)


def words_of(server, certificates, *options, name="localhost", ca="ca", connect=None):
    """The command line of an s_client that verifies what it can."""
    asked = ("-servername", name, "-verify_hostname", name) if name else ("-noservername",)
    return ("openssl", "s_client", *(connect or ("-connect", server.address)), "-CAfile", certificates.crt(ca),
            "-verify_return_error", *asked, *options)


def ask(server, certificates, *options, line="hello\n", **others):
    """Have it send a line and read until the end: (status, output, errors)."""
    words = words_of(server, certificates, "-ign_eof", *options, **others)
    status, output, errors = run_other(*words, data=line.encode())
    return status, output.decode(), errors.decode()


def expect_talk(server, **wanted):
    """The server's side of TALK."""
    found = server.made(**wanted)
    server.expect(f"received {summary('hello' + chr(10))}")
    server.lost("clean", "hello\n")
    return found


def expect_answer(outcome):
    status, output, errors = outcome
    assert status == 0 and ANSWER in output, (status, output[-300:], errors)
    return output + errors


@case_everywhere
def long_streams_arrive_whole(driver, certificates):
    sent, answer = pattern(100000), pattern(1500000)
    for option, version in VERSIONS.items():
        server = Server(driver, certificates, f"bytes={len(sent)}", f"pattern={len(answer)}", "close")
        status, output, errors = run_other(*words_of(server, certificates, "-quiet", option), data=sent)
        assert status == 0 and output == answer, (status, len(output), errors)
        server.made(version=version, verified=0, resumed=0, name="localhost", peer="-")
        server.expect(f"received {summary(sent)}")
        server.lost("clean", sent)
        server.ended()


@case
def every_kind_of_certificate_is_served(driver, certificates):
    for certificate in ("server", "rsa", "ed25519", "chained"):
        for option, version in VERSIONS.items():
            server = Server(driver, certificates, *TALK, certificate=certificate)
            said = expect_answer(ask(server, certificates, option))
            assert "Verify return code: 0 (ok)" in said, said
            expect_talk(server, version=version)
            server.ended()


@case
def records_of_any_length_are_taken(driver, certificates):
    """Short ones, padded ones, and a client that asks for short ones."""
    sent, answer = pattern(200000), pattern(300000)
    for options in (("-tls1_2", "-max_send_frag", "512"), ("-tls1_3", "-max_send_frag", "700"),
                    ("-tls1_3", "-record_padding", "4096"), ("-tls1_2", "-maxfraglen", "512"),
                    ("-tls1_3", "-maxfraglen", "1024")):
        server = Server(driver, certificates, f"bytes={len(sent)}", f"pattern={len(answer)}", "close")
        status, output, errors = run_other(*words_of(server, certificates, "-quiet", *options), data=sent)
        assert status == 0 and output == answer, (options, status, len(output), errors)
        server.made()
        server.expect(f"received {summary(sent)}")
        server.lost("clean", sent)
        server.ended()


@case
def a_certificate_and_its_key_may_be_two_files(driver, certificates):
    server = Server(driver, certificates, "--key", certificates.key("server"), "--certificate",
                    certificates.crt("server"), *TALK)
    expect_answer(ask(server, certificates))
    expect_talk(server)
    server.ended()


@case_everywhere
def a_session_is_taken_up_again(driver, certificates):
    for option, version in VERSIONS.items():
        with folder() as place:
            server = Server(driver, certificates, *TALK, count=3)
            expect_answer(ask(server, certificates, option, "-sess_out", f"{place}/session"))
            for _ in range(2):
                assert f"Reused, {version}" in expect_answer(
                    ask(server, certificates, option, "-sess_in", f"{place}/session"))
        expect_talk(server, version=version, resumed=0)
        expect_talk(server, version=version, resumed=1)
        expect_talk(server, version=version, resumed=1)
        server.ended()


@case
def a_session_is_taken_up_by_its_own_server_alone(driver, certificates):
    for option in VERSIONS:
        with folder() as place:
            server = Server(driver, certificates, *TALK)
            expect_answer(ask(server, certificates, option, "-sess_out", f"{place}/session"))
            expect_talk(server, resumed=0)
            server.ended()
            other = Server(driver, certificates, *TALK)
            assert "New, TLS" in expect_answer(ask(other, certificates, option, "-sess_in", f"{place}/session"))
            expect_talk(other, resumed=0)
            other.ended()


@case
def a_session_is_taken_up_under_its_own_name_alone(driver, certificates):
    """What one name asks of its clients says nothing about another's, though one server has both."""
    for option in VERSIONS:
        with folder() as place:
            server = Server(driver, certificates, "--name", f"second.test={certificates.pem('second')}", *TALK, count=4)
            session = f"{place}/session"
            expect_answer(ask(server, certificates, option, "-sess_out", session, name="second.test"))
            for name, resumed in (("second.test", 1), (None, 0)):
                expect_answer(ask(server, certificates, option, "-sess_in", session, name=name))
            status, output, errors = ask(server, certificates, option, "-sess_in", session)
            assert status != 0 and "unrecognized name" in errors, (status, output, errors)
        expect_talk(server, resumed=0)
        expect_talk(server, resumed=1)
        expect_talk(server, resumed=0)
        server.failed("TEPAL_ETLS_UNKNOWN_NAME")
        server.ended()


@case
def no_session_is_taken_up_where_none_is_wanted(driver, certificates):
    for option in VERSIONS:
        with folder() as place:
            server = Server(driver, certificates, "--no-resumption", *TALK, count=2)
            session = f"{place}/session"
            expect_answer(ask(server, certificates, option, "-sess_out", session))
            try:
                open(session, encoding="ascii").close()
                expect_answer(ask(server, certificates, option, "-sess_in", session))
            except FileNotFoundError:  # 1.3: there never was a session
                expect_answer(ask(server, certificates, option))
        expect_talk(server, resumed=0)
        expect_talk(server, resumed=0)
        server.ended()


def with_certificate(certificates, name):
    return ("-cert", certificates.crt(name), "-key", certificates.key(name))


@case_everywhere
def a_certificate_of_the_client_is_asked_for(driver, certificates):
    for clients in ("may", "must"):
        for option in VERSIONS:
            server = Server(driver, certificates, "--clients", clients, "--ca", certificates.crt("ca"), *TALK)
            expect_answer(ask(server, certificates, option, *with_certificate(certificates, "client")))
            expect_talk(server, verified=1, peer="CN=client")
            server.ended()


@case
def a_client_need_not_have_a_certificate_where_it_may(driver, certificates):
    for clients in ("any", "may"):
        for option in VERSIONS:
            server = Server(driver, certificates, "--clients", clients, "--ca", certificates.crt("ca"), *TALK)
            expect_answer(ask(server, certificates, option))
            expect_talk(server, verified=0, peer="-")
            server.ended()


@case_everywhere
def a_client_without_a_certificate_is_refused_where_it_must(driver, certificates):
    for option in VERSIONS:
        server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"), *TALK)
        status, output, errors = ask(server, certificates, option)
        assert status != 0 and ANSWER not in output and "alert" in errors, (status, output, errors)
        server.failed("TEPAL_ETLS_NO_CERTIFICATE")
        server.ended()


@case
def a_client_with_a_bad_certificate_is_refused(driver, certificates):
    for name, code in {
        "old-client": "TEPAL_ETLS_EXPIRED",
        "strange-client": "TEPAL_ETLS_UNKNOWN_AUTHORITY",
        "self-signed": "TEPAL_ETLS_SELF_SIGNED",
        "second": "TEPAL_ETLS_UNFIT",  # a server's
    }.items():
        for option in VERSIONS:
            for clients in ("may", "must"):
                server = Server(driver, certificates, "--clients", clients, "--ca", certificates.crt("ca"), *TALK)
                status, output, errors = ask(server, certificates, option, *with_certificate(certificates, name))
                assert status != 0 and ANSWER not in output and "alert" in errors, (name, status, output, errors)
                server.failed(code)
                server.ended()


@case
def a_session_of_a_client_with_a_certificate_is_taken_up_again(driver, certificates):
    for option in VERSIONS:
        with folder() as place:
            server = Server(driver, certificates, "--clients", "must", "--ca", certificates.crt("ca"), *TALK, count=2)
            expect_answer(ask(server, certificates, option, "-sess_out", f"{place}/session",
                              *with_certificate(certificates, "client")))
            expect_answer(ask(server, certificates, option, "-sess_in", f"{place}/session",
                              *with_certificate(certificates, "client")))
        expect_talk(server, resumed=0, verified=1, peer="CN=client")
        expect_talk(server, resumed=1, peer="CN=client")
        server.ended()


@case
def a_client_that_does_not_trust_us_ends_it(driver, certificates):
    for certificate, name in (("expired", "localhost"), ("future", "localhost"), ("unknown", "localhost"),
                              ("self-signed", "localhost"), ("elsewhere", "localhost"), ("unfit", "localhost")):
        for option in VERSIONS:
            server = Server(driver, certificates, *TALK, certificate=certificate)
            status, output, errors = ask(server, certificates, option, name=name)
            assert status != 0 and ANSWER not in output, (certificate, status, output, errors)
            server.failed(*REFUSED)
            server.ended()


@case_everywhere
def an_application_protocol_is_agreed_upon(driver, certificates):
    for option in VERSIONS:
        for ours, theirs, agreed in (("h2,http/1.1", "http/1.1,h2", "h2"), ("http/1.1", "h2,http/1.1", "http/1.1")):
            server = Server(driver, certificates, "--alpn", ours, *TALK)
            said = expect_answer(ask(server, certificates, option, "-alpn", theirs))
            assert f"ALPN protocol: {agreed}" in said, said
            expect_talk(server, alpn=agreed)
            server.ended()


@case
def no_application_protocol_in_common_ends_it(driver, certificates):
    for option in VERSIONS:
        server = Server(driver, certificates, "--alpn", "h2,http/1.1", *TALK)
        status, output, errors = ask(server, certificates, option, "-alpn", "smtp")
        assert status != 0 and "no application protocol" in errors, (status, output, errors)
        server.failed("TEPAL_ETLS_ALPN")
        server.ended()


@case
def no_application_protocol_need_be_agreed_upon(driver, certificates):
    for ours, theirs in ((("--alpn", "h2", "--alpn-optional"), ("-alpn", "smtp")), (("--alpn", "h2"), ()),
                         ((), ("-alpn", "smtp"))):
        server = Server(driver, certificates, *ours, *TALK)
        assert "No ALPN negotiated" in expect_answer(ask(server, certificates, *theirs))
        expect_talk(server, alpn="-")
        server.ended()


@case
def no_version_in_common_ends_it(driver, certificates):
    weak = ("-cipher", "DEFAULT@SECLEVEL=0")
    for ours, theirs in ((("--minimum", "1.3"), ("-tls1_2",)), (("--maximum", "1.2"), ("-tls1_3",)),
                         ((), ("-tls1_1", *weak)), ((), ("-tls1", *weak))):
        server = Server(driver, certificates, *ours, *TALK)
        status, output, errors = ask(server, certificates, *theirs)
        assert status != 0 and "protocol version" in errors, (theirs, status, output, errors)
        server.failed("TEPAL_ETLS_VERSION")
        server.ended()


@case
def no_cipher_in_common_ends_it(driver, certificates):
    for ours, theirs in (
        (("--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384")),
        (("--cipher-suites", "TLS_AES_128_GCM_SHA256"), ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384")),
        ((), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA")),  # neither AEAD nor offered by default
        ((), ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")),  # there is no RSA key
    ):
        server = Server(driver, certificates, *ours, *TALK)
        status, output, errors = ask(server, certificates, *theirs)
        assert status != 0 and "handshake failure" in errors, (theirs, status, output, errors)
        server.failed("TEPAL_ETLS_CIPHER")
        server.ended()


@case
def the_ciphers_asked_for_are_used(driver, certificates):
    for ours, theirs, cipher in (
        (("--ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"), ("-tls1_2",), "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ((), ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (("--cipher-suites", "TLS_CHACHA20_POLY1305_SHA256"), (), "TLS_CHACHA20_POLY1305_SHA256"),
        ((), ("-ciphersuites", "TLS_AES_128_GCM_SHA256"), "TLS_AES_128_GCM_SHA256"),
    ):
        server = Server(driver, certificates, *ours, *TALK)
        expect_answer(ask(server, certificates, *theirs))
        expect_talk(server, cipher=cipher)
        server.ended()


@case
def another_group_for_the_key_exchange_is_asked_for(driver, certificates):
    """A client whose first guess is not ours has to say hello twice on TLS 1.3."""
    server = Server(driver, certificates, *TALK)
    expect_answer(ask(server, certificates, "-tls1_3", "-groups", "P-521:P-384"))
    expect_talk(server, version="TLSv1.3")
    server.ended()


@case_everywhere
def keys_are_renewed_by_the_client(driver, certificates):
    for command in ("k", "K"):
        server = Server(driver, certificates, "echo", "close")
        client = Other(*words_of(server, certificates, "-tls1_3", "-msg"))
        client.type("hello\n")
        client.wait_for("hello")
        client.type(f"{command}\n")
        client.wait_for_error("KEYUPDATE")
        client.type("and again\n")
        client.wait_for("and again")
        client.type("Q\n")
        updates = [line for line in client.all_output().splitlines() if line.endswith("KeyUpdate")]
        assert len(updates) == (1 if command == "k" else 2), updates  # asked for, the server sends one too
        server.made(version="TLSv1.3")
        server.expect(f"eof {summary('hello' + chr(10) + 'and again' + chr(10))}")
        server.lost("clean")
        server.ended()


@case_everywhere
def keys_are_renewed_by_the_server(driver, certificates):
    server = Server(driver, certificates, "until=\n", "update", "send=first\n", "until=\n", "update", f"send={ANSWER}",
                    "close")
    client = Other(*words_of(server, certificates, "-tls1_3", "-msg"))
    client.type("hello\n")
    client.wait_for("first")
    client.type("hello\n")
    client.wait_for(ANSWER.strip())
    updates = [line for line in client.all_output().splitlines() if line.endswith("KeyUpdate")]
    assert len(updates) >= 3, updates  # two that came; those it was asked for go with what it sends next
    server.made(version="TLSv1.3")
    server.expect("received", "received")
    server.lost("clean")
    server.ended()


@case
def keys_are_not_renewed_on_tls_1_2(driver, certificates):
    server = Server(driver, certificates, "until=\n", "update", f"send={ANSWER}", "close")
    expect_answer(ask(server, certificates, "-tls1_2"))
    server.made(version="TLSv1.2")
    server.expect("received", "refused update EOPNOTSUPP")
    server.lost("clean")
    server.ended()


@case_everywhere
def renegotiation_is_refused(driver, certificates):
    server = Server(driver, certificates, "echo", "close", count=2)
    client = Other(*words_of(server, certificates, "-tls1_2", "-msg"))
    client.type("hello\n")
    client.wait_for("hello")
    client.type("R\n")
    client.wait_for_error("RENEGOTIATING")
    output = client.all_output()
    assert "no_renegotiation" in output or "no renegotiation" in client.error_text(), (output, client.error_text())
    assert output.count("ServerHello") == 2, output  # ServerHello and ServerHelloDone, of the one handshake
    server.made(version="TLSv1.2")
    line = server.line()
    if line.startswith("eof "):
        line = server.line()
    assert line.startswith("lost "), line
    client = Other(*words_of(server, certificates, "-tls1_2"))  # whom it does not hurt
    client.type("hello\n")
    client.wait_for("hello")
    client.type("Q\n")
    client.wait()
    server.made()
    server.expect("eof", "lost clean")
    server.ended()


@case
def a_name_chooses_its_certificate(driver, certificates):
    server = Server(driver, certificates, "--name", f"second.test={certificates.pem('second')}", *TALK, count=3)
    expect_answer(ask(server, certificates, name="second.test"))
    expect_talk(server, name="second.test")
    expect_answer(ask(server, certificates, name=None))
    expect_talk(server, name="-")
    status, output, errors = ask(server, certificates, name="third.test")
    assert status != 0 and "unrecognized name" in errors, (status, output, errors)
    server.failed("TEPAL_ETLS_UNKNOWN_NAME")
    server.ended()


@case
def a_stapled_answer_is_shown_to_who_asks(driver, certificates):
    response = certificates.answer_ocsp("server")
    for option in VERSIONS:
        server = Server(driver, certificates, "--ocsp", response, *TALK, count=2)
        said = expect_answer(ask(server, certificates, option, "-status"))
        assert "OCSP Response Status: successful" in said and "Cert Status: good" in said, said
        assert "OCSP Response" not in expect_answer(ask(server, certificates, option))
        expect_talk(server)
        expect_talk(server)
        server.ended()


@case_everywhere
def an_end_that_was_said_is_an_end(driver, certificates):
    for option in VERSIONS:
        server = Server(driver, certificates, "until=\n", "peer-eof")
        client = Other(*words_of(server, certificates, option))
        client.type("hello\n")
        server.made()
        server.expect("received")
        client.leave()
        server.expect(f"eof {summary('hello' + chr(10))}")
        server.lost("clean")
        server.ended()


@case_everywhere
def an_end_that_was_not_said_is_none(driver, certificates):
    for option in VERSIONS:
        server = Server(driver, certificates, "until=\n", "peer-eof")
        client = Other(*words_of(server, certificates, option))
        client.type("hello\n")
        server.made()
        server.expect("received")
        client.wait_for("---")  # it has read all that there is to read
        client.kill()
        server.lost("TEPAL_ETRUNCATED", "hello\n")
        server.ended()


@case
def both_ends_compute_the_same_binding(driver, certificates):
    server = Server(driver, certificates, "binding=tls-exporter", "binding=tls-server-end-point", *TALK)
    said = expect_answer(ask(server, certificates, "-tls1_3", "-keymatexport", "EXPORTER-Channel-Binding",
                             "-keymatexportlen", "32"))
    server.made()
    words = server.expect("binding tls-exporter").split()
    assert f"Keying material: {words[2].upper()}" in said, (words, said)
    words = server.expect("binding tls-server-end-point").split()
    der = ssl.PEM_cert_to_DER_cert(certificates.crt("server").read_text())
    assert words[2] == hashlib.sha256(der).hexdigest(), words
    server.expect("received", "lost clean")
    server.ended()


def secrets(path):
    return {line for line in path.read_text().splitlines() if not line.startswith("#")}


@case
def both_ends_log_the_same_secrets(driver, certificates):
    for option in VERSIONS:
        ours, theirs = certificates.file("ours.log"), certificates.file("theirs.log")
        server = Server(driver, certificates, "--keylog", ours, *TALK)
        expect_answer(ask(server, certificates, option, "-keylogfile", theirs))
        expect_talk(server)
        server.ended()
        assert secrets(ours) and secrets(ours) == secrets(theirs), (secrets(ours), secrets(theirs))
        ours.unlink()
        theirs.unlink()


@case
def a_unix_socket_does_as_well(driver, certificates):
    with folder() as place:
        server = Server(driver, certificates, *TALK, address=f"unix:{place}/socket")
        expect_answer(ask(server, certificates, connect=("-unix", f"{place}/socket")))
        expect_talk(server)
        server.ended()


@case_everywhere
def a_mail_server_starts_tls(driver, certificates):
    server = Server(driver, certificates, "--starttls", "send=220 here\r\n", "until=\r\n",
                    "send=250-here\r\n250 STARTTLS\r\n", "until=STARTTLS\r\n", "send=220 begin\r\n", "starttls", *TALK)
    for_mail = ("-starttls", "smtp", "-name", "there")
    expect_answer(ask(server, certificates, *for_mail))
    server.expect("made plain", "received", "received")
    server.made(name="localhost")
    server.expect("received", "lost clean")
    server.ended()
