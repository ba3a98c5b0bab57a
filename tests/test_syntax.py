"""The syntax tree: printing and parsing are inverse, and spans point at their text."""

from __future__ import annotations

import re
import string

import pytest
from frontend import nodes, parse_text, under
from hypothesis import given, settings
from hypothesis import strategies as st

from einc import syntax
from einc.errors import SpecError
from einc.parser import parse, parse_body
from einc.source import Source
from einc.syntax import Binary, Call, Name, Number, Spec, Variable, unparse

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,4}", fullmatch=True).filter(
    lambda name: name not in syntax.RESERVED
)
TENSORS = st.one_of(st.sampled_from("xyAB"), NAMES).map(Name)
NUMBERS = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,6})?", fullmatch=True).map(Number)
VARIABLES = st.one_of(st.sampled_from(["d_in", "d_out", "d", "rank"]), NAMES).map(
    Variable
)


def grown(parts: st.SearchStrategy[syntax.Expr]) -> st.SearchStrategy[syntax.Expr]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Binary, st.sampled_from("+-*/^"), parts, parts),
        st.builds(Call, st.just("sqrt"), st.tuples(parts)),
        st.builds(Call, st.sampled_from(["min", "max"]), several),
    )


EXPRESSIONS = st.recursive(st.one_of(NUMBERS, VARIABLES), grown, max_leaves=12)


def some(
    parts: st.SearchStrategy[object], least: int = 1, most: int = 3
) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(parts, min_size=least, max_size=most).map(tuple)


REFS = st.builds(syntax.Ref, TENSORS, some(NAMES.map(Name), 0))
STATEMENTS = st.one_of(
    st.builds(syntax.Equation, REFS, st.sampled_from(["=", "+="]), some(REFS)),
    st.builds(syntax.Sizes, some(NAMES.map(Name)), st.sampled_from("=~"), EXPRESSIONS),
    st.builds(syntax.Route, NAMES.map(Name), EXPRESSIONS),
    st.builds(syntax.Normalize, st.one_of(st.none(), some(NAMES.map(Name)))),
)
DOCS = st.text(
    st.characters(codec="utf-8", exclude_characters='"').filter(str.isprintable)
)
DEFINITIONS = st.builds(
    syntax.Definition,
    NAMES.map(Name),
    some(st.builds(syntax.Param, NAMES.map(Name), EXPRESSIONS), 0),
    st.one_of(st.none(), DOCS),
    some(STATEMENTS, 0, 5),
)
SPECS = st.builds(Spec, some(DEFINITIONS, 1, 2))

TOKEN = re.compile(r'"[^"]*"|[A-Za-z]\w*|[0-9]+(?:\.[0-9]+)?|\+=|\S', re.ASCII)
SPACES = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\f",
    " # note\n",
    "#\r\n",
    "# [é}\n",
]


@st.composite
def spread(draw: st.DrawFn, spec: Spec) -> str:
    """The text of a tree in any layout, with comments and all ends of lines."""
    tokens = TOKEN.findall(unparse(spec))
    parts = [draw(st.sampled_from(SPACES))]
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        words = (token[-1] + following[:1]).strip(string.punctuation)
        space = draw(st.sampled_from(SPACES))
        parts += [token, " " if len(words) == 2 and not space else space]
    return "".join(parts)


@given(SPECS)
@settings(max_examples=120)
def test_parsing_what_is_printed_gives_the_tree_again(spec: Spec) -> None:
    text = unparse(spec)
    assert parse_text(text)[1] == spec
    assert unparse(parse_text(text)[1]) == text


@given(EXPRESSIONS)
@settings(max_examples=300)
def test_expressions_survive(expr: syntax.Expr) -> None:
    text = unparse(expr)
    (statement,) = parse_body(Source.of("e", f"a ~ {text}"), "s").statements
    assert isinstance(statement, syntax.Sizes)
    assert statement.expr == expr
    assert unparse(statement.expr) == text


@given(st.data())
@settings(max_examples=120)
def test_layout_says_nothing_and_spans_are_the_nodes(data: st.DataObject) -> None:
    spec = data.draw(SPECS)
    source, parsed = parse_text(data.draw(spread(spec)))
    assert parsed == spec
    for node in nodes(parsed):
        again = reparsed(node, under(source, node.span))
        assert again == node


def reparsed(node: object, text: str) -> object:
    """The text of a node, parsed by itself."""
    match node:
        case Spec():
            return parse_text(text)[1]
        case syntax.Definition():
            return parse_text(text)[1].definitions[0]
        case syntax.Param():
            return parse_text(f"structure s({text}) {{}}")[1].definitions[0].params[0]
        case Name():
            return Name(text)
        case syntax.Ref():
            (equation,) = parse_body(Source.of("r", f"{text} = x[]"), "s").statements
            assert isinstance(equation, syntax.Equation)
            return equation.left
        case Number() | Variable() | Binary() | Call():
            (sizes,) = parse_body(Source.of("e", f"a = {text}"), "s").statements
            assert isinstance(sizes, syntax.Sizes)
            return sizes.expr
        case _:
            return parse_body(Source.of("s", text), "s").statements[0]


@given(SPECS, st.sampled_from(["\r\n", "\r"]), st.booleans())
def test_ends_of_lines_and_a_bom_move_nothing(spec: Spec, end: str, bom: bool) -> None:
    text = unparse(spec).replace(" = ", " = # why\n  ")
    plain, parsed = parse_text(text)
    other, again = parse_text("\ufeff" * bom + text.replace("\n", end))
    assert again == parsed
    places = [plain.position(n.span.start) for n in nodes(parsed)]
    assert places == [other.position(n.span.start) for n in nodes(again)]


def test_lines_and_columns_count_code_points_from_one() -> None:
    text = '\ufeff# é\r\nstructure s {\r\n  "漢字" y[o] =\rx[o]\n}'
    source, spec = parse_text(text)
    (definition,) = spec.definitions
    (equation,) = definition.statements
    assert isinstance(equation, syntax.Equation)
    assert source.position(definition.span.start) == (2, 1)
    assert source.position(definition.span.end) == (5, 2)
    assert source.position(equation.left.span.start) == (3, 8)
    assert source.position(equation.right[0].span.start) == (4, 1)


def test_the_layout() -> None:
    text = """
    structure  btt(rank=1,b = (d_in)^(1/2)){"Full rank."
    y[f,e]=x[g,a]*A[g,a,f,r]*B[f,g,r,e]   # the equation
    g,a~d_in^(1/2) f,e~(d_out)^(1/2) r=rank*(2+3)-(4-(5))
    route r top min(2,rank) normalize all normalize A,B}
    structure id { y[i]=x[i] y[]+=x[] }
    """
    assert unparse(parse_text(text)[1]) == (
        "structure btt(rank = 1, b = d_in^(1/2)) {\n"
        '  "Full rank."\n'
        "\n"
        "  y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]\n"
        "\n"
        "  g, a ~ d_in^(1/2)\n"
        "  f, e ~ d_out^(1/2)\n"
        "  r = rank * (2 + 3) - (4 - 5)\n"
        "\n"
        "  route r top min(2, rank)\n"
        "\n"
        "  normalize all\n"
        "  normalize A, B\n"
        "}\n"
        "\n"
        "structure id {\n"
        "  y[i] = x[i]\n"
        "  y[] += x[]\n"
        "}\n"
    )


# a^1/2 is refused, but for where brackets say what is meant


def size(text: str) -> syntax.Expr:
    (sizes,) = parse_body(Source.of("e", f"a ~ {text}"), "s").statements
    assert isinstance(sizes, syntax.Sizes)
    return sizes.expr


@pytest.mark.parametrize(
    "text",
    ["d^1/2", "2*d^1/2", "d^a/b", "(d)^1/2", "d^1/2/3", "3/d^1/2", "d^1*d^1/2"]
    + ["d^1/2*3", "(d^1/2)", "sqrt(d^1/2)", "d^(d^1/2)", "1 + d^1/2", "d^0.5/2"],
)
def test_ambiguous_exponents(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        size(text)
    assert [d.code for d in caught.value.diagnostics] == ["E004"]


@pytest.mark.parametrize(
    "text",
    ["d^(1/2)", "(d^1)/2", "d^(1)/2", "d^2*3/2", "d_in^2/d_out", "d^1/d^2", "1/d^2"]
    + ["d^2 - 1/2", "d^1/(1+1)", "d^1/sqrt(4)", "d^1/2^2"],
)
def test_unambiguous_exponents(text: str) -> None:
    assert size(unparse(size(text))) == size(text)


@given(EXPRESSIONS)
def test_the_fix_of_an_ambiguous_exponent_is_the_fix(base: syntax.Expr) -> None:
    """The help line offers two texts; both parse, and mean what it says."""
    written = Binary("^", base, Number("1"))
    text = f"{unparse(written)}/2"
    with pytest.raises(SpecError) as caught:
        size(text)
    help_line = caught.value.diagnostics[-1].help
    assert help_line is not None
    fix, meaning = re.findall(r"`([^`]*)`", help_line)
    half = Binary("/", Number("1"), Number("2"))
    assert size(fix) == Binary("^", base, half)
    assert size(meaning) == Binary("/", written, Number("2"))


# Numbers and limits


def test_numbers_are_exact() -> None:
    digits = "0." + "3" * 29
    number = size(digits)
    assert isinstance(number, Number)
    assert number.value * 10**29 == int("3" * 29)
    assert size("007.50") == Number("007.50")


def test_what_is_just_within_the_limits() -> None:
    size("(" * 100 + "d" + ")" * 100)
    size("sqrt(" * 100 + "d" + ")" * 100)
    size("1" + " + 1" * 200)
    size("(1 - " * 100 + "d" + ")" * 100 + " * 2" * 100)
    size("9" * 30)
    parse(Source.of("f", "#" * ((1 << 20) - 29) + "\nstructure s { y[o] = x[o] }\n"))


def test_limits_are_those_of_a_statement() -> None:
    """Many statements are no long one."""
    one = "y[a, b] = x[c] * W[c, a, b] a, b ~ (((d)))^(1 - 1/2) route a top 2 + 2 "
    assert len(parse_body(Source.of("f", one * 166), "s").statements) == 498
    many = "normalize A, B, C " * 200
    assert len(parse_body(Source.of("f", many), "s").statements) == 200
