"""Lines of Python with indentation, wrapped as ruff's formatter would."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WIDTH = 88


class Writer:
    """Collects lines; `text` is all of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.indent = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def line(self, text: str = "") -> None:
        self.lines.append(self.indent + text if text else "")

    def fits(self, text: str) -> bool:
        return len(self.indent) + len(text) <= WIDTH

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A head, and what is written meanwhile under it."""
        self.line(head)
        with self.indented():
            yield

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is written meanwhile stands one step further in."""
        self.indent += "    "
        yield
        self.indent = self.indent[:-4]

    def lines_of(self, text: str) -> None:
        """All lines of a text."""
        for line in text.splitlines():
            self.line(line)

    def comment(self, text: str) -> None:
        """A comment, wrapped to the width."""
        room = WIDTH - len(self.indent) - 2
        for line in textwrap.wrap(text, room, break_long_words=False):
            self.line(f"# {line}")

    def call(self, head: str, arguments: Sequence[str], tail: str = ")") -> None:
        """`head(arguments)`: on one line, else arguments on the next, else each."""
        joined = ", ".join(arguments)
        if self.fits(f"{head}{joined}{tail}") or not arguments:
            self.line(f"{head}{joined}{tail}")
        elif self.fits(f"    {joined}"):
            self._split(head, [joined], tail)
        else:
            self._split(head, [f"{argument}," for argument in arguments], tail)

    def literal(self, head: str, items: Sequence[str], tail: str) -> None:
        """`head items tail`: on one line, else each item on its own."""
        joined = ", ".join(items)
        if self.fits(f"{head}{joined}{tail}"):
            self.line(f"{head}{joined}{tail}")
        else:
            self._split(head, [f"{item}," for item in items], tail)

    def _split(self, head: str, lines: Sequence[str], tail: str) -> None:
        with self.block(head):
            for line in lines:
                self.line(line)
        self.line(tail)
