"""The front end in single steps, for tests: text to tree, structure and sizes.

`diagnose` takes a text as far as it goes, as the compiler does, and returns every
diagnostic; the others raise `SpecError` as what they call does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any

from einc import syntax
from einc.errors import Diagnostic, SpecError
from einc.parser import parse, parse_body
from einc.resolve import check_names, resolve
from einc.sizes import Binding, bind
from einc.source import Source, Span
from einc.structure import Structure


def parse_text(text: str) -> tuple[Source, syntax.Spec]:
    """A file of the language."""
    source = Source.of("test.ein", text)
    return source, parse(source)


def body(text: str, **arguments: int | Fraction) -> Structure:
    """What the body of a structure means."""
    source = Source.of("test.ein", text)
    values = {name: Fraction(value) for name, value in arguments.items()}
    return resolve(parse_body(source, "test"), source, values)


def structure(text: str, **arguments: int | Fraction) -> Structure:
    """What the first structure of a file means."""
    source, spec = parse_text(text)
    values = {name: Fraction(value) for name, value in arguments.items()}
    return resolve(spec.definitions[0], source, values)


def bound(text: str, d_in: int, d_out: int, **arguments: int | Fraction) -> Binding:
    """The body of a structure with its sizes at `d_in` x `d_out`."""
    return bind(body(text, **arguments), d_in, d_out)


def diagnose(
    text: str,
    features: tuple[int, int] | None = None,
    arguments: Mapping[str, Fraction] | None = None,
) -> list[Diagnostic]:
    """All that is found in a file, or in the body of a structure, in order."""
    source = Source.of("test.ein", text)
    found: list[Diagnostic] = []
    try:
        if re.search(r"\bstructure\b", text):
            spec = parse(source)
            definitions = spec.definitions
            found += check_names(spec, source)
        else:
            definitions = (parse_body(source, "test"),)
    except SpecError as error:
        return list(error.diagnostics)
    for definition in definitions:
        try:
            resolved = resolve(definition, source, arguments)
            found += resolved.warnings
            if features is not None:
                found += bind(resolved, *features).warnings
        except SpecError as error:
            found += error.diagnostics
    return found


def under(source: Source, span: Span) -> str:
    """The text that a span covers."""
    return source.text[span.start : span.end]


def nodes(tree: Any) -> Iterator[Any]:
    """A syntax tree's node and all below it, parents first."""
    yield tree
    for field in fields(tree):
        value = getattr(tree, field.name)
        for child in value if isinstance(value, tuple) else (value,):
            if is_dataclass(child) and not isinstance(child, Span):
                yield from nodes(child)
