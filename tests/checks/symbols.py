#!/usr/bin/env python3
"""What the shared library exports is what symbols.txt lists. After a change that is meant: symbols.py --update"""

import subprocess
import sys
from pathlib import Path

from common import BUILD, Skip, main

LIST = Path(__file__).with_name("symbols.txt")


def exported():
    library = BUILD / "libtepal.so"
    if not library.exists():
        raise Skip(f"{library.name} is not built")
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    names = {line.split()[2].split("@")[0] for line in listing.stdout.splitlines()}
    return names - {"_init", "_fini", "_edata", "_end", "__bss_start"}


def listed():
    return set(LIST.read_text().split())


def the_list_is_right():
    now, before = exported(), listed()
    return [f"{name} is exported and not in tests/checks/symbols.txt" for name in sorted(now - before)] + [
        f"{name} is in tests/checks/symbols.txt and no longer exported" for name in sorted(before - now)
    ]


def exported_names_have_the_prefix():
    return [f"{name} does not begin with tepal_" for name in sorted(exported()) if not name.startswith("tepal_")]


CHECKS = {
    "the_exported_symbols_are_those_listed": the_list_is_right,
    "every_exported_symbol_begins_with_tepal": exported_names_have_the_prefix,
}

if __name__ == "__main__":
    if "--update" in sys.argv[1:]:
        LIST.write_text("".join(f"{name}\n" for name in sorted(exported())))
    else:
        main(CHECKS)
