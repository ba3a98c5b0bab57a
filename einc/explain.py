"""What a diagnostic means: one page a code, with a wrong and a right example.

In: a code. Out: its page, from einc/explanations, and the examples in it, which the
tests run: the wrong one must raise the code and the right one must not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from einc.errors import FAULTS, UsageError

_FOLDER = Path(__file__).with_name("explanations")
_EXAMPLE = re.compile(r"^```(?:ein|console)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Example:
    """A spec of a page; `shape` is the features that it is for, as INxOUT, or ""."""

    text: str
    shape: str


def page(code: str) -> str:
    """The page of `code`, as Markdown. Raises `UsageError` for an unknown one."""
    if code.upper() not in FAULTS:
        raise UsageError(f"there is no diagnostic `{code}`; `einc explain` lists them")
    return (_FOLDER / f"{code.upper()}.md").read_text(encoding="utf-8")


def title(code: str) -> str:
    """The heading of a page, without the code."""
    return page(code).splitlines()[0].partition(": ")[2]


def examples(code: str) -> tuple[Example, ...]:
    """The examples of a page, in its order: the wrong one, then the right one."""
    found = _EXAMPLE.findall(page(code))
    return tuple(Example(text, shape) for shape, text in found)
