"""What a search may ask for: limits that figures have to keep, and objectives.

In: text such as `>=1/2`, `0.25x`, `params:min`. Out: `Limit`s and `Objective`s. Raises
`UsageError` for what is not one. Figures are exponents or are counted at given features
(docs/analysis.md); `params-per-flop` is parameters over FLOPs, `time` the forward time
of the generated code over that of nn.Linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from einc.errors import UsageError

Exponent = Literal["omega", "psi", "nu"]
Figure = Literal[
    "omega",
    "psi",
    "nu",
    "flops",
    "params",
    "params-per-flop",
    "rank",
    "intermediate",
    "time",
]
Relation = Literal["<=", "=", ">="]

EXPONENTS: tuple[Exponent, ...] = get_args(Exponent)
FIGURES: tuple[Figure, ...] = get_args(Figure)
LARGEST: frozenset[Figure] = frozenset({"psi", "params", "params-per-flop", "rank"})
"""Figures of which more is better unless said otherwise."""

Number = Fraction | int | float


class Limit(NamedTuple):
    """What a figure has to be."""

    figure: Figure
    relation: Relation
    value: Fraction

    def holds(self, value: Number) -> bool:
        """Whether a figure of this value keeps the limit."""
        if self.relation == "<=":
            return value <= self.value
        return value >= self.value if self.relation == ">=" else value == self.value

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.value}"

    def option(self) -> str:
        """As it is written on the command line."""
        if self.figure in EXPONENTS:
            return f"--{self.figure} '{self.relation}{self.value}'"
        most = "max" if self.relation == "<=" else "min"
        return f"--{most}-{self.figure} {self.value}"


class Objective(NamedTuple):
    """A figure, and whether much or little of it is wanted."""

    figure: Figure
    largest: bool

    def score(self, value: Number) -> Number:
        """Less is better."""
        return -value if self.largest else value

    def option(self) -> str:
        """As it is written on the command line."""
        if self.largest == (self.figure in LARGEST):
            return self.figure
        return f"{self.figure}:{'max' if self.largest else 'min'}"

    def __str__(self) -> str:
        return f"{'largest' if self.largest else 'smallest'} {self.figure}"


def limit(figure: Figure, text: str) -> Limit:
    """An exponent's limit, such as `=0`, `>=1/2`, `<=1`; a number alone means `=`."""
    relation: Relation = "="
    for sign in ("<=", ">=", "="):
        if text.startswith(sign):
            relation, text = sign, text.removeprefix(sign)
            break
    return Limit(figure, relation, _number(text, f"--{figure}", "`>=1/2` or `=0`"))


def share(figure: Figure, relation: Relation, text: str, dense: int) -> Limit:
    """A limit as a number, or as `0.25x` of what a dense layer has."""
    option = f"--{'max' if relation == '<=' else 'min'}-{figure}"
    value = _number(
        text.removesuffix("x"), option, "`100000` or `0.25x` of dense", text
    )
    return Limit(figure, relation, value * dense if text.endswith("x") else value)


def objective(text: str) -> Objective:
    """A figure, with `:min` or `:max` where its usual direction is not meant.

    >>> str(objective("flops")), str(objective("params:min"))
    ('smallest flops', 'smallest params')
    """
    name, colon, direction = text.partition(":")
    for figure in FIGURES:
        if figure == name and direction in (("min", "max") if colon else ("",)):
            largest = direction == "max" if colon else figure in LARGEST
            return Objective(figure, largest)
    listed = ", ".join(FIGURES)
    raise UsageError(f"an objective is one of {listed}, or `params:min`; not `{text}`")


def _number(text: str, option: str, example: str, written: str = "") -> Fraction:
    try:
        plain = len(text) <= 40 and set(text) <= set("0123456789./_")
        value = Fraction(text) if plain else None
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None:
        shown = (written or text)[:40]
        raise UsageError(f"{option} is a number such as {example}, not `{shown}`")
    return value


def keeps(limits: tuple[Limit, ...], figures: Mapping[Figure, Number]) -> bool:
    """Whether figures keep all limits on those that they have."""
    return all(
        limit.holds(figures[limit.figure])
        for limit in limits
        if limit.figure in figures
    )
