"""One table of malformed texts: what is said of each, where, and what helps.

A block of the table, faults.txt, is a place and a message, the help, if any, and the
text (the body of a structure, or a file):

    CODE LINE:COLUMN-END message
    help ...
    also CODE ...           what else is found, in order
    at 64 x 64              the features it is bound to
    with NAME=VALUE         arguments
      the text, indented by two spaces

`GENERATED` has the texts that are too long or too odd to be written down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

TABLE = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sample:
    """A text and the diagnostic that is expected, with the codes found beside it."""

    code: str
    text: str
    line: int
    column: int
    end: int
    message: str
    help: str | None = None
    also: tuple[str, ...] = ()
    features: tuple[int, int] | None = None
    arguments: dict[str, Fraction] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}-{self.text[:30]!r}"


def _sample(block: str) -> Sample:
    first, *lines = block.split("\n")
    match = re.fullmatch(r"([EW]\d+) (\d+):(\d+)-(\d+) (.*)", first)
    assert match is not None, first
    code, line, column, end, message = match.groups()
    text = "\n".join(x[2:] for x in lines if x.startswith("  "))
    said = dict(x.split(" ", 1) for x in lines if not x.startswith("  "))
    features = said.get("at", "").split(" x ")
    return Sample(
        code,
        text,
        int(line),
        int(column),
        int(end),
        message,
        said.get("help"),
        tuple(said.get("also", "").split()),
        (int(features[0]), int(features[1])) if "at" in said else None,
        {n: Fraction(v) for n, v in re.findall(r"(\w+)=(\S+)", said.get("with", ""))},
    )


_MANY = [f"i{n}" for n in range(27)]
_DEEP = "(" * 101 + "d" + ")" * 101
_LONG = "1" + " + 1" * 201

GENERATED = [
    Sample(
        "E001",
        "y[o] = x[o]\0",
        *(1, 12, 13),
        "the character U+0000 is not part of the language",
        "remove it",
    ),
    Sample(
        "E001",
        'structure s { "a\tb" y[o] = x[o] }',
        *(1, 17, 18),
        "the character U+0009 in a description is not part of the language",
        "remove it",
    ),
    Sample(
        "E001",
        "y[o] = x[\udcff]",
        *(1, 10, 11),
        "the character U+DCFF is not part of the language",
        "remove it",
    ),
    Sample(
        "E002",
        "# nothing but the word structure\n",
        *(2, 1, 1),
        "expected `structure`, found the end of the text",
    ),
    Sample(
        "E002",
        f"y[o] = x[i] {'long' * 20}[i, o]",
        *(1, 99, 99),
        "expected `=` or `+=`, found the end of the text",
        "products need a `*`",
    ),
    Sample(
        "E005",
        "#" * (1 << 20) + "\n",
        *(1, 1, 2),
        "the file is too large: at most 1 MiB",
        "split it into several",
    ),
    Sample(
        "E005",
        f"y[o] = x[o] o ~ {_DEEP}",
        *(1, 117, 118),
        "too deeply nested: at most 100 parentheses",
    ),
    Sample(
        "E005",
        f"y[o] = x[o] o ~ {_LONG}",
        *(1, 819, 820),
        "too long: at most 200 operators or commas",
    ),
    Sample(
        "E005",
        "y[o] = x[i]" + "".join(f" * F{n}[i, o]" for n in range(13)),
        *(1, 149, 158),
        "too many factors: at most 12 in a term",
    ),
    Sample(
        "E005",
        f"y[{', '.join(_MANY)}] = x[{', '.join(_MANY)}]\n{', '.join(_MANY)} ~ d^(1/27)",
        *(1, 123, 126),
        "too many indices: at most 26 in a term",
    ),
    Sample(
        "E005",
        "y[o] = x[o]" + "\ny[o] += x[o]" * 8,
        *(9, 1, 13),
        "too many terms: at most 8 in a structure",
    ),
    Sample(
        "E005",
        "y[o] = x[o]" + "\no = 1" * 500,
        *(501, 3, 4),
        "too many statements: at most 500 parameters and statements in a structure",
    ),
    Sample(
        "E005",
        "structure s { y[o] = x[o] }\n" * 1001,
        *(1001, 1, 10),
        "too many structures: at most 1000 in a file",
    ),
    Sample(
        "E005",
        "y[o] = x[i] * W[i, o]",
        *(1, 15, 22),
        "factor `W` has 1099513724928 elements: at most 2^40",
        features=(1 << 20, (1 << 20) + 2),
    ),
]

WRITTEN = [*map(_sample, TABLE.strip("\n").split("\n\n"))]
SAMPLES = [*WRITTEN, *GENERATED]
