"""What is written in a drawing: names, sizes, exponents and costs, each short enough.

In: a `Profile`. Out: text; what stands between dollar signs is matplotlib's math.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from einc.analysis.profile import Profile, StepReport
from einc.expressions import Growth, Value
from einc.plan import Contraction, Node, TermPlan
from einc.report import signature
from einc.structure import Axis, Structure, is_constant

MAX_NAME = 16
MAX_TITLE, TITLE_LINE, MAX_WORD = 180, 66, 32
DOTS = "\N{HORIZONTAL ELLIPSIS}"


class Labels:
    """The texts for one profile. A name of any length is cut, and stays its own."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.structure = profile.structure
        self.binding = None if profile.figures is None else profile.figures.binding
        self._names = _short_names(profile.structure)

    def name(self, name: str) -> str:
        """A factor's or an index's name, or one that the plan gave to a product."""
        return self._names.get(name, name)

    def shape(self, axes: Iterable[Axis]) -> str:
        return f"[{', '.join(self.name(axis.name) for axis in axes)}]"

    def notes(self, factor: str) -> str:
        """What else is to know of a factor."""
        notes = ["tied"] * (factor in self.structure.tied)
        notes += ["normalized"] * (factor in self.structure.normalized)
        return ", ".join(notes)

    def index(self, axis: Axis) -> str:
        """An index with its size, or with how it grows."""
        name, route = self.name(axis.name), self.structure.route
        if self.binding is not None:
            text = f"{name}={self.binding.size(axis)}"
            top = str(self.binding.top)
        else:
            sign = "=" if is_constant(axis) else " ~ "
            text = f"{name}{sign}{_growth(axis.size.growth)}"
            top = "" if route is None else _growth(route.growth)
        return f"{text}, top {top}" if axis.name == self.structure.routed else text

    def title(self) -> list[str]:
        short = re.sub(r"\w+", lambda m: cut(m[0], MAX_WORD), signature(self.structure))
        return wrapped(cut(short, MAX_TITLE), TITLE_LINE)

    def subtitles(self) -> tuple[str, ...]:
        """The features, and the exponents, where there are any."""
        lines, plan, exponents = [], self.profile.plan, self.profile.exponents
        if self.binding is not None:
            line = _features(self.binding.d_in, self.binding.d_out)
            if self.binding.is_padded:
                sides = zip(*self.binding.padded, strict=True)
                line += f", padded to {_features(*map(max, sides))}"
            lines.append(f"{line}, {plan.tokens:,} tokens a call")
        if exponents is not None:
            best, at_most = exponents.best, "=" if exponents.psi_is_exact else "≤"
            shown = [f"ω = {best.omega}", f"ψ {at_most} {best.psi}", f"ν = {best.nu}"]
            found = ", ".join(text for text in shown if not text.endswith("None"))
            lines.append(f"{found} ({self.profile.class_})")
        return tuple(lines)

    def result(self, term: TermPlan, step: Contraction) -> str:
        """What a step computes of what: `z[g, f, r] = x * A`."""
        axes = term.network.term.output if step is term.root else step.kept
        left, right = (self.name(node.name) for node in (step.left, step.right))
        return f"{step.name}{self.shape(axes)} = {left} * {right}"

    def without_step(self, root: Node) -> str:
        """What a term is that has nothing to contract, or nothing that is new."""
        if isinstance(root, Contraction):
            return f"{root.name}, as before"
        summed = ", ".join(self.name(axis.name) for axis in root.private)
        return f"{root.name}, " + (f"summed over {summed}" if summed else "as it is")

    def cost(self, step: Contraction, report: StepReport) -> tuple[str, str]:
        """The multiply-adds of a step per token, and how they grow.

        The first in numbers where there are features, else as a product of indices.
        """
        if report.macs is not None:
            return _count(report.macs), ""
        routed = self.structure.routed if step.holds_x else None
        names = ["top" if a.name == routed else self.name(a.name) for a in step.touched]
        product = "*".join(names) or "1"
        if not step.holds_x:
            return f"{product} / tokens", ""
        theta = sum(map(self.structure.active_theta, step.touched), Fraction(0))
        return product, f"~ {_power(theta)}" if self.structure.grows else ""

    def total(self) -> str:
        """The multiply-adds of all steps per token, where there are features."""
        figures = self.profile.figures
        return "" if figures is None else _count(figures.work.forward)


def _short_names(structure: Structure) -> dict[str, str]:
    """Each index and factor with a name of at most `MAX_NAME` letters.

    Of names that look the same once cut, each gets its number.
    """
    names = [axis.name for axis in structure.axes]
    names += [factor.name for factor in structure.factors]
    short = {name: name for name in names if len(name) <= MAX_NAME}
    for name in names:
        if name not in short:
            marks = ("", *(f"#{number}" for number in range(2, len(names) + 2)))
            tries = (cut(name, MAX_NAME - len(mark)) + mark for mark in marks)
            short[name] = next(text for text in tries if text not in short.values())
    return short


def cut(text: str, length: int) -> str:
    """A text with its middle left out, if it is longer.

    >>> cut("abcdefghij", 6)
    'abcd…j'
    """
    if len(text) <= length:
        return text
    end = length // 4
    return text[: length - 1 - end] + DOTS + text[len(text) - end :]


def wrapped(text: str, length: int) -> list[str]:
    """Lines of about `length`, broken behind commas and `*` and before `->`.

    >>> wrapped("...ga,gafr->...gfr", 8)
    ['...ga,', 'gafr', '->...gfr']
    """
    lines = [""]
    for piece in re.split(r"(?<=[,*] )|(?<=[,*])(?! )|(?=->)", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > length:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _features(d_in: int, d_out: int) -> str:
    return f"{d_in} → {d_out} features"


def _count(value: Fraction) -> str:
    """With four digits at least, and as many as an integer has."""
    if value.denominator == 1 or value >= 10_000:
        return f"{round(value):,}"
    return f"{float(value):,.4g}"


def _growth(growth: Growth) -> str:
    """A constant as it is, and of what grows the power of d."""
    if growth.is_constant:
        return _constant(growth.coefficient)
    return _power(growth.exponent)


def _constant(value: Value) -> str:
    exact = str(value)
    return exact if len(exact) <= 10 else f"{float(value):.4g}"


def _power(exponent: Fraction) -> str:
    """A power of d.

    >>> _power(Fraction(1, 2)), _power(Fraction(1)), _power(Fraction(0))
    ('$d^{1/2}$', '$d$', '1')
    """
    if exponent == 0:
        return "1"
    return "$d$" if exponent == 1 else f"$d^{{{exponent}}}$"
