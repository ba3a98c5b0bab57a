"""The grammar file itself, and that a reserved word is reserved everywhere."""

from __future__ import annotations

import pytest
from frontend import diagnose, under
from lark import Lark
from lark.exceptions import GrammarError

from einc.mistakes import TERMINALS
from einc.parser import grammar_text
from einc.syntax import RESERVED


def build(text: str) -> Lark:
    return Lark(text, parser="lalr", lexer="basic", strict=True, start=["file", "body"])


def test_is_lalr_without_conflicts() -> None:
    build(grammar_text())


def test_that_the_test_above_can_fail() -> None:
    ambiguous = grammar_text().replace("?power: atom\n", "?power: atom | power power\n")
    with pytest.raises(GrammarError, match="conflict"):
        build(ambiguous)


def test_every_terminal_has_words() -> None:
    """Messages speak of the language's terms, so each token needs some."""
    terminals = {t.name for t in build(grammar_text()).terminals}
    assert terminals - {"__IGNORE_0", "__IGNORE_1"} == set(TERMINALS) - {"$END"}


def test_reserved_words_are_those_of_the_grammar() -> None:
    """Keywords are in the grammar; x, y and the features are names to it."""
    words = {
        t.pattern.value
        for t in build(grammar_text()).terminals
        if t.pattern.type == "str" and t.pattern.value.isalpha()
    }
    assert RESERVED - words == {"x", "y", "d", "d_in", "d_out"}
    assert words < RESERVED


PLACES = {
    "structure": "structure {} {{ y[o] = x[o] }}",
    "parameter": "structure s({} = 2) {{ y[o] = x[o] }}",
    "second parameter": "structure s(r = 2, {} = 2) {{ y[o] = x[o] }}",
    "index of y": "structure s {{ y[{0}] = x[i] * W[i, {0}] }}",
    "index of x": "structure s {{ y[o] = x[{0}] * W[{0}, o] }}",
    "inner index": "structure s {{ y[o] = x[i] * A[i, {0}] * B[{0}, o] }}",
    "factor": "structure s {{ y[o] = x[i] * {}[i, o] }}",
    "sized index": "structure s {{ y[o] = x[o] o, {} ~ d }}",
    "routed index": "structure s {{ y[o] = x[i] * W[i, o] route {} top 2 }}",
    "normalized factor": "structure s {{ y[o] = x[i] * W[i, o] normalize W, {} }}",
}
EXCEPTIONS = {
    ("factor", "x"): "E106",  # a second input
    ("factor", "y"): "E107",  # the output, on the right
}


@pytest.mark.parametrize("word", sorted(RESERVED))
@pytest.mark.parametrize("place", PLACES)
def test_a_reserved_word_is_no_name(place: str, word: str) -> None:
    found = diagnose(PLACES[place].format(word))
    code = EXCEPTIONS.get((place, word), "E003")
    pointed = [d for d in found if d.code == code]
    assert pointed, [d.code for d in found]
    for diagnostic in pointed:
        assert under(diagnostic.source, diagnostic.span).startswith(word)


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_has_no_size(word: str) -> None:
    found = diagnose(f"structure s {{ y[o] = x[o] {word} = 2 }}")
    assert found and found[0].severity == "error"


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_longer_names_are_free(word: str) -> None:
    """`normalizer` and `d_inner` only begin like reserved words."""
    name = f"{word}ner"
    assert diagnose(f"y[o] = x[i] * {name}[i, o]") == []
    assert diagnose(f"y[{name}] = x[i] * W[i, {name}]") == []
