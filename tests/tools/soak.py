"""Tests of scripts/soak and of its load: it comes through with nothing lost, and notices a server that has a fault."""

from load import BadServer
from programs import BUILD, ROOT, run

LOAD = BUILD / "tests" / "soak-load"


def nothing_is_lost_in_some_seconds(driver):
    status, output, errors = run(ROOT / "scripts" / "soak", "0.03", driver, timeout=120)
    lines = output.splitlines()
    assert status == 0 and errors == "" and lines[-1] == "soak: all is well", (output, errors)
    row = lines[-2].split()
    assert row[0] == driver and int(row[2].replace(",", "")) > 0, row
    assert row[5:11] == ["0"] * 6 and row[-2] == row[-1], row


def counts(server, driver):
    """What the load counts against a server with a fault."""
    host, port = server.address.rsplit(":", 1)
    status, output, _ = run("env", f"TEPAL_DRIVER={driver}", LOAD, host, port, "1", "0.3", timeout=120)
    assert status == 1, output
    return {words[0]: int(words[1]) for words in map(str.split, output.splitlines())}


class Fault:
    """An answer of a server: whole messages go through `change`, which returns what is sent back."""

    def __init__(self, change):
        self.change = change
        self.pending = {}

    def __call__(self, connection, data, count):
        pending = self.pending.pop(connection, b"") + data
        messages = []
        while len(pending) >= 16 and len(pending) >= (size := 16 + int.from_bytes(pending[8:12], "little")):
            messages.append(pending[:size])
            pending = pending[size:]
        self.pending[connection] = pending
        connection.sendall(b"".join(self.change(messages)))


def the_load_notices_a_fault(driver):
    def twice(messages):
        return [message for message in messages for _ in range(2)]

    def swapped(messages):
        return messages[::-1]

    def changed(messages):
        return [message[:-1] + bytes([message[-1] ^ 1]) for message in messages]

    for change, name in ((twice, "duplicated"), (swapped, "reordered"), (changed, "wrong")):
        with BadServer(Fault(change)) as server:
            assert counts(server, driver)[name] > 0, name


def the_load_notices_an_end_that_comes_too_early(driver):
    with BadServer(lambda connection, data, count: count < 3 and connection.sendall(data)) as server:
        assert counts(server, driver)["lost"] > 0


def the_load_ends_where_nobody_listens(driver):
    status, output, errors = run("env", f"TEPAL_DRIVER={driver}", LOAD, "unix:@nobody-listens-here", "0", "1", "0.1")
    assert status == 1 and "no connection" in errors and "messages 0" in output, (output, errors)


TESTS = {test.__name__: test for test in (
    nothing_is_lost_in_some_seconds,
    the_load_notices_a_fault,
    the_load_notices_an_end_that_comes_too_early,
    the_load_ends_where_nobody_listens,
)}
