"""What the command says to somebody who has to find out how it is used. Needs no driver."""

import re

from programs import TEPAL, run


def fails_with_usage(*words, says):
    status, output, errors = run(TEPAL, *words)
    assert status == 2, (status, errors)
    assert output == "", output
    assert says in errors, errors
    assert "--help" in errors, errors


def help_is_printed():
    for words in ([], ["echo"], ["load"], ["cert"]):
        status, output, errors = run(TEPAL, *words, "--help")
        assert (status, errors) == (0, ""), (words, status, errors)
        assert output.startswith("usage: tepal"), output
        assert "xit status" in output, output
        assert max(map(len, output.splitlines())) <= 110, "a line is too long for a terminal"


def help_names_every_option():
    for command, options in (("echo", "listen workers driver grace stats tls-cert tls-key tls-clients tls-ca alpn"),
                             ("load", "connect connections size depth seconds limit source driver json "
                                      "tls ca insecure server-name cert key alpn tls-version"),
                             ("cert", "out-cert out-key name days ca-cert ca-key is-ca expired force")):
        _, output, _ = run(TEPAL, command, "--help")
        for option in options.split():
            assert f"--{option} " in output, (command, option)


def the_version_is_printed():
    status, output, errors = run(TEPAL, "--version")
    assert (status, errors) == (0, ""), (status, errors)
    assert re.fullmatch(r"tepal \d+\.\d+\.\d+ \((OpenSSL [^()]+|without TLS)\)\n", output), output


def a_mistake_in_the_command_is_explained():
    status, output, errors = run(TEPAL)
    assert status == 2 and output == "" and "usage: tepal" in errors, (status, output, errors)
    fails_with_usage("dance", says="there is no command 'dance'")


def a_mistake_in_an_option_is_explained():
    fails_with_usage("echo", says="--listen 127.0.0.1:7000")
    fails_with_usage("echo", "--listen", says="--listen needs a value")
    fails_with_usage("echo", "--lisen", "127.0.0.1:0", says="there is no option '--lisen'")
    fails_with_usage("echo", "7000", says="'7000' is not an option")
    fails_with_usage("echo", "--stats=yes", says="--stats takes no value")
    fails_with_usage("echo", "--listen", "127.0.0.1:0", "--workers", "0", says="from 1 to 256")
    fails_with_usage("echo", "--listen", "127.0.0.1:0", "--grace", "soon", says="--grace takes seconds")
    fails_with_usage("load", says="--connect 127.0.0.1:7000")
    fails_with_usage("load", "--connect", "127.0.0.1:1", "--size", "-1", says="not '-1'")
    fails_with_usage("load", "--connect", "127.0.0.1:1", "--size", "64q", says="not '64q'")
    fails_with_usage("load", "--connect", "127.0.0.1:1", "--connections", "99999999999999999999", says="1000000")
    fails_with_usage("load", "--connect", "127.0.0.1:1", "--seconds", "nan", says="--seconds takes seconds")
    fails_with_usage("load", "--connect", "127.0.0.1:1", "--source", "here", says="not 'here'")
    fails_with_usage("load", "--connect", "127.0.0.1:0", says="port 0 cannot be connected to")


def a_mistake_in_an_option_of_tls_is_explained():
    echo = ("echo", "--listen", "127.0.0.1:0")
    for option in ("--tls-key", "--tls-ca", "--tls-clients", "--alpn"):
        fails_with_usage(*echo, option, "may", says="--tls-cert FILE; 'tepal cert' makes one")
    echo += ("--tls-cert", "cert.pem")
    fails_with_usage(*echo, "--tls-ca", "ca.pem", says="say --tls-clients may or --tls-clients must")
    fails_with_usage(*echo, "--tls-clients", "shall", says="--tls-clients takes 'may' or 'must'")
    load = ("load", "--connect", "127.0.0.1:1")
    for option in ("--ca", "--server-name", "--cert", "--key", "--alpn", "--tls-version"):
        fails_with_usage(*load, option, "1.2", says="no --tls")
    fails_with_usage(*load, "--insecure", says="no --tls")
    load += ("--tls",)
    fails_with_usage(*load, "--insecure", "--ca", "ca.pem", says="--ca means nothing beside it")
    fails_with_usage(*load, "--key", "key.pem", says="--cert FILE")
    fails_with_usage(*load, "--tls-version", "1.1", says="--tls-version takes 1.2 or 1.3")
    fails_with_usage("load", "--connect", ":1", "--tls", says="--server-name NAME")
    for words in (echo, load):
        for text, says in (("", "is empty"), ("a,", "is empty"), (",a", "is empty"), ("a,,b", "is empty"),
                           ("a" * 256, "255 bytes"), ("a" * 1100, "too long"),
                           (",".join("abcdefghijklmnopq"), "16 names")):
            fails_with_usage(*words, "--alpn", text, says=says)


def a_mistake_in_an_address_is_explained():
    for address, says in {
        "127.0.0.1": "it has no port",
        "127.0.0.1:": "the port must be a number",
        "127.0.0.1:http": "the port must be a number",
        "127.0.0.1:65536": "a port is at most 65535",
        "127.0.0.1:99999999999": "a port is at most 65535",
        "::1:7000": "an IPv6 address needs brackets",
        "[::1]7000": "written [::1]:7000",
        "[::1:7000": "written [::1]:7000",
        "unix:": "a path or @name must follow",
        "unix:@": "a path or @name must follow",
        "unix:" + "a" * 108: "a Unix path is at most 107 bytes",
        "a" * 300 + ":80": "the name is too long",
    }.items():
        fails_with_usage("echo", "--listen", address, says=says)
        fails_with_usage("load", "--connect", address, says=says)


TESTS = {test.__name__: test for test in (
    help_is_printed,
    help_names_every_option,
    the_version_is_printed,
    a_mistake_in_the_command_is_explained,
    a_mistake_in_an_option_is_explained,
    a_mistake_in_an_option_of_tls_is_explained,
    a_mistake_in_an_address_is_explained,
)}
