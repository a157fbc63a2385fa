"""
What one-line changes there are in a C file, as scripts/mutate chooses from. It knows the layout that clang-format gives
(a function begins at a line that ends with a brace, and ends with a brace in the first column) and nothing of types:
whether a change compiles is for the compiler to say.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "checks"))
from common import without_comments  # noqa: E402

KINDS = ("negated condition", "off by one", "dropped call", "swapped arguments")

KEYWORDS = {"if", "while", "for", "switch", "return", "sizeof", "do", "else", "case", "defined", "alignof"}

# Calls that change nothing a program can see: checks of debug mode, and hints to the compiler or the processor.
LEFT_ALONE = re.compile(r"\b(TPI_INVARIANT|static_assert|_Static_assert|__builtin_prefetch|__builtin_unreachable)\s*\(")


@dataclass(frozen=True)
class Candidate:
    function: str
    line: int  # from 1, today
    kind: str
    before: str  # the whole line, without the blanks around it
    after: str


def closing(text, opening):
    """Where the parenthesis that opens there is closed; -1 if it is not."""
    depth = 0
    for position in range(opening, len(text)):
        if text[position] in "([{":
            depth += 1
        elif text[position] in ")]}":
            depth -= 1
            if depth == 0:
                return position
    return -1


def parts(text, start, end):
    """The (start, end) of what top-level commas separate."""
    found, depth, begin = [], 0, start
    for position in range(start, end):
        if text[position] in "([{":
            depth += 1
        elif text[position] in ")]}":
            depth -= 1
        elif text[position] == "," and depth == 0:
            found.append((begin, position))
            begin = position + 1
    return found + [(begin, end)]


def blanked(text, start, end):
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def masked(text):
    """The text with everything blanked out that must not change; every character keeps its place."""
    text = without_comments(text)
    text = re.sub(r"^#(?:[^\n]*\\\n)*[^\n]*", lambda match: re.sub(r"[^\n]", " ", match.group(0)), text, flags=re.M)
    for match in list(LEFT_ALONE.finditer(text)):
        text = blanked(text, match.start(), closing(text, match.end() - 1) + 1)
    # Of __builtin_expect(condition, likely) the condition alone is the program's.
    for match in list(re.finditer(r"\b__builtin_expect\(", text)):
        end = closing(text, match.end() - 1)
        text = blanked(text, parts(text, match.end(), end)[-1][0], end)
        text = blanked(text, match.start(), match.end() - 1)
    return text


def function_lines(mask):
    """{line number from 1: function's name} for the lines inside of functions. `mask` is what masked() gave."""
    lines, head, function = {}, "", None
    for number, line in enumerate(mask.split("\n"), 1):
        if function is not None:
            if line.startswith("}"):
                function = None
            else:
                lines[number] = function
            head = ""
            continue
        head = "" if line.strip() == "" or line.rstrip().endswith((";", "}")) else head + " " + line
        is_table = re.match(r"\s*(typedef|struct|union|enum)\b[^(]*$", head) or "=" in head
        name = re.search(r"(\w+)\s*\((?!\()", re.sub(r"__attribute__\s*\(\(\w+\)\)", "", head))
        if line.endswith("{") and name and not is_table:
            function = name.group(1)
    return lines


def is_code(line):
    """Whether a masked line inside of a function has something to change."""
    text = line.strip()
    if not re.search(r"\w", text) or re.match(r"(case\b.*|default|\w+):$", text):
        return False
    if re.match(r"(break|continue|goto \w+|else|return);?$", text) or text in ("} else {", "do {"):
        return False
    # A declaration without a value.
    return not (re.match(r"(?!return\b|goto\b)(const |static |volatile )*(struct |enum |union )?\w+ \**\w[^=()]*;$", text))


def code_lines(mask):
    lines = mask.split("\n")
    return {number: function for number, function in function_lines(mask).items() if is_code(lines[number - 1])}


def calls(mask):
    """Each call that begins and ends on the line: (start of its name, opening, closing)."""
    for match in re.finditer(r"\b([A-Za-z_]\w*)\(", mask):
        end = closing(mask, match.end() - 1)
        if end > 0 and match.group(1) not in KEYWORDS:
            yield match.start(), match.end() - 1, end


def negations(mask):
    for match in re.finditer(r"\b(?:if|while) \(", mask):
        end = closing(mask, match.end() - 1)
        if end > 0:
            yield [(match.end(), match.end(), "!("), (end, end, ")")]
    for match in re.finditer(r"&&|\|\||==|!=|\btrue\b|\bfalse\b", mask):
        other = {"&&": "||", "||": "&&", "==": "!=", "!=": "==", "true": "false", "false": "true"}
        yield [(match.start(), match.end(), other[match.group(0)])]
    for match in re.finditer(r"(?<![\w)\]])!(?=[\w(])", mask):
        yield [(match.start(), match.end(), "")]


def boundaries(mask):
    other = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > "}
    for match in re.finditer(r" [<>]=? ", mask):
        yield [(match.start(), match.end(), other[match.group(0)])]
    for match in re.finditer(r" [+-] (1)(?:u|ULL)?\b", mask):
        yield [(match.start(1), match.end(1), "0")]


def numbers(mask):
    for match in re.finditer(r"(?<![\w.])(\d+)(?=[uUlL]*\b(?![\w.]))", mask):
        yield [(match.start(1), match.end(1), str(int(match.group(1)) + 1))]


def dropped(mask, previous):
    """A call that is a statement. `previous`: the masked code before the line, to know that a statement begins there."""
    text = mask.strip()
    name = re.match(r"(\(void\))?([\w.>\[\]-]+)\(", text)
    if not name or not text.endswith(";") or not previous.rstrip().endswith((";", "{", "}", ":")):
        return
    opening = len(mask) - len(mask.lstrip()) + name.end() - 1
    if name.group(2) not in KEYWORDS and closing(mask, opening) == len(mask.rstrip()) - 2:
        start = len(mask) - len(mask.lstrip())
        yield [(start, len(mask.rstrip()), ";")]


def swaps(mask, line):
    for _, opening, end in calls(mask):
        arguments = parts(mask, opening + 1, end)
        for (first, second) in zip(arguments, arguments[1:]):
            one, other = (line[start:stop].strip() for start, stop in (first, second))
            if one != other:
                yield [(first[0], second[1], f"{' ' if line[first[0]] == ' ' else ''}{other}, {one}")]


def apply(line, edits):
    for start, end, text in sorted(edits, reverse=True):
        line = line[:start] + text + line[end:]
    return line


def candidates(text):
    """{line number: {kind: [Candidate]}} of a file, in the order of the lines."""
    mask = masked(text)
    lines, mask_lines = text.split("\n"), mask.split("\n")
    found = {}
    for number, function in code_lines(mask).items():
        line, visible = lines[number - 1], mask_lines[number - 1]
        previous = "\n".join(mask_lines[max(0, number - 4):number - 1]) or ";"
        # A number is changed where there is no boundary to move.
        edits = {"negated condition": list(negations(visible)),
                 "off by one": list(boundaries(visible)) or list(numbers(visible)),
                 "dropped call": list(dropped(visible, previous)),
                 "swapped arguments": list(swaps(visible, line))}
        kinds = {}
        for kind in KINDS:
            after = dict.fromkeys(apply(line, edit).strip() for edit in edits[kind])
            made = [Candidate(function, number, kind, line.strip(), new) for new in after if new != line.strip()]
            if made:
                kinds[kind] = made
        if kinds:
            found[number] = kinds
    return found


def lines_of_code(text):
    return len(code_lines(masked(text)))


def find(text, function, before, occurrence):
    """The number of the occurrence-th line of the function that reads so; 0 if there is none."""
    lines = text.split("\n")
    for number, name in function_lines(masked(text)).items():
        if name == function and lines[number - 1].strip() == before:
            occurrence -= 1
            if occurrence == 0:
                return number
    return 0


def occurrence_of(text, candidate):
    lines = text.split("\n")
    return sum(1 for number, name in function_lines(masked(text)).items()
               if name == candidate.function and number <= candidate.line and
               lines[number - 1].strip() == candidate.before)
