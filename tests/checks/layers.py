#!/usr/bin/env python3
"""Who may include whom: an include in src/ points down or stays in its folder, and what is built on the library
sees its public headers only."""

import re

from common import ROOT, line_of, main, name_of, sources, without_comments

# The last three do not see each other: the same height, but other folders.
HEIGHT = {"base": 0, "driver": 1, "loop": 2, "future": 3, "net": 4, "tls": 5, "dns": 5, "process": 5}
ON_TOP = ("tools", "examples", "bench", "python")


def includes(path):
    """(line, the name between quotes or brackets, whether quotes) for each include."""
    text = without_comments(path.read_text(), keep_strings=True)
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.M):
        yield line_of(text, match.start()), match.group(2), match.group(1) == '"'


def includes_point_down():
    problems = []
    for path in sources("src"):
        folder = path.relative_to(ROOT / "src").parts[0]
        if folder not in HEIGHT:
            problems.append(f"{name_of(path)}: not in one of the folders {', '.join(HEIGHT)}")
            continue
        for line, target, _ in includes(path):
            inside = [place for place in (path.parent / target, ROOT / "src" / target) if place.is_file()]
            if not inside:
                continue
            other = inside[0].resolve().relative_to(ROOT / "src").parts[0]
            if other != folder and HEIGHT.get(other, 99) >= HEIGHT[folder]:
                problems.append(f"{name_of(path)}:{line}: {folder}/ must not include {other}/ ({target})")
    return problems


def public_headers_include_public_headers():
    problems = []
    for path in sources("include"):
        for line, target, quoted in includes(path):
            if quoted and not (path.parent / target).is_file() and not (ROOT / "include" / target).is_file():
                problems.append(f"{name_of(path)}:{line}: includes {target}, which is not public")
    return problems


def what_is_on_top_sees_the_public_headers():
    problems = []
    for path in sources(*ON_TOP):
        top = ROOT / path.relative_to(ROOT).parts[0]
        for line, target, _ in includes(path):
            places = [path.parent / target, top / target, ROOT / "include" / target, ROOT / "src" / target]
            found = next((place.resolve() for place in places if place.is_file()), None)
            if found and top not in found.parents and ROOT / "include" not in found.parents:
                problems.append(f"{name_of(path)}:{line}: includes {target}, which is not public")
    return problems


CHECKS = {
    "an_include_in_src_points_down_or_stays_in_its_folder": includes_point_down,
    "public_headers_include_public_headers_only": public_headers_include_public_headers,
    "tools_examples_and_benches_see_public_headers_only": what_is_on_top_sees_the_public_headers,
}

if __name__ == "__main__":
    main(CHECKS)
