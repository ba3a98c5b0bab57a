"""Text to syntax tree.

In: a `Source`. Out: a `Spec`, or a `SpecError` with the first syntax error of the
text. The grammar is grammar/ein.lark and nowhere else; here its tree becomes ours,
and what lark says of unexpected tokens is put into the words of the language.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from einc import syntax
from einc.errors import (
    AMBIGUOUS_EXPONENT,
    LIMIT,
    RESERVED_WORD,
    UNEXPECTED,
    UNREADABLE_CHARACTER,
    Diagnostics,
    Fault,
    InternalError,
)
from einc.source import Source, Span

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

MAX_BYTES = 1 << 20
MAX_NESTING = 100
MAX_OPERATORS = 200
MAX_DIGITS = 30
MAX_STATEMENTS = 500
MAX_STRUCTURES = 1000


def parse(source: Source) -> syntax.Spec:
    """Parses a whole file. Raises `SpecError` at the first syntax error."""
    faults = Diagnostics(source)
    tree = _parse(source, "file", faults)
    definitions = tuple(_definition(t, faults) for t in _trees(tree))
    faults.stop_on_errors()
    return syntax.Spec(definitions, _span(tree))


def parse_body(source: Source, name: str) -> syntax.Definition:
    """Parses the body of a structure (what `-e` takes) and calls it `name`."""
    faults = Diagnostics(source)
    tree = _parse(source, "body", faults)
    statements = tuple(_statement(t, faults) for t in _trees(tree))
    faults.stop_on_errors()
    span = Span(0, len(source.text))
    return syntax.Definition(syntax.Name(name, span), (), None, statements, span)


def grammar_text() -> str:
    """The grammar as it is shipped: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "grammar", package.parent / "grammar"):
        path = folder / "ein.lark"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise InternalError("grammar/ein.lark is missing from this installation")


@cache
def _lark() -> Lark:
    from lark import Lark

    return Lark(
        grammar_text(),
        parser="lalr",
        lexer="basic",
        start=["file", "body"],
        propagate_positions=True,
        maybe_placeholders=True,
    )


def _parse(source: Source, start: str, faults: Diagnostics) -> Tree[Token]:
    from lark import UnexpectedCharacters, UnexpectedToken

    # Bytes that are no text reach a command line as lone surrogates.
    if len(source.text.encode(errors="surrogatepass")) > MAX_BYTES:
        what, advice = "the file is too large", "split it into several"
        _fail(faults, LIMIT, Span(0, 1), what=what, limit="1 MiB", advice=advice)
    parser = _lark().parse_interactive(source.text, start=start)
    limits = _Limits(faults)
    try:
        for token in parser.iter_parse():
            limits.see(token)
        tree: Tree[Token] = parser.feed_eof()
    except UnexpectedCharacters as error:
        _unreadable(source, error.pos_in_stream or 0, faults)
        raise InternalError("unreachable") from error
    except UnexpectedToken as error:
        _unexpected(_Mistake.of(source, start, error.token), faults)
        raise InternalError("unreachable") from error
    return tree


def _fail(faults: Diagnostics, fault: Fault, span: Span, **values: object) -> None:
    faults.add(fault, span, note=None, **values)
    faults.stop_on_errors()


class _Limits:
    """Stops at the first token past a limit, before anything recurses over it."""

    def __init__(self, faults: Diagnostics) -> None:
        self.faults = faults
        self.depth = 0
        self.operators = 0
        self.statements = 0
        self.structures = 0

    def see(self, token: Token) -> None:
        match token.type:
            case "STRUCTURE":
                self.structures += 1
                self.statements = 0
            case "ASSIGN" | "ADD_ASSIGN" | "GROWS" | "TOP":
                self.statements += 1
                self.depth = self.operators = 0
            case "LPAR":
                self.depth += 1
            case "RPAR":
                self.depth -= 1
            case "PLUS" | "MINUS" | "STAR" | "SLASH" | "CIRCUMFLEX" | "COMMA":
                self.operators += 1
            case "NUMBER" if len(token.replace(".", "")) > MAX_DIGITS:
                self._stop(token, "a number is too long", f"{MAX_DIGITS} digits")
            case "NORMALIZE":
                self.statements += 1
                self.operators = 0
            case "LSQB" | "RSQB" | "LBRACE" | "ROUTE":
                self.operators = 0
        if self.depth > MAX_NESTING:
            self._stop(token, "too deeply nested", f"{MAX_NESTING} parentheses")
        if self.operators > MAX_OPERATORS:
            self._stop(token, "too long", f"{MAX_OPERATORS} operators or commas")
        if self.statements > MAX_STATEMENTS:
            limit = f"{MAX_STATEMENTS} parameters and statements in a structure"
            self._stop(token, "too many statements", limit)
        if self.structures > MAX_STRUCTURES:
            limit = f"{MAX_STRUCTURES} in a file"
            self._stop(token, "too many structures", limit)

    def _stop(self, token: Token, what: str, limit: str) -> None:
        _fail(self.faults, LIMIT, _token_span(token), what=what, limit=limit, advice="")


# What stands for a set of terminals in "expected ...", first match first.
_EXPECTED: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset(["NAME", "NUMBER", "LPAR", "SQRT"]), "a size expression"),
    (frozenset(["NUMBER", "NAME", "LPAR"]), "a number, a name or `(`"),
    (frozenset(["NAME", "ROUTE", "NORMALIZE"]), "a statement"),
    (frozenset(["PLUS", "MINUS", "STAR", "SLASH"]), "an operator"),
)
_FUNCTIONS = ("MIN", "MAX", "SQRT")
_TERMINALS = {
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
    parts += [_TERMINALS[t] for t in sorted(left, key=list(_TERMINALS).index)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


@dataclass(frozen=True)
class _Mistake:
    """A token where it cannot stand: what could, and the types of those before it."""

    source: Source
    token: Token
    accepts: frozenset[str]
    before: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, start: str, token: Token) -> _Mistake:
        """Parses up to `token` again: what lark says it expected is too much.

        (Of a token it cannot use, an LALR parser sees so only after reductions
        that other tokens would have wanted, and its tables mix their contexts.)
        """
        parser = _lark().parse_interactive(source.text, start=start)
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
        return _token_span(self.token)

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


def _unexpected(mistake: _Mistake, faults: Diagnostics) -> None:
    if mistake.is_reserved_word:
        name = str(mistake.token)
        suggestion = syntax.instead_of(name)
        values = {"name": name, "use": "a name", "suggestion": suggestion}
        _fail(faults, RESERVED_WORD, mistake.span, **values)
    _fail(
        faults,
        UNEXPECTED,
        mistake.span,
        expected=_expected(mistake.accepts),
        found=mistake.found,
        advice=mistake.advice,
    )


def _unreadable(source: Source, offset: int, faults: Diagnostics) -> None:
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
    _fail(faults, UNREADABLE_CHARACTER, span, found=found, advice=advice)


def _token_span(token: Token) -> Span:
    if token.start_pos is None or token.end_pos is None:
        raise InternalError(f"lark gave token {token!r} no place")
    return Span(token.start_pos, token.end_pos)


def _span(tree: Tree[Token]) -> Span:
    if tree.meta.empty:
        return Span(0, 0)
    return Span(tree.meta.start_pos, tree.meta.end_pos)


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    from lark import Tree

    return [child for child in tree.children if isinstance(child, Tree)]


def _name(token: Any) -> syntax.Name:
    return syntax.Name(str(token), _token_span(token))


def _definition(tree: Any, faults: Diagnostics) -> syntax.Definition:
    name, params, doc, *statements = tree.children
    if doc is not None and not doc.isprintable():
        offset = next(i for i, c in enumerate(doc) if not c.isprintable())
        span = Span(doc.start_pos + offset, doc.start_pos + offset + 1)
        found = f"the character U+{ord(doc[offset]):04X} in a description"
        _fail(faults, UNREADABLE_CHARACTER, span, found=found, advice="remove it")
    return syntax.Definition(
        _name(name),
        () if params is None else tuple(_param(p, faults) for p in params.children),
        None if doc is None else str(doc)[1:-1],
        tuple(_statement(s, faults) for s in statements),
        _span(tree),
    )


def _param(tree: Any, faults: Diagnostics) -> syntax.Param:
    name, default = tree.children
    return syntax.Param(_name(name), _expr(default, faults), _span(tree))


def _statement(tree: Any, faults: Diagnostics) -> syntax.Statement:
    children, span = tree.children, _span(tree)
    match tree.data:
        case "equation":
            left, operator, *right = children
            refs = tuple(_ref(r) for r in right)
            return syntax.Equation(_ref(left), _operator(operator), refs, span)
        case "sizes":
            *names, operator, expr = children
            indices = tuple(_name(n) for n in names)
            sign: Literal["=", "~"] = "=" if operator == "=" else "~"
            return syntax.Sizes(indices, sign, _expr(expr, faults), span)
        case "route":
            index, top = children
            return syntax.Route(_name(index), _expr(top, faults), span)
        case "normalize":
            if children[-1].type == "ALL":
                return syntax.Normalize(None, span)
            return syntax.Normalize(tuple(_name(n) for n in children), span)
    raise InternalError(f"the grammar has a statement `{tree.data}` unknown here")


def _operator(token: Token) -> Literal["=", "+="]:
    return "+=" if token == "+=" else "="


def _ref(tree: Any) -> syntax.Ref:
    tensor, *indices = tree.children
    names = tuple(_name(i) for i in indices if i is not None)
    return syntax.Ref(_name(tensor), names, _span(tree))


_OPERATORS: dict[str, Literal["+", "-", "*", "/", "^"]] = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "power": "^",
}


def _expr(tree: Any, faults: Diagnostics) -> syntax.Expr:
    span = _span(tree)
    match tree.data:
        case "number":
            return syntax.Number(str(tree.children[0]), span)
        case "variable":
            return syntax.Variable(str(tree.children[0]), span)
        case "group":
            return _expr(tree.children[0], faults)
        case "call":
            function, *arguments = tree.children
            return syntax.Call(
                str(function),  # type: ignore[arg-type]
                tuple(_expr(a, faults) for a in arguments),
                span,
            )
        case operator:
            left, right = (_expr(t, faults) for t in tree.children)
            if operator == "divide":
                _refuse_ambiguous_exponent(tree, left, right, faults)
            return syntax.Binary(_OPERATORS[operator], left, right, span)


def _refuse_ambiguous_exponent(
    tree: Any, left: syntax.Expr, right: syntax.Expr, faults: Diagnostics
) -> None:
    """`d^1/2` is `(d^1)/2`: refused where brackets do not say what is meant."""
    features = syntax.Variable("d"), syntax.Variable("d_in"), syntax.Variable("d_out")
    last = tree.children[0]
    while last.data in ("multiply", "divide"):
        last = last.children[1]
    if last.data != "power" or last.children[1].data == "group":
        return
    if not isinstance(right, syntax.Number | syntax.Variable) or right in features:
        return
    power = left
    while isinstance(power, syntax.Binary) and power.operator != "^":
        power = power.right
    if not isinstance(power, syntax.Binary):
        raise InternalError("a power in lark's tree is none in ours")
    divisor = syntax.unparse(right)
    base = syntax.unparse(power.left)
    if isinstance(power.left, syntax.Binary):
        base = f"({base})"
    before = syntax.unparse(left).removesuffix(syntax.unparse(power))
    exponent = syntax.unparse(power.right)
    faults.add(
        AMBIGUOUS_EXPONENT,
        _span(tree),
        written=f"{syntax.unparse(left)}/{divisor}",
        meaning=f"({syntax.unparse(left)})/{divisor}",
        fix=f"{before}{base}^({exponent}/{divisor})",
    )
