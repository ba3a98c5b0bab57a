"""Syntax errors in the words of the language: what was expected, found and meant.

In: a token or a character where a text stops to make sense, and a parser to ask what
could have stood there. Out: a `SpecError`; nothing here returns where there is one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from einc import syntax
from einc.errors import (
    RESERVED_WORD,
    UNEXPECTED,
    UNREADABLE_CHARACTER,
    Diagnostics,
    Fault,
    InternalError,
)
from einc.source import Source, Span

if TYPE_CHECKING:
    from lark import Token

# What stands for a set of terminals in "expected ...", first match first.
_EXPECTED: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset(["NAME", "NUMBER", "LPAR", "SQRT"]), "a size expression"),
    (frozenset(["NUMBER", "NAME", "LPAR"]), "a number, a name or `(`"),
    (frozenset(["NAME", "ROUTE", "NORMALIZE"]), "a statement"),
    (frozenset(["PLUS", "MINUS", "STAR", "SLASH"]), "an operator"),
)
_FUNCTIONS = ("MIN", "MAX", "SQRT")
TERMINALS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a description in double quotes",
    "STRUCTURE": "`structure`",
    "ASSIGN": "`=`",
    "ADD_ASSIGN": "`+=`",
    "GROWS": "`~`",
    "ALL": "`all`",
    "MIN": "`min`",
    "MAX": "`max`",
    "SQRT": "`sqrt`",
    "ROUTE": "`route`",
    "TOP": "`top`",
    "NORMALIZE": "`normalize`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "STAR": "`*`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "SLASH": "`/`",
    "CIRCUMFLEX": "`^`",
    "$END": "the end of the text",
}


def _expected(terminals: frozenset[str]) -> str:
    left, parts = set(terminals), []
    for group, words in _EXPECTED:
        if group <= left:
            parts.append(words)
            left -= group | {"MIN", "MAX"}
            if words == "an operator":
                left.discard("CIRCUMFLEX")
    parts += [TERMINALS[t] for t in sorted(left, key=list(TERMINALS).index)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


@dataclass(frozen=True)
class Mistake:
    """A token where it cannot stand: what could, and the types of those before it."""

    source: Source
    token: Token
    accepts: frozenset[str]
    before: tuple[str, ...]

    @classmethod
    def of(cls, parser: Any, source: Source, token: Token) -> Mistake:
        """Parses up to `token` again: what lark says it expected is too much.

        (Of a token it cannot use, an LALR parser sees so only after reductions
        that other tokens would have wanted, and its tables mix their contexts.)
        """
        before: deque[str] = deque(["", ""], maxlen=64)
        for seen in parser.iter_parse():
            if seen.start_pos == token.start_pos and token.type != "$END":
                break
            before.append(seen.type)
        return cls(source, token, frozenset(parser.accepts()), tuple(before))

    @property
    def span(self) -> Span:
        if self.token.type == "$END":
            return Span(len(self.source.text), len(self.source.text))
        return token_span(self.token)

    @property
    def found(self) -> str:
        if self.token.type == "$END":
            return "the end of the text"
        text = str(self.token)
        return f"`{text}`" if len(text) <= 40 else f"`{text[:40]}...`"

    @property
    def is_reserved_word(self) -> bool:
        """Whether a keyword stands where the user may have meant a name."""
        if self.token not in syntax.RESERVED or "NAME" not in self.accepts:
            return False
        if self.before[-1] == "CIRCUMFLEX" and self.token.type in _FUNCTIONS:
            return False
        begins_statement = {"ROUTE", "NORMALIZE"} <= self.accepts
        return not begins_statement or self.token.type not in ("TOP", "STRUCTURE")

    @property
    def advice(self) -> str:
        """How to say what was probably meant, where that is known."""
        in_expression = "CIRCUMFLEX" in self.accepts
        match self.before[-1], self.token.type:
            case "CIRCUMFLEX", "MINUS":
                return "there is no unary minus: write `^(0 - a)`"
            case "CIRCUMFLEX", "MIN" | "MAX" | "SQRT":
                return "put the exponent in parentheses"
            case _, "MINUS" if "NUMBER" in self.accepts:
                return "there is no unary minus: write `0 - a`"
            case "RSQB", "PLUS" | "MINUS":
                return "a sum is written as a second equation, `y[...] += ...`"
            case _, "CIRCUMFLEX":
                return "powers do not chain: write `a^(b^c)` or `(a^b)^c`"
            case "STAR", "STAR":
                return "powers are written with `^`"
            case "ASSIGN", "ASSIGN":
                return "write a single `=`"
            case "NAME", "LPAR" if in_expression:
                return "products need a `*`; the functions are `min`, `max` and `sqrt`"
            case _, "NUMBER" | "LPAR" if in_expression:
                return "products need a `*`"
        return "products need a `*`" if self._follows_a_factor() else ""

    def _follows_a_factor(self) -> bool:
        """Whether the product of `2 d` or `x[i] W[i, o]` was read as a new statement."""
        if self.accepts == {"ASSIGN", "ADD_ASSIGN"} and "LSQB" in self.before:
            name = len(self.before) - 2 - self.before[::-1].index("LSQB")
            return self.before[name - 1] == "RSQB"
        starts = self.accepts == {"ASSIGN", "GROWS", "LSQB", "COMMA"}
        return starts and self.before[-2] in ("NUMBER", "NAME", "RPAR")


def unexpected(mistake: Mistake, faults: Diagnostics) -> None:
    """Raises `SpecError` for a token where it cannot stand."""
    if mistake.is_reserved_word:
        name = str(mistake.token)
        suggestion = syntax.instead_of(name)
        values = {"name": name, "use": "a name", "suggestion": suggestion}
        fail(faults, RESERVED_WORD, mistake.span, **values)
    fail(
        faults,
        UNEXPECTED,
        mistake.span,
        expected=_expected(mistake.accepts),
        found=mistake.found,
        advice=mistake.advice,
    )


def unreadable(source: Source, offset: int, faults: Diagnostics) -> None:
    """Raises `SpecError` for a character that begins no token."""
    character = source.text[offset]
    if character == '"':
        found, advice = 'a `"` without its partner', "close the string on its line"
    elif character.isprintable():
        found, advice = f"`{character}`", ""
        if character.isalpha() or character == "_":
            advice = "names are an ASCII letter, then ASCII letters, digits and `_`"
        elif character == "'":
            advice = "strings stand between double quotes"
        elif character == ".":
            advice = "a number has digits on both sides of its point"
    else:
        found, advice = f"the character U+{ord(character):04X}", "remove it"
    span = Span(offset, offset + 1)
    fail(faults, UNREADABLE_CHARACTER, span, found=found, advice=advice)


def fail(faults: Diagnostics, fault: Fault, span: Span, **values: object) -> None:
    """Records a fault and raises `SpecError`: of syntax errors the first is told."""
    faults.add(fault, span, note=None, **values)
    faults.stop_on_errors()


def token_span(token: Token) -> Span:
    """Where a token of lark stands."""
    if token.start_pos is None or token.end_pos is None:
        raise InternalError(f"lark gave token {token!r} no place")
    return Span(token.start_pos, token.end_pos)
