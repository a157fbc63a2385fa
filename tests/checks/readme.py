#!/usr/bin/env python3
"""The README and the documents name commands and files that exist."""

import re

from common import ROOT, line_of, main, name_of


def documents():
    return [p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if p.is_file()]


def command_blocks(text):
    """(line, command) for each line of the sh blocks."""
    for block in re.finditer(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.M | re.S):
        first = line_of(text, block.start(1))
        for offset, line in enumerate(block.group(1).splitlines()):
            yield first + offset, line.split("#")[0].strip().removeprefix("$ ")


def commands_exist():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    problems = []
    for path in documents():
        for line, command in command_blocks(path.read_text()):
            words = [word for word in command.split() if not re.match(r"\w+=", word)]
            if not words:
                continue
            place = f"{name_of(path)}:{line}"
            if words[0] == "make":
                problems += [f"{place}: no make target '{w}'" for w in words[1:] if w.isalpha() and w not in targets]
            elif re.match(r"(\./)?(scripts|tests|bench|\.ci)/", words[0]) and not (ROOT / words[0]).exists():
                problems.append(f"{place}: {words[0]} is not there")
    return problems


def links_lead_somewhere():
    problems = []
    for path in documents():
        text = re.sub(r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), path.read_text(), flags=re.M | re.S)
        for match in re.finditer(r"\]\((?!\w+:|#)([^)#\s]+)[^)]*\)", text):
            if not (path.parent / match.group(1)).exists():
                problems.append(f"{name_of(path)}:{line_of(text, match.start())}: {match.group(1)} is not there")
    return problems


def readme_programs_are_examples():
    examples = [path.read_text() for path in (ROOT / "examples").glob("*.c")]
    text = (ROOT / "README.md").read_text()
    return [f"README.md:{line_of(text, block.start())}: this program is not one of examples/"
            for block in re.finditer(r"^```c\n(.*?)^```", text, re.M | re.S)
            if not any(block.group(1) in example for example in examples)]


CHECKS = {
    "commands_in_the_documents_exist": commands_exist,
    "links_in_the_documents_lead_somewhere": links_lead_somewhere,
    "programs_in_the_readme_are_examples": readme_programs_are_examples,
}

if __name__ == "__main__":
    main(CHECKS)
