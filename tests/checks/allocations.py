#!/usr/bin/env python3
"""The scenarios in which every allocation fails in turn (tests/torture/allocations*.c) call every public function."""

import subprocess

from common import BUILD, Skip, main
from symbols import listed


def called():
    objects = sorted((BUILD / "tests" / "tepal-tests.p").glob("torture_allocations*.o"))
    if not objects:
        raise Skip("the tests are not built")
    listing = subprocess.run(["nm", "--undefined-only", *objects], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in listing.stdout.splitlines() if line.split()[0:1] == ["U"]}


def every_function_is_called():
    return [f"no scenario of tests/torture/allocations*.c calls {name}" for name in sorted(listed() - called())]


CHECKS = {"every_public_function_meets_allocations_that_fail": every_function_is_called}

if __name__ == "__main__":
    main(CHECKS)
