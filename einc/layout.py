"""One canonical layout of a .ein file, its comments kept.

In: a `Source` that parses. Out: the text that `einc fmt` writes. The layout is that of
`syntax.unparse`, lines wrapped at 88 characters where no name is longer. A comment on a
line of its own stays before what it stood before, one at the end of a line stays there,
and one in the middle of a statement goes before it. A blank line around comments stays,
and is one. Laying out again changes nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from einc.parser import parse
from einc.source import Source
from einc.syntax import Definition, Spec, unparse

WIDTH = 88
_COMMENT_OR_STRING = re.compile(r'"[^"\n]*"|#[^\n]*')


@dataclass
class _Line:
    """One line of the canonical layout and the place in the text that it is for.

    `gap` says whether a blank line comes before it, and before its comments.
    """

    text: str
    start: int
    end: int
    gap: bool = False
    before: list[str] = field(default_factory=list)
    gap_after_comments: bool = False
    after: str = ""


def laid_out(source: Source) -> str:
    """The canonical layout. Raises `SpecError` where the text has faults.

    >>> print(laid_out(Source("a", "structure s{y[o]=x[i]*W[i,o]# dense\\n}")), end="")
    structure s {
      y[o] = x[i] * W[i, o]  # dense
    }
    """
    lines = list(_lines(parse(source), source.text))
    end = _Line("", len(source.text), len(source.text))
    _place_comments(source.text, [*lines, end])
    written: list[str] = []
    for line in [*lines, end]:
        indent = " " * (len(line.text) - len(line.text.lstrip(" ")))
        if line.gap and written:
            written.append("")
        beside = "  " if line.text == "}" else indent  # as what stands between
        written += [f"{beside}{comment}".rstrip() for comment in line.before]
        if line.gap_after_comments:
            written.append("")
        if line is not end:
            written += _wrapped(line.text, indent)
            written[-1] += f"  {line.after}" if line.after else ""
    while written and not written[-1]:
        written.pop()
    return "".join(f"{text}\n" for text in written)


def _wrapped(text: str, indent: str) -> list[str]:
    """What is longer than a line goes on in the next: the syntax does not mind."""
    if len(text) <= WIDTH or text.lstrip().startswith('"'):
        return [text]
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=f"{indent}    ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _lines(spec: Spec, text: str) -> Iterator[_Line]:
    code = _COMMENT_OR_STRING.sub(lambda match: " " * len(match[0]), text)
    for number, definition in enumerate(spec.definitions):
        head, *body = unparse(definition).splitlines()
        start = definition.span.start
        opening = code.index("{", start)
        yield _Line(head, start, opening + 1, gap=number > 0)
        gap = False
        spans = iter(_spans(definition, text, opening))
        for line in body[:-1]:
            if line:
                yield _Line(line, *next(spans), gap=gap)
            gap = not line
        end = definition.span.end
        yield _Line("}", end - 1, end)


def _spans(
    definition: Definition, text: str, opening: int
) -> Iterator[tuple[int, int]]:
    """Where what stands between the braces is: the text first, then the statements."""
    if definition.doc is not None:
        found = _COMMENT_OR_STRING.search(text, opening)
        while found is not None and found[0].startswith("#"):
            found = _COMMENT_OR_STRING.search(text, found.end())
        assert found is not None
        yield found.span()
    for statement in definition.statements:
        yield statement.span.start, statement.span.end


def _place_comments(text: str, lines: list[_Line]) -> None:
    """Gives each comment to the line that it is before, in or behind."""
    number = 0
    for match in _COMMENT_OR_STRING.finditer(text):
        if not match[0].startswith("#"):
            continue
        comment, start = match[0].rstrip(), match.start()
        begin = text.rfind("\n", 0, start) + 1
        while number < len(lines) - 1 and lines[number].end <= start:
            number += 1
        # The line that the comment is before or in, and the last one that has ended.
        goal, ended = lines[number], lines[max(number - 1, 0)]
        alone = not text[begin:start].strip()
        if not alone and begin < ended.end <= start and not ended.after:
            ended.after = comment
            continue
        above = text[text.rfind("\n", 0, max(begin - 1, 0)) + 1 : max(begin - 1, 0)]
        is_first = number == 0 or ended.text.endswith("{")
        if alone and begin > 0 and not above.strip():
            if goal.before:
                goal.before.append("")
            elif not is_first:
                goal.gap = True
        goal.before.append(comment)
        below = text.find("\n", match.end()) + 1
        end = text.find("\n", below)
        following = text[below : end if end >= 0 else len(text)]
        goal.gap_after_comments = alone and below > 0 and not following.strip()
