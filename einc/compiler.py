"""The compiler on one screen: from SPEC to profile or source, one call a stage.

    text -> Spec -> Structure -> Binding -> Plan -> Profile -> Module -> source

SPEC is what a user names: a path, `path::name`, `-` for standard input, or a
structure of the library, which no file shadows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from einc import library, parser, plan, sizes
from einc.analysis.profile import Profile, profile
from einc.codegen import names
from einc.codegen.emit import emit
from einc.codegen.lower import lower
from einc.codegen.nodes import Module
from einc.errors import NOT_TEXT, Diagnostics, SpecError, UsageError
from einc.order import ORDERS, Order
from einc.plan import Plan
from einc.resolve import check_names, resolve
from einc.sizes import Binding
from einc.source import Source, Span
from einc.structure import Structure
from einc.syntax import Definition, Spec

STDIN = "<stdin>"
DEFAULT_TOKENS = 4096
MAX_TOKENS = (1 << 31) - 1

Arguments = Mapping[str, Fraction]


def load(spec: str, arguments: Arguments | None = None, route: str = "") -> Structure:
    """The structure that `spec` names, with its arguments; `route` is INDEX:TOP."""
    source, definition = find(spec)
    return compile_definition(source, definition, arguments, route)


def compile_definition(
    source: Source,
    definition: Definition,
    arguments: Arguments | None = None,
    route: str = "",
) -> Structure:
    """Gives a definition its meaning, routed if asked for."""
    if route:
        source, definition = _routed(source, definition, route)
    return resolve(definition, source, arguments)


def bind(structure: Structure, d_in: int | None, d_out: int | None) -> Binding | None:
    """Integers for the sizes, or None where the features are left open."""
    features = sizes.features(structure, d_in, d_out)
    if features is None and d_out is not None:
        raise UsageError("output features alone say too little: give --in too")
    return None if features is None else sizes.bind(structure, *features)


def order(
    structure: Structure, binding: Binding | None, tokens: int, kind: Order
) -> Plan:
    """The order of contraction, for `tokens` tokens a call or by exponents."""
    if not 1 <= tokens <= MAX_TOKENS:
        raise UsageError(f"tokens must be from 1 to {MAX_TOKENS}, not {tokens}")
    if kind not in ORDERS:
        raise UsageError(f"the order is one of {', '.join(ORDERS)}, not {kind}")
    if binding is not None:
        return plan.plan(binding, tokens, kind)
    if kind not in ("best", "given"):
        raise UsageError(f"the order `{kind}` is opt_einsum's and needs features")
    return plan.plan_by_exponents(structure, kind)


def analyze(
    structure: Structure,
    d_in: int | None = None,
    d_out: int | None = None,
    tokens: int = DEFAULT_TOKENS,
    kind: Order = "best",
) -> Profile:
    """The whole analysis; symbolic where the features are left open."""
    binding = bind(structure, d_in, d_out)
    return profile(structure, order(structure, binding, tokens, kind), binding)


def module(report: Profile, class_name: str = "") -> Module:
    """The generated module of what was analysed at one shape, as data."""
    if report.figures is None:
        raise UsageError(f"structure `{report.name}` needs features to generate code")
    binding = report.figures.binding
    name = class_name or names.class_name(report.name, binding.d_in, binding.d_out)
    return lower(report, names.check_class_name(name))


def source(structure: Structure, modules: Sequence[Module]) -> str:
    """The text of a file with one class for each module."""
    return emit(structure, modules)


# From a name to text


def find(spec: str) -> tuple[Source, Definition]:
    """The one definition that `spec` names. Raises `UsageError` where it is none."""
    path, _, name = spec.partition("::")
    source = read(path)
    return source, choose(source, parse(source), name, path)


def read(path: str) -> Source:
    """The text behind a library name, a path or `-`."""
    if path in library.NAMES:
        return library.source(path)
    name = STDIN if path == "-" else path
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(parser.MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(parser.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(_cannot_read(path, error)) from None
    if len(data) > parser.MAX_BYTES:
        # As it is: too long for the parser, whatever its line ends.
        return Source(name, data.decode("utf-8", "replace"))
    try:
        return Source.of(name, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        shown = Source(name, data[: error.start].decode("utf-8", "replace") + "\ufffd")
        faults = Diagnostics(shown)
        span = Span(len(shown.text) - 1, len(shown.text))
        faults.add(NOT_TEXT, span, reason=f"byte 0x{data[error.start]:02x}")
        raise SpecError(faults.found) from None


def _cannot_read(path: str, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    message = f"cannot read `{path}`: {reason}"
    if isinstance(error, FileNotFoundError) and "/" not in path:
        from difflib import get_close_matches

        close = get_close_matches(path, library.NAMES, n=1)
        message += f"; did you mean `{close[0]}`?" if close else ""
        message += " (`einc list` shows the library)"
    return message


def parse(source: Source) -> Spec:
    """The syntax tree of a file, its names checked against each other."""
    spec = parser.parse(source)
    faults = check_names(spec, source)
    if faults:
        raise SpecError(faults)
    return spec


def choose(source: Source, spec: Spec, name: str, path: str) -> Definition:
    """The definition called `name`, or the only one."""
    found = [d.name.text for d in spec.definitions]
    if name in found:
        return spec.definitions[found.index(name)]
    listed = ", ".join(found)
    if name:
        raise UsageError(f"`{path}` has no structure `{name}`; it has {listed}")
    if len(found) > 1:
        raise UsageError(
            f"`{path}` has {len(found)} structures; name one, as in "
            f"`{path}::{found[0]}` (it has {listed})"
        )
    return spec.definitions[0]


def _routed(
    source: Source, definition: Definition, route: str
) -> tuple[Source, Definition]:
    """The definition with a `route` statement, as if it had been written."""
    from einc.syntax import unparse

    text = f"route {route.replace(':', ' top ', 1)}"
    try:
        statements = parser.parse_body(Source.of("--route", text), "route").statements
    except SpecError:
        statements = ()
    if len(statements) != 1:
        raise UsageError(f"a route is INDEX:TOP, such as `r:2`, not `{route}`")
    with_route = replace(definition, statements=definition.statements + statements)
    printed = Source.of(f"{source.name} (routed)", unparse(with_route))
    return printed, parser.parse(printed).definitions[0]
