"""Text to syntax tree.

In: a `Source`. Out: a `Spec`, or a `SpecError` with the first syntax error of the
text. The grammar is grammar/ein.lark and nowhere else; here its tree becomes ours.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from einc import syntax
from einc.errors import (
    AMBIGUOUS_EXPONENT,
    LIMIT,
    UNREADABLE_CHARACTER,
    Diagnostics,
    InternalError,
)
from einc.mistakes import Mistake, fail, token_span, unexpected, unreadable
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
        fail(faults, LIMIT, Span(0, 1), what=what, limit="1 MiB", advice=advice)
    parser = _lark().parse_interactive(source.text, start=start)
    limits = _Limits(faults)
    try:
        for token in parser.iter_parse():
            limits.see(token)
        tree: Tree[Token] = parser.feed_eof()
    except UnexpectedCharacters as error:
        unreadable(source, error.pos_in_stream or 0, faults)
        raise InternalError("unreachable") from error
    except UnexpectedToken as error:
        again = _lark().parse_interactive(source.text, start=start)
        unexpected(Mistake.of(again, source, error.token), faults)
        raise InternalError("unreachable") from error
    return tree


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
        fail(self.faults, LIMIT, token_span(token), what=what, limit=limit, advice="")


def _span(tree: Tree[Token]) -> Span:
    if tree.meta.empty:
        return Span(0, 0)
    return Span(tree.meta.start_pos, tree.meta.end_pos)


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    from lark import Tree

    return [child for child in tree.children if isinstance(child, Tree)]


def _name(token: Any) -> syntax.Name:
    return syntax.Name(str(token), token_span(token))


def _definition(tree: Any, faults: Diagnostics) -> syntax.Definition:
    name, params, doc, *statements = tree.children
    if doc is not None and not doc.isprintable():
        offset = next(i for i, c in enumerate(doc) if not c.isprintable())
        span = Span(doc.start_pos + offset, doc.start_pos + offset + 1)
        found = f"the character U+{ord(doc[offset]):04X} in a description"
        fail(faults, UNREADABLE_CHARACTER, span, found=found, advice="remove it")
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
