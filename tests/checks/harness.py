#!/usr/bin/env python3
"""The test runner says the right thing about tests that fail: a runner that misses failures hides everything else."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from common import BUILD, Skip, main

# What the line after "FAIL  label" must contain.
EXPECTED = {
    "bad/check_fails": "tests/harness/failing.c:17: 1 > 2",
    "bad/integers_differ": "6 * 7 == 41 (left is 42, right is 41)",
    "bad/strings_differ": '(left is "tulip", right is NULL)',
    "bad/memory_differs": "byte 2 of 4 (left has 0x63, right has 0x78)",
    "bad/crashes": "killed by signal 11 (Segmentation fault)",
    "bad/hangs": "timed out after 1 s",
    "bad/exits": "ended its process before the test came to its end",
    "bad/exits_with_a_status": "exited with status 7",
    "bad/leaks_a_descriptor": "descriptors left open: 3 (/dev/null)",
    "bad/closes_a_strangers_descriptor": "descriptors closed that the test did not open: 0",
    "bad/leaks_a_block": "1 blocks of test_counting_alloc were not freed",
    "bad/fails_in_a_thread": "a thread failed",
    "bad/fails_in_a_child_that_nobody_asks": "1 == 2",
    "bad/fails_on_one_driver:poll": '(left is "poll", right is "epoll")',
}


def run(*arguments, environment=None):
    program = BUILD / "tests" / "failing-tests"
    if not program.exists():
        raise Skip("failing-tests is not built")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                            env=os.environ | (environment or {}))
    return result.returncode, result.stdout


def drivers():
    """Those of tests/harness/drivers.c. The last one is there where it was built with liburing."""
    always, ring = ["epoll", "late", "poll", "sim"], ["uring"]
    _, listing = run("--list", "bad/fails_on_one_driver:uring")
    return always + ring if "uring" in listing else always


def every_failure_is_reported():
    status, output = run()
    lines = output.splitlines()
    problems = [] if status == 1 else [f"status {status} instead of 1"]
    said = {}
    for line, following in zip(lines, lines[1:]):
        if match := re.match(r"FAIL  (\S+) ", line):
            said[match.group(1)] = following.strip()
    for label, reason in EXPECTED.items():
        if reason not in said.get(label, ""):
            problems.append(f"{label}: expected '{reason}', got '{said.get(label)}'")
    problems += [f"{label} is reported as failed" for label in said.keys() - EXPECTED.keys()]
    # Passed: passes, both that leave something, and the other drivers. Skipped: skips.
    totals = f"{3 + len(drivers()) - 1} passed, {len(EXPECTED)} failed, 1 skipped"
    if lines[-1] != totals:
        problems.append(f"expected '{totals}', got '{lines[-1]}'")
    if "SKIP  good/skips: no reason here" not in lines:
        problems.append("the skip is not reported with its reason")
    if "      | written before the failure" not in lines:
        problems.append("what a failing test wrote is not shown")
    return problems


def a_prefix_selects_tests():
    _, listing = run("--list", "bad/fails")
    _, on_poll = run("--list", "--driver", "poll", "bad/fails_on")
    expected = ["bad/fails_in_a_thread", "bad/fails_in_a_child_that_nobody_asks"]
    expected += [f"bad/fails_on_one_driver:{name}" for name in drivers()]
    problems = [] if listing.split() == expected else [f"bad/fails selects {listing.split()}"]
    if on_poll.split() != ["bad/fails_on_one_driver:poll"]:
        problems.append(f"--driver poll selects {on_poll.split()}")
    if run("nothing/at/all")[0] != 2:
        problems.append("a prefix that selects nothing is not an error")
    return problems


def a_single_test_runs_unforked():
    problems = []
    if run("bad/crashes")[0] != -11:
        problems.append("a crash did not reach the process that was started")
    for label, status, last in [("good/passes", 0, "1 passed, 0 failed, 0 skipped"),
                                ("good/skips", 0, "0 passed, 0 failed, 1 skipped"),
                                ("bad/check_fails", 1, "0 passed, 1 failed, 0 skipped")]:
        result, output = run(label)
        if result != status or output.splitlines()[-1] != last:
            problems.append(f"{label}: status {result}, '{output.splitlines()[-1]}'")
    return problems


def what_a_test_leaves_is_removed():
    before = set(Path(tempfile.gettempdir()).glob("tepal-test-*"))
    _, output = run("--verbose", "--fork", "good/leaves_files")
    left = set(Path("/tmp").glob("tepal-test-*")) - before
    problems = [f"{path} is still there" for path in left if (path / "left").exists()]
    return problems + ([] if "1 passed" in output else [output])


def the_first_failure_can_end_the_run():
    problems = []
    # The tests run in the order of their file: check_fails first, which fails at once, then hangs, for its second.
    for arguments, reported in [(["--jobs", "1", "bad/check_fails", "bad/integers", "good"], "bad/check_fails"),
                                (["--jobs", "2", "bad/hangs", "bad/exits_with_a_status"], "bad/exits_with_a_status")]:
        status, output = run("--fail-fast", *arguments)
        failed = re.findall(r"^FAIL  (\S+)", output, flags=re.M)
        if status != 1 or failed != [reported] or output.splitlines()[-1] != "0 passed, 1 failed, 0 skipped":
            problems.append(f"{' '.join(arguments)}: status {status}, {output}")
    return problems


def a_limit_for_all_tests_is_kept():
    # TEST_TIMEOUT lets bad/hangs run for 15 seconds, so that 2 are the limit's.
    _, below = run("--limit", "2", "--fork", "bad/hangs", environment={"TEST_TIMEOUT": "15"})
    _, above = run("--limit", "9", "--fork", "bad/hangs")
    return [output for output, limit in ((below, 2), (above, 1)) if f"timed out after {limit} s" not in output]


CHECKS = {
    "the_runner_reports_every_kind_of_failure": every_failure_is_reported,
    "a_prefix_selects_tests": a_prefix_selects_tests,
    "a_single_test_runs_unforked": a_single_test_runs_unforked,
    "the_first_failure_can_end_the_run": the_first_failure_can_end_the_run,
    "a_limit_for_all_tests_is_kept": a_limit_for_all_tests_is_kept,
    "what_a_test_leaves_behind_is_removed": what_a_test_leaves_is_removed,
}

if __name__ == "__main__":
    main(CHECKS)
