"""What the options of the command line stand for.

In: what typer hands over. Out: structures, definitions, arguments and shapes. Raises
`UsageError` for what is not one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from einc import compiler, library, parser, specs
from einc.api import exact_argument
from einc.errors import FAULTS, Diagnostic, SpecError, UsageError
from einc.options import Device
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition

EXPRESSION_NAME = "expression"
TABLE_FEATURES = 1024

Features = tuple[int | None, int | None]


# SPEC


def structure(
    spec: str | None, expr: str | None, define: list[str] | None, route: str
) -> Structure:
    """The one structure that a command is about."""
    if (spec is None) == (expr is None):
        raise UsageError("name one SPEC, or give -e TEXT instead of it")
    if expr is not None:
        source, definition = _expression(expr)
    else:
        assert spec is not None
        source, definition = specs.find(spec)
    return compiler.compile_definition(source, definition, arguments(define), route)


def _expression(text: str) -> tuple[Source, Definition]:
    source = Source.of("<expression>", text)
    return source, parser.parse_body(source, EXPRESSION_NAME)


def definitions(
    names: Iterable[str], expr: str | None = None
) -> tuple[list[tuple[Source, Definition]], list[Diagnostic]]:
    """All definitions that are named, and the faults of texts and between names."""
    found: list[tuple[Source, Definition]] = []
    faults: list[Diagnostic] = []
    named = [
        (path, spec) for spec in names for path in spec_files(spec.partition("::")[0])
    ]
    for path, spec in named:
        try:
            source = specs.read(path)
            tree, clashes = specs.parsed(source)
        except SpecError as error:
            faults += error.diagnostics
            continue
        faults += clashes
        name = spec.partition("::")[2]
        chosen = tree.definitions
        if name:
            chosen = (specs.choose(source, tree, name, path),)
        found += [(source, definition) for definition in chosen]
    if expr is not None:
        try:
            found.append(_expression(expr))
        except SpecError as error:
            faults += error.diagnostics
    return found, faults


def spec_files(path: str) -> list[str]:
    """The .ein files of a folder; everything else is one."""
    if path in library.NAMES or not os.path.isdir(path):
        return [path]
    files = sorted(str(p) for p in Path(path).glob("*.ein"))
    if not files:
        raise UsageError(f"the folder `{path}` has no .ein files")
    return files


# -D


def arguments(define: list[str] | None) -> dict[str, Fraction]:
    """The parameters that `-D` gives."""
    found: dict[str, Fraction] = {}
    for text in define or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"a parameter is given as -D NAME=VALUE, not `{text}`")
        if name in found:
            raise UsageError(f"-D gives `{name}` twice")
        found[name] = exact_argument(name, value)
    return found


def arguments_of(
    definition: Definition, given: Mapping[str, Fraction]
) -> dict[str, Fraction]:
    """Those that are parameters of `definition`, where a command has several."""
    known = {p.name.text for p in definition.params}
    return {name: value for name, value in given.items() if name in known}


def check_known(given: Iterable[str], among: Iterable[Definition]) -> None:
    """Raises `UsageError` for a parameter that none of the definitions has."""
    known = {p.name.text for definition in among for p in definition.params}
    for name in given:
        if name not in known:
            raise UsageError(f"no structure here has a parameter `{name}`")


# Features and devices


def check_device(device: Device) -> None:
    """Raises `UsageError` where there is none."""
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no CUDA device here: --device cpu is what is left"
        )


def shapes(
    d_in: int | None, d_out: int | None, texts: list[str] | None
) -> list[Features]:
    """The shapes to generate classes for."""
    if not texts:
        return [(d_in, d_out)]
    if d_in is not None or d_out is not None:
        raise UsageError("give --shape, or --in and --out, not both")
    found: list[Features] = []
    for text in texts:
        left, _, right = text.partition("x")
        if not (_is_number(left) and _is_number(right)):
            raise UsageError(f"a shape is INxOUT, such as 1024x4096, not `{text}`")
        if (int(left), int(right)) in found:
            raise UsageError(f"--shape gives {text} twice")
        found.append((int(left), int(right)))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


def table_shape(structure: Structure, d_in: int | None, d_out: int | None) -> Features:
    """The features of a row: as given, else fixed, else 1024."""
    if d_in is None and structure.fixed_features(0) is None:
        d_in = TABLE_FEATURES
    return d_in, d_out


# -W


def filtered(found: Iterable[Diagnostic], rules: list[str] | None) -> list[Diagnostic]:
    """Diagnostics after `-W`: the last rule that fits a warning decides.

    Raises `UsageError` for a rule that is none.
    """
    actions = [_rule(text) for text in rules or []]
    kept = []
    for diagnostic in found:
        fitting = [
            action
            for action, code in actions
            if diagnostic.severity == "warning" and code in ("", diagnostic.code)
        ]
        if fitting and fitting[-1] == "error":
            kept.append(replace(diagnostic, promoted=True))
        elif not fitting:
            kept.append(diagnostic)
    return kept


def judged(found: Iterable[Diagnostic], rules: list[str] | None) -> list[Diagnostic]:
    """The warnings that are left; raises `SpecError` where one became an error."""
    kept = filtered(found, rules)
    if any(diagnostic.promoted for diagnostic in kept):
        raise SpecError(kept)
    return kept


def _rule(text: str) -> tuple[str, str]:
    action, _, code = text.partition(":")
    codes = [c for c, fault in FAULTS.items() if fault.severity == "warning"]
    if action not in ("error", "ignore") or (code and code.upper() not in codes):
        raise UsageError(
            f"-W takes error or ignore, and the code of a warning after a colon, "
            f"not `{text}`"
        )
    return action, code.upper()
