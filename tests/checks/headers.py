#!/usr/bin/env python3
"""Every public header can be included alone, twice, from C11 and from C++17, by someone with strict warnings; and
documents what it declares."""

import re
import shutil
import subprocess

from common import ROOT, Skip, line_of, main, name_of, sources

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", str(ROOT / "include")]


def compile_alone(compiler, language, standard):
    if not shutil.which(compiler):
        raise Skip(f"{compiler} is not installed")
    problems = []
    for path in sources("include"):
        header = path.relative_to(ROOT / "include")
        # ISO C wants a declaration in every file.
        program = f"#include <{header}>\n#include <{header}>\ntypedef int something;\n"
        result = subprocess.run([compiler, *STRICT, f"-std={standard}", "-x", language, "-"], input=program,
                                capture_output=True, text=True)
        if result.returncode:
            first = result.stderr.strip().splitlines()[:4]
            problems.append(f"{name_of(path)}: " + "\n        ".join(first))
    return problems


def has_comment_before(text, position):
    """Whether the declaration at this position directly follows the end of a /** ... */ comment."""
    before = text[:position].rstrip(" \t")
    if not before.endswith("*/\n"):
        return False
    return before[before.rfind("/*"):].startswith("/**")


def declarations_have_comments():
    problems = []
    for path in sources("include"):
        text = path.read_text()
        for match in re.finditer(r"^TEPAL_API\b[^;{]*", text, re.M):
            if not has_comment_before(text, match.start()):
                declaration = " ".join(match.group(0).split())
                problems.append(f"{name_of(path)}:{line_of(text, match.start())}: no /** */ before {declaration}")
    return problems


def functions_are_marked():
    """A function that the headers declare and forget to mark would be missing from the shared library."""
    problems = []
    for path in sources("include"):
        text = path.read_text()
        for match in re.finditer(r"^(?!TEPAL_API|static|typedef|#|extern|\s)[\w *]*\btepal_\w+\([^;{]*\);", text, re.M):
            problems.append(f"{name_of(path)}:{line_of(text, match.start())}: no TEPAL_API: {match.group(0)}")
    return problems


CHECKS = {
    "every_public_header_compiles_alone_as_c11": lambda: compile_alone("cc", "c", "c11"),
    "every_public_header_compiles_alone_as_cpp17": lambda: compile_alone("c++", "c++", "c++17"),
    "every_public_header_compiles_alone_as_c11_with_clang": lambda: compile_alone("clang", "c", "c11"),
    "every_public_declaration_has_a_comment": declarations_have_comments,
    "every_public_function_is_marked_TEPAL_API": functions_are_marked,
}

if __name__ == "__main__":
    main(CHECKS)
