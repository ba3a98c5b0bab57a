"""From what a user names to the definition that is meant.

SPEC is a path, `path::name`, `-` for standard input, or a structure of the library,
which no file shadows. What cannot be read, and what is not there, is a `UsageError`;
faults of the text are a `SpecError`.
"""

from __future__ import annotations

import sys

from einc import library, parser
from einc.errors import NOT_TEXT, Diagnostic, Diagnostics, SpecError, UsageError
from einc.resolve import check_names
from einc.source import Source, Span
from einc.syntax import Definition, Spec

STDIN = "<stdin>"


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
            if sys.stdin is None:
                raise UsageError("cannot read `-`: standard input is closed")
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
    spec, faults = parsed(source)
    if faults:
        raise SpecError(faults)
    return spec


def parsed(source: Source) -> tuple[Spec, list[Diagnostic]]:
    """The syntax tree of a file, and the faults between its names."""
    spec = parser.parse(source)
    return spec, check_names(spec, source)


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


def routed(
    source: Source, definition: Definition, route: str
) -> tuple[Source, Definition]:
    """The definition with a `route` statement, as if it had been written at its end.

    What stands before that keeps its place.
    """
    text = f"route {route.replace(':', ' top ', 1)}"
    try:
        statements = parser.parse_body(Source.of("--route", text), "route").statements
    except SpecError:
        statements = ()
    if len(statements) != 1:
        raise UsageError(f"a route is INDEX:TOP, such as `r:2`, not `{route}`")
    name = definition.name.text
    if definition.name.span == definition.span:
        # What `-e` takes is a body alone, without a name or braces.
        written = Source.of(source.name, f"{source.text}\n{text}")
        return written, parser.parse_body(written, name)
    brace = definition.span.end - 1
    before, after = source.text[:brace], source.text[brace:]
    written = Source.of(source.name, f"{before} {text}\n{after}")
    return written, choose(written, parser.parse(written), name, source.name)
