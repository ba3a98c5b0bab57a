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

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A head that ends in `:`, and what is written meanwhile under it."""
        self.line(head)
        self.indent += "    "
        yield
        self.indent = self.indent[:-4]

    def comment(self, text: str) -> None:
        """A comment, wrapped to the width."""
        room = WIDTH - len(self.indent) - 2
        for line in textwrap.wrap(text, room, break_long_words=False):
            self.line(f"# {line}")

    def call(self, head: str, arguments: Sequence[str], tail: str = ")") -> None:
        """`head(arguments)`: on one line, else arguments on the next, else each."""
        one = f"{head}{', '.join(arguments)}{tail}"
        if len(self.indent) + len(one) <= WIDTH or not arguments:
            self.line(one)
            return
        inner = self.indent + "    "
        self.line(head)
        joined = ", ".join(arguments)
        if len(inner) + len(joined) <= WIDTH:
            self.lines.append(inner + joined)
        else:
            self.lines += [f"{inner}{argument}," for argument in arguments]
        self.line(tail)
