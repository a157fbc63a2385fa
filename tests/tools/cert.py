"""Tests of `tepal cert`: another implementation's client believes what it makes, and its files are handled with care.
Needs no driver."""

import datetime
import os
import ssl
import stat
from pathlib import Path

from programs import TEPAL, Skip, folder, has_tls, needs_tls, run

# P-256, encrypted with "password".
ENCRYPTED_KEY = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjEXhl4+utCyQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEENoVOiwRpBp2Q2nL8xtZhAEgZAX
h5wnY0KxL8brBS2KS9Yshk+puXeh0+nOase9fsZRNoBj6H0+FEzpwGu2E/eK2LAz
RIt6kSC1bMnlHZTn91yIVwz8pFYISP408fZEqcLGOI0eno5S57vFZKjVqmEfnS1w
M/hsapgRCWjGvDN2H9K7AoI/XfGeMQyLHWWEvxYZ7to+AyFcjnXgpcJfhUf9FWM=
-----END ENCRYPTED PRIVATE KEY-----
"""


def make(place, *options, status=0):
    """Run it in a folder: what it printed, or, if it must fail, what it said."""
    ended, output, errors = run("env", "-C", place, TEPAL, "cert", *options)
    assert ended == status, (ended, output, errors)
    assert (errors == "") == (status == 0) and (output == "") == (status != 0), (output, errors)
    return output if status == 0 else errors


def paths(place, name):
    return str(Path(place) / f"{name}.pem"), str(Path(place) / f"{name}-key.pem")


def make_as(place, name, *options):
    """One with files of its own: its certificate and key."""
    certificate, key = paths(place, name)
    make(place, "--out-cert", certificate, "--out-key", key, *options)
    return certificate, key


def signed_by(issuer):
    return "--ca-cert", issuer[0], "--ca-key", issuer[1]


def shaken(server_files, authorities, name):
    """What a client of Python's ssl, which trusts these authorities alone, learns of such a server's certificate."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*server_files)
    client_context = ssl.create_default_context(cafile=authorities)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return client.getpeercert()


def refused(server_files, authorities, name):
    try:
        shaken(server_files, authorities, name)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    raise AssertionError(f"{server_files[0]} was believed")


def day(found):
    return datetime.datetime.strptime(found["notAfter"], "%b %d %H:%M:%S %Y %Z").date()


def today():
    return datetime.datetime.utcnow().date()


def without_options_it_is_for_this_machine():
    needs_tls()
    with folder() as place:
        output = make(place)
        files = [os.path.join(place, name) for name in ("cert.pem", "key.pem")]
        assert sorted(os.listdir(place)) == ["cert.pem", "key.pem"], os.listdir(place)
        for name in ("localhost", "127.0.0.1", "::1"):
            found = shaken(files, files[0], name)
        assert found["subjectAltName"] == (("DNS", "localhost"), ("IP Address", "127.0.0.1"),
                                           ("IP Address", "0:0:0:0:0:0:0:1")), found
        assert abs((day(found) - today()).days - 365) <= 1, found
        assert output == (f"wrote cert.pem: for localhost, 127.0.0.1, ::1, good until {day(found)}\n"
                          "wrote key.pem: its private key\n"), output


def each_name_is_in_it_and_no_other():
    needs_tls()
    with folder() as place:
        long = ".".join(["a" * 60] * 4)
        files = make_as(place, "it", "--name", "*.example.test", "--name", "192.0.2.7", "--name", "2001:db8::7",
                        "--name", long, "--days", "3")
        for name in ("www.example.test", "192.0.2.7", "2001:db8::7", long):
            found = shaken(files, files[0], name)
        assert abs((day(found) - today()).days - 3) <= 1, found
        for name in ("example.test", "a.b.example.test", "localhost", "127.0.0.1"):
            assert "mismatch" in refused(files, files[0], name), name


def no_two_are_alike():
    needs_tls()
    with folder() as place:
        made = [make_as(place, name) for name in "ab"]
        serials = [shaken(files, files[0], "localhost")["serialNumber"] for files in made]
        assert serials[0] != serials[1] and len(serials[0]) == 32, serials
        assert Path(made[0][1]).read_text() != Path(made[1][1]).read_text()


def an_authority_signs_others():
    needs_tls()
    with folder() as place:
        root = make_as(place, "root", "--is-ca", "--name", "The root of it all")
        other = make_as(place, "other", "--is-ca")
        middle = make_as(place, "middle", "--is-ca", *signed_by(root))
        for issuer, length in ((root, 1), (middle, 2)):
            files = make_as(place, f"leaf-{length}", *signed_by(issuer))
            assert Path(files[0]).read_text().count("BEGIN CERTIFICATE") == length, files
            found = shaken(files, root[0], "localhost")
            assert "unable to get" in refused(files, other[0], "localhost")
        issuer = dict(pair for group in found["issuer"] for pair in group)
        assert issuer["commonName"].startswith("Tepal development authority "), issuer


def none_outlives_its_authority():
    needs_tls()
    with folder() as place:
        root = make_as(place, "root", "--is-ca", "--days", "2")
        files = make_as(place, "leaf", "--days", "100", *signed_by(root))
        assert abs((day(shaken(files, root[0], "localhost")) - today()).days - 2) <= 1


def an_expired_one_is_refused():
    needs_tls()
    with folder() as place:
        root = make_as(place, "root", "--is-ca")
        for options in ([], signed_by(root)):
            files = make_as(place, "it", "--expired", "--force", *options)
            assert "expired" in refused(files, root[0] if options else files[0], "localhost")


def the_key_is_for_its_owner_alone():
    needs_tls()
    with folder() as place:
        before = os.umask(0)
        try:
            make(place)
            for name in ("cert.pem", "key.pem"):  # and in the place of files that anybody may read
                os.chmod(os.path.join(place, name), 0o666)
            make(place, "--force")
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(os.stat(os.path.join(place, name)).st_mode) for name in ("cert.pem", "key.pem")]
        assert modes == [0o644, 0o600], [oct(mode) for mode in modes]


def files_that_are_there_are_left_alone():
    needs_tls()
    for there in ("cert.pem", "key.pem"):
        with folder() as place:
            path = Path(place) / there
            path.write_text("mine")
            said = make(place, status=1)
            assert f"cannot write {there}: it is there already; --force replaces it" in said, said
            assert path.read_text() == "mine" and os.listdir(place) == [there], os.listdir(place)
            make(place, "--force")
            assert path.read_text().startswith("-----BEGIN ") and len(os.listdir(place)) == 2, os.listdir(place)


def what_is_no_file_is_not_replaced():
    needs_tls()
    with folder() as place:
        os.mkdir(os.path.join(place, "key.pem"))
        os.symlink("elsewhere", os.path.join(place, "cert.pem"))
        for option in ("--out-key", "--out-cert"):
            said = make(place, "--force", option, "free.pem", status=1)
            assert "what is there is no regular file" in said, said
        assert sorted(os.listdir(place)) == ["cert.pem", "key.pem"], os.listdir(place)


def a_folder_that_is_not_there_is_explained():
    needs_tls()
    with folder() as place:
        for option in ("--out-cert", "--out-key"):
            said = make(place, option, "nowhere/it.pem", status=1)
            assert "cannot write nowhere/it.pem: No such file or directory" in said, said
        assert os.listdir(place) == [], os.listdir(place)


def an_authority_that_cannot_sign_is_explained():
    needs_tls()
    with folder() as place:
        root, other = (make_as(place, name, "--is-ca") for name in ("root", "other"))
        leaf = make_as(place, "leaf")
        expired = make_as(place, "expired", "--is-ca", "--expired")
        nothing, half, secret = (os.path.join(place, name) for name in ("nothing", "half", "secret"))
        Path(nothing).write_text("this is no PEM\n")
        Path(half).write_text(Path(root[0]).read_text() + "-----BEGIN CERTIFICATE-----\nAAAA\n")
        Path(secret).write_text(ENCRYPTED_KEY)
        for issuer, says in {
            ("missing", root[1]): "cannot read missing: No such file or directory",
            (root[0], "missing"): "cannot read missing: No such file or directory",
            (nothing, root[1]): f"no certificate in PEM could be read from {nothing}",
            (half, root[1]): f"not every certificate in PEM could be read from {half}",
            (root[0], nothing): f"no private key in PEM could be read from {nothing}",
            (root[0], secret): f"the key in {secret} is encrypted",
            (root[0], other[1]): f"the key in {other[1]} does not belong to the certificate in {root[0]}",
            leaf: f"the certificate in {leaf[0]} is no authority's",
            expired: f"the certificate in {expired[0]} has expired",
        }.items():
            said = make(place, *signed_by(issuer), status=1)
            assert said.startswith("tepal cert: ") and says in said, (issuer, said)
        assert "cert.pem" not in os.listdir(place) and "key.pem" not in os.listdir(place)


def mistakes_are_explained():
    for words, says in (
        (["--name", ""], "there is nothing before, between or after its dots"),
        (["--name", "example..test"], "there is nothing before, between or after its dots"),
        (["--name", "example.test."], "there is nothing before, between or after its dots"),
        (["--name", "two words"], "for 'two words': a name has letters, digits, hyphens and dots"),
        (["--name", "www.*.test"], "a name has letters"),
        (["--name", "blume\u00e4.test"], "written xn--"),
        (["--name", "a" * 64 + ".test"], "longer than 63 bytes"),
        (["--name", ".".join(["a" * 63] * 4)], "longer than 253 bytes"),
        (["--is-ca", "--name", ""], "1 to 64 bytes"),
        (["--is-ca", "--name", "a" * 65], "1 to 64 bytes"),
        (["--is-ca", "--name", "Blume\u00e4"], "printable ASCII"),
        (["--is-ca", "--name", "a", "--name", "b"], "one --name at most"),
        (["--ca-cert", "ca.pem"], "both --ca-cert FILE and --ca-key FILE"),
        (["--ca-key", "ca.pem"], "both --ca-cert FILE and --ca-key FILE"),
        (["--out-cert", "a", "--out-key", "a"], "cannot be written to one file"),
        (["--days", "0"], "from 1 to 36500"),
    ):
        with folder() as place:
            said = make(place, *words, status=2)
            assert says in said and "tepal cert --help" in said, (words, said)
            assert os.listdir(place) == [], words


def a_tepal_without_tls_says_so():
    if has_tls():
        raise Skip("this Tepal was built with TLS")
    with folder() as place:
        said = make(place, status=1)
        assert said == "tepal cert: no certificate can be made here: this Tepal was built without OpenSSL\n", said
        assert os.listdir(place) == [], os.listdir(place)
    for command in (["echo", "--listen", "127.0.0.1:0", "--tls-cert", "cert.pem"],
                    ["load", "--connect", "127.0.0.1:1", "--tls"]):
        status, output, errors = run(TEPAL, *command)
        assert status == 1 and output == "" and "this Tepal was built without OpenSSL" in errors, (command, errors)


TESTS = {test.__name__: test for test in (
    without_options_it_is_for_this_machine,
    each_name_is_in_it_and_no_other,
    no_two_are_alike,
    an_authority_signs_others,
    none_outlives_its_authority,
    an_expired_one_is_refused,
    the_key_is_for_its_owner_alone,
    files_that_are_there_are_left_alone,
    what_is_no_file_is_not_replaced,
    a_folder_that_is_not_there_is_explained,
    an_authority_that_cannot_sign_is_explained,
    mistakes_are_explained,
    a_tepal_without_tls_says_so,
)}
