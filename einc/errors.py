"""Every fault a user can meet: its code, what it says and what it advises.

A `Fault` is a kind of fault, a `Diagnostic` one that was found at a place. Faults
of one kind of thing share a hundred: E0 text and syntax, E1 equations and names,
E2 sizes, E3 routing, E4 files and parameters, E9 what this version cannot do yet;
W1 warnings. `UsageError` is for a command that was used wrongly, `InternalError`
for a mistake of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from einc.source import Source, Span


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `message` and `help` are templates for `str.format`."""

    code: str
    message: str
    help: str | None = None

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "error" if self.code.startswith("E") else "warning"


UNREADABLE_CHARACTER = Fault("E001", "{found} is not part of the language", "{advice}")
UNEXPECTED = Fault("E002", "expected {expected}, found {found}", "{advice}")
RESERVED_WORD = Fault(
    "E003",
    "`{name}` is a reserved word and cannot be {use}",
    "choose another name, for example `{suggestion}`",
)
AMBIGUOUS_EXPONENT = Fault(
    "E004",
    "`{written}` means `{meaning}`, which is seldom what is meant",
    "write `{fix}`, or `{meaning}` if that is what you want",
)
LIMIT = Fault("E005", "{what}: at most {limit}", "{advice}")
NOT_TEXT = Fault("E006", "the file is not UTF-8 text: {reason}", "save it as UTF-8")

NO_EQUATION = Fault(
    "E101",
    "structure `{name}` has no equation",
    "add one, for example `y[o] = x[i] * W[i, o]`",
)
ADD_BEFORE_SET = Fault(
    "E102", "the first equation of a structure must use `=`", "write `=` here"
)
SECOND_SET = Fault(
    "E103",
    "`y` was given its first term above",
    "write `+=` to add this term to it",
)
LEFT_NOT_Y = Fault(
    "E104", "the left side of an equation is `y[...]`, not `{name}[...]`", "write `y`"
)
NO_X = Fault("E105", "a term needs the input `x[...]`", "add `x[...]` to it")
TWO_X = Fault(
    "E106",
    "`x` stands twice in one term, but a structure is linear in `x`",
    "name a learned tensor here instead",
)
Y_ON_RIGHT = Fault(
    "E107",
    "`y` cannot stand on the right of its own equation",
    "name a learned factor here",
)
INDEX_TWICE = Fault(
    "E108",
    "index `{name}` stands twice in `{tensor}`",
    "a tensor has no diagonal of its own: drop one of the two, or rename it",
)
OUTPUT_FROM_NOWHERE = Fault(
    "E109",
    "index `{name}` of the output stands nowhere on the right",
    "give it to a factor: an output cannot be repeated over an index",
)
NAME_CLASH = Fault(
    "E110",
    "`{name}` is {first} and {second} of one structure",
    "a name means one thing: rename one of the two",
)
USES_DISAGREE = Fault(
    "E111",
    "factor `{name}` has {here} here and {there} above",
    "a factor that stands twice is one tensor: give it as many indices each time",
)
REFUSED_NAME = Fault(
    "E112",
    "a factor cannot be called `{name}`: it becomes an attribute of an nn.Module, "
    "and {reason}",
    "call it `{suggestion}`",
)

NO_SIZE = Fault(
    "E201",
    "the inner index `{name}` has no size",
    "add a statement, for example `{name} = 4` or `{name} ~ d^(1/2)`",
)
TWO_WITHOUT_SIZE = Fault(
    "E202",
    "{names} of `{tensor}` have no size, and only one index of a side can take "
    "what the others leave",
    "add a statement, for example `{example}`",
)
SIZE_TWICE = Fault(
    "E203", "the size of `{name}` was stated before", "remove one of the two"
)
UNKNOWN_INDEX = Fault("E204", "no tensor has an index `{name}`", "{advice}")
UNKNOWN_NAME = Fault(
    "E205",
    "`{name}` is not known here{because}",
    "{advice}",
)
NOT_AN_INTEGER = Fault(
    "E206",
    "{what} must be a positive integer, and `{expr}` is {value}{where}",
    "{advice}",
)
NOT_POSITIVE = Fault(
    "E207",
    "a size must be positive and must not shrink, and `{expr}` is {value}{where}",
    "write a positive number, or powers of `d_in`, `d_out` or `d` that grow",
)
NOT_A_MONOMIAL = Fault(
    "E208",
    "`{expr}` is not a product of powers, so it does not say how a size grows",
    "write a constant times powers of `d_in`, `d_out` or `d`, or fix it with `=`",
)
EXPONENT_SUM = Fault(
    "E209",
    "the indices of `{tensor}` must grow as d together, but their exponents add up "
    "to {sum} ({parts})",
    "make the exponents add up to 1, or leave one index without a statement",
)
DOES_NOT_FIT = Fault(
    "E210",
    "the exact sizes of `{tensor}` make {multiple}, and that does not fit {features}",
    "use {nearest}, or change the sizes",
)
TOO_LARGE = Fault("E211", "`{expr}` is too large: {limit}")
NOT_RATIONAL = Fault(
    "E212",
    "the exponent `{expr}` is not a rational constant",
    "exponents are made of numbers and constant parameters",
)
UNDEFINED = Fault("E213", "`{expr}` has no value: {reason}")
CONTRADICTION = Fault(
    "E214",
    "index `{name}` grows as d^({here}) here and as d^({there}) above",
    "an index has one size in all terms: rename one of the two",
)
TIED_SIZES = Fault(
    "E215",
    "factor `{name}` stands twice with different sizes: `{here}` is {size} here, and "
    "`{there}` is {other} above",
    "a factor that stands twice is one tensor: give both uses the same sizes",
)
TIED_GROWTH = Fault(
    "E216",
    "factor `{name}` stands twice, but `{here}` grows as d^({now}) here and `{there}` "
    "as d^({before}) above",
    "a factor that stands twice is one tensor: let both uses grow alike",
)

ROUTE_NOT_SUMMED = Fault(
    "E301",
    "`{name}` cannot be routed: it is an index of `{tensor}`",
    "route an index that is summed and stands in no `x[...]`, such as {candidates}",
)
TOP_RANGE = Fault(
    "E302",
    "`top {top}` is out of range: `{name}` has {values}",
    "choose a number from 1 to {size}",
)
TWO_ROUTES = Fault(
    "E303", "a structure has one route, and this is the second", "remove one of the two"
)

SAME_STRUCTURE = Fault(
    "E401", "two structures are called `{name}`", "rename one of the two"
)
SAME_PARAM = Fault("E402", "parameter `{name}` is given twice", "rename one of the two")
UNKNOWN_FACTOR = Fault("E403", "no equation has a factor `{name}`", "{advice}")

LONELY_INDEX = Fault(
    "W101",
    "index `{name}` stands in factor `{tensor}` alone and is only summed",
    "remove it: it adds parameters and changes nothing that can be expressed",
)
DROPPED_INPUT = Fault(
    "W102",
    "index `{name}` of `x` stands in no factor and not in `y`: the input is summed "
    "over it before anything else",
    "give it to a factor, unless a plain sum is meant",
)
WASTED_RANK = Fault(
    "W103",
    "`{name}` = {size} is larger than it can use: from {enough} on it adds nothing "
    "that `{left}` and `{right}` could express together",
    "lower it to {enough} or less",
)
UNUSED_PARAM = Fault("W104", "nothing uses the parameter `{name}`", "remove it")
PADDED_EXACT = Fault(
    "W105",
    "{tensor} is padded from {features} to {padded} features, since its exact sizes "
    "do not divide {features}",
    "use {nearest} features, or let a size grow with `~`",
)
PADDED_BLOCK = Fault(
    "W106",
    "{tensor} is padded from {features} to {padded} features, since `{name}` divides "
    "both sides and they have no common size near {target}",
    "use {padded} features{advice}",
)

PADDED_TIED = Fault(
    "W107",
    "{tensor} is padded from {features} to {padded} features, since the uses of a "
    "factor that stands twice must agree, and no such sizes multiply to {features}",
    "use {padded} features, or a factor of its own for each use",
)

FAULTS: dict[str, Fault] = {
    fault.code: fault for fault in list(globals().values()) if isinstance(fault, Fault)
}


@dataclass(frozen=True)
class Diagnostic:
    """A fault at a place, in the user's words."""

    fault: Fault
    source: Source = field(repr=False)
    span: Span
    message: str
    help: str | None
    note: tuple[str, Span] | None = None
    promoted: bool = False
    """Whether a warning is to be treated as an error."""

    @property
    def code(self) -> str:
        return self.fault.code

    @property
    def severity(self) -> Literal["error", "warning"]:
        return "error" if self.promoted else self.fault.severity

    @property
    def line(self) -> int:
        return self.source.position(self.span.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.span.start)[1]

    def to_json(self) -> dict[str, Any]:
        """The keys of `einc.diagnostics/1`."""
        line, column = self.source.position(self.span.start)
        end_line, end_column = self.source.position(self.span.end)
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": self.source.name,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "help": self.help,
        }

    def __str__(self) -> str:
        lines = [
            f"{self.severity}[{self.code}]: {self.message}",
            f" --> {self.source.name}:{self.line}:{self.column}",
            self.source.excerpt(self.span),
        ]
        if self.note is not None:
            text, span = self.note
            line, column = self.source.position(span.start)
            lines += [
                f"note: {text}",
                f" --> {self.source.name}:{line}:{column}",
                self.source.excerpt(span),
            ]
        if self.help is not None:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)


@dataclass
class Diagnostics:
    """Collects what is found in one source, so that all of it is told at once."""

    source: Source
    found: list[Diagnostic] = field(default_factory=list)

    def add(
        self,
        fault: Fault,
        span: Span,
        *,
        note: tuple[str, Span] | None = None,
        **values: object,
    ) -> None:
        """Records `fault` at `span`; an empty help line is left out."""
        advice = fault.help.format(**values) if fault.help is not None else ""
        message = fault.message.format(**values)
        self.found.append(
            Diagnostic(fault, self.source, span, message, advice or None, note)
        )

    def add_once(self, fault: Fault, span: Span, **values: object) -> None:
        """The same, unless it was recorded for this span: one message for a
        statement, however many indices it names."""
        if not any(d.fault is fault and d.span == span for d in self.found):
            self.add(fault, span, note=None, **values)

    @property
    def errors(self) -> list[Diagnostic]:
        return in_order(d for d in self.found if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(in_order(d for d in self.found if d.severity == "warning"))

    def stop_on_errors(self) -> None:
        """Raises `SpecError` with everything found, if any of it is an error."""
        if self.errors:
            raise SpecError(in_order(self.found))


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Source by source, each from its beginning to its end.

    A file that was named twice was read twice: two sources.
    """
    found = list(diagnostics)
    sources = list(dict.fromkeys(id(d.source) for d in found))
    return sorted(found, key=lambda d: (sources.index(id(d.source)), d.span, d.code))


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "feature"), counted(2, "feature")
    ('1 feature', '2 features')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class EincError(Exception):
    """What einc raises when it is given something it cannot work with."""


class SpecError(EincError):
    """A spec has faults; `diagnostics` holds all that were found, in order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(str(d) for d in self.diagnostics))


class UsageError(EincError):
    """einc was asked for something in a wrong way: no such file, no such parameter."""


class InternalError(AssertionError):
    """einc broke one of its own rules: a defect, never the user's fault."""
