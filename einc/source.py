"""Where text came from and where in it something stands.

In: the bytes or text of a spec. Out: `Source` and `Span`, from which every
message takes its file, line, column and caret. Nothing here knows the language.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, order=True)
class Span:
    """The half-open range of code points [start, end) of a `Source`'s text."""

    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """A named text. A leading BOM is dropped and CRLF and CR are one line end."""

    name: str
    text: str

    @classmethod
    def of(cls, name: str, text: str) -> Source:
        """A source of `text` as a user gave it."""
        text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        return cls(name, text.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.split("\n")

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line in self.lines:
            starts.append(starts[-1] + len(line) + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """The (line, column) of `offset`, both from 1, columns in code points."""
        from bisect import bisect_right

        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def excerpt(self, span: Span) -> str:
        """The line of `span`'s start, a gutter before it and carets under the span.

        A span over several lines is underlined to the end of its first one. Long
        lines are cut around the carets.

        >>> print(Source("a.ein", "y[o] = x[i]").excerpt(Span(7, 11)))
          |
        1 | y[o] = x[i]
          |        ^^^^
        """
        number, column = self.position(span.start)
        line = self.lines[number - 1]
        start = column - 1
        end = max(start + 1, min(start + span.end - span.start, len(line)))
        left = max(0, start - _WIDTH // 2) if len(line) > _WIDTH else 0
        shown = line[left : left + _WIDTH]
        # Tabs stay as wide under the caret as above it.
        pad = "".join("\t" if c == "\t" else " " * _cells(c) for c in line[left:start])
        carets = "^" * max(1, sum(map(_cells, line[start : min(end, left + _WIDTH)])))
        gutter = " " * len(str(number))
        return f"{gutter} |\n{number} | {_printable(shown)}\n{gutter} | {pad}{carets}"


_WIDTH = 160


def _cells(character: str) -> int:
    """The cells of a terminal that a character takes."""
    from unicodedata import combining, east_asian_width

    if character.isascii():
        return 1
    return 0 if combining(character) else 1 + (east_asian_width(character) in "WF")


def _printable(text: str) -> str:
    """Control characters would move the cursor of whoever reads the message."""
    return "".join(
        c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
