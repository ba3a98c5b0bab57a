"""Why omega, psi and nu are what they are, and which single change moves them.

In: a `Structure` whose sides grow with d. Out: a `Reasons`. nu comes from the step of
the order whose multiply-adds grow the fastest; omega from the indices over which that
step uses its factor again; psi from the smallest cut. A change gives a factor an
index, takes one from it, or lets an inner index grow otherwise. What it does is found
by resolving and analysing the changed definition: a change that the language refuses
is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from einc import syntax
from einc.analysis.exponents import Step, Triple, growth_of, triple, x_first_steps
from einc.errors import SpecError
from einc.network import Network
from einc.resolve import resolve
from einc.structure import Axis, Role, Structure, Term

MAX_FACTORS = 8
"""In terms of more factors no changes are tried: each takes an order of its own."""
SHOWN = 3

Exponent = Literal["omega", "psi", "nu"]


@dataclass(frozen=True)
class Change:
    """One change, in words and as what is written instead, with the exponents after.

    `spec` is the whole structure with it, as .ein.
    """

    text: str
    statement: str
    spec: str
    triple: Triple


@dataclass(frozen=True)
class Reason:
    """Why an exponent has its value: in words, and the indices that make it so.

    `factor` is that of the hardest step (None for psi). `changes` move the exponent
    to where one wants it (omega down to 0, psi up to 1, nu down), best first.
    """

    value: Fraction | None
    text: str
    indices: tuple[str, ...]
    factor: str | None
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Reasons:
    omega: Reason
    psi: Reason
    nu: Reason

    @property
    def by_exponent(self) -> dict[str, Reason]:
        return dict(vars(self))

    def to_json(self) -> dict[str, Any]:
        """By exponent: rationals are strings."""
        return {name: _document(reason) for name, reason in vars(self).items()}


def _document(reason: Reason) -> dict[str, Any]:
    changes = [
        {
            "change": change.text,
            "statement": change.statement,
            "spec": change.spec,
            **{
                k: None if v is None else str(v) for k, v in vars(change.triple).items()
            },
        }
        for change in reason.changes
    ]
    value = None if reason.value is None else str(reason.value)
    return {**vars(reason), "value": value, "changes": changes}


def reasons(structure: Structure, given: bool = False) -> Reasons:
    """The reasons for the exponents of the best x-first order; or as written, `given`.

    >>> from einc.library import structure
    >>> found = reasons(structure("kronecker"))
    >>> found.omega.text
    'each entry of A is used d^(1/2) times a token, once for each k'
    >>> found.omega.changes[0].text
    'k in A as well'
    """
    now = triple(structure, given)
    # Of steps that are equally hard that of the largest factor, which has the
    # fewest indices to be used again over.
    step = max(
        x_first_steps(structure, given),
        key=lambda step: (step.work, growth_of(step.operand)),
        default=None,
    )
    tried = list(_tried(structure, given))

    def reason(
        name: Exponent, text: str, axes: Iterable[Axis], factor: str | None
    ) -> Reason:
        indices = tuple(axis.name for axis in axes)
        return Reason(
            getattr(now, name), text, indices, factor, _best(name, now, tried)
        )

    return Reasons(
        reason("omega", *_omega(structure, now, step)),
        reason("psi", *_psi(structure), None),
        reason("nu", *_nu(structure, now, step)),
    )


# Why


Because = tuple[str, tuple[Axis, ...], str | None]


def _nu(structure: Structure, now: Triple, step: Step | None) -> Because:
    if step is None or now.nu is None:
        return "there is no factor", (), None
    axes = _growing(structure, step.touched)
    text = (
        f"the hardest step, that of {step.operand.name}, touches "
        f"{_powers(structure, axes)}: "
        f"d^{_power(now.nu + 1)} multiply-adds"
    )
    return text, axes, step.operand.name


def _omega(structure: Structure, now: Triple, step: Step | None) -> Because:
    if step is None or now.omega is None:
        return "there is no parameter", (), None
    name, held = step.operand.name, step.operand.axes
    over = tuple(a for a in _growing(structure, step.touched) if a not in held)
    alone = [a for a in _growing(structure, held) if a not in step.touched]
    idle = [a for a in held if structure.active_theta(a) < a.theta]
    sizes = {factor.name: growth_of(factor) for factor in structure.factors}
    largest = max(sizes, key=lambda factor: sizes[factor])
    why = []
    if alone:
        why.append(f"{name} is summed over {_listed(alone)} before x comes")
    if over:
        uses = _power(_exponent(structure, over))
        each = _listed(over)
        why.append(
            f"each entry of {name} is used d^{uses} times a token, once for each {each}"
        )
    if idle:
        why.append(f"of {_listed(idle)} a token sees few")
    if sizes[name] < sizes[largest]:
        more = _power(sizes[largest] - sizes[name])
        why.append(f"{largest} has d^{more} times as many entries as {name}")
    every = f"{name} has all indices that its step touches"
    return "; ".join(why) or every, over, name


def _listed(axes: Iterable[Axis]) -> str:
    return ", ".join(axis.name for axis in axes)


def _psi(structure: Structure) -> tuple[str, tuple[Axis, ...]]:
    """The smallest cut of the term whose rank grows the fastest."""

    def of_term(term: Term) -> tuple[Fraction, bool, int]:
        network, sides = Network(term), [set(side) for side in term.sides]
        return min(
            # Of several a whole side, which says that nothing is narrower.
            (
                _exponent(structure, axes := network.members(cut)),
                set(axes) not in sides,
                cut,
            )
            for cut in network.cuts
        )

    term = max(structure.terms, key=lambda term: of_term(term)[0])
    _, inside, cut = of_term(term)
    network = Network(term)
    axes = network.members(cut)
    if not inside:
        side = "input" if set(axes) == set(term.input) else "output"
        return f"nothing is narrower than the {side}", axes
    near = network.near_x(cut)
    left, right = ["x"], ["y"]
    for i, operand in enumerate(term.operands, 1):
        (left if near >> i & 1 else right).insert(i, operand.name)
    right = [*right[1:], "y"]
    axes = _growing(structure, axes)
    shared = _powers(structure, axes) or "no index that grows"
    return f"{' * '.join(left)} and {' * '.join(right)} share {shared}", axes


def _powers(structure: Structure, axes: Iterable[Axis]) -> str:
    return ", ".join(f"{axis.name} {structure.active_theta(axis)}" for axis in axes)


def _exponent(structure: Structure, axes: Iterable[Axis]) -> Fraction:
    return sum((structure.active_theta(axis) for axis in axes), Fraction(0))


def _growing(structure: Structure, axes: Iterable[Axis]) -> tuple[Axis, ...]:
    return tuple(axis for axis in axes if structure.active_theta(axis))


def _power(exponent: Fraction) -> str:
    return str(exponent) if exponent.denominator == 1 else f"({exponent})"


# What would change it


def _best(name: Exponent, now: Triple, tried: Iterable[Change]) -> tuple[Change, ...]:
    """The changes that move one exponent to the better and lose neither rank nor,
    for the sake of nu, sharing."""

    def sharing(found: Triple) -> Fraction:
        return max(found.omega or Fraction(0), Fraction(0))

    def key(change: Change) -> tuple[Fraction, ...]:
        found = change.triple
        assert found.nu is not None
        shared, full, work = sharing(found), -found.psi, found.nu
        orders = {
            "omega": (shared, work, full),
            "psi": (full, shared, work),
            "nu": (work, full, shared),
        }
        return orders[name]

    def helps(found: Triple) -> bool:
        if found.nu is None or now.nu is None or found.psi < now.psi:
            return False
        if name == "omega":
            return sharing(found) < sharing(now)
        if name == "psi":
            return found.psi > now.psi
        return found.nu < now.nu and sharing(found) <= sharing(now)

    found = sorted((c for c in tried if helps(c.triple)), key=key)
    return tuple(found[:SHOWN])


def _tried(structure: Structure, given: bool) -> Iterator[Change]:
    """Every single change, analysed."""
    if any(len(term.operands) > MAX_FACTORS for term in structure.terms):
        return
    fixed = replace(
        structure.definition,
        params=tuple(
            replace(param, default=parameter.value)
            for param, parameter in zip(
                structure.definition.params, structure.parameters, strict=True
            )
        ),
    )
    for text, statement, changed in _changes(structure, fixed):
        try:
            found = resolve(changed, structure.source)
        except SpecError:
            continue
        if found.grows:
            yield Change(text, statement, str(found), triple(found, given))


Edit = tuple[str, str, syntax.Definition]
"""In words, what is written instead, and the whole definition with it."""


def _changes(structure: Structure, definition: syntax.Definition) -> Iterator[Edit]:
    for term in structure.terms:
        for place, ref in enumerate(term.equation.right):
            if ref.tensor.text in ("x", *structure.tied):
                continue
            for text, indices in _indices(ref, [axis.name for axis in term.axes]):
                right = list(term.equation.right)
                right[place] = replace(ref, indices=indices)
                equation = replace(term.equation, right=tuple(right))
                statements = tuple(
                    equation if s is term.equation else s for s in definition.statements
                )
                changed = replace(definition, statements=statements)
                yield text, syntax.unparse(equation), changed
    for axis in structure.axes:
        # A size that is a parameter is changed as one, for all that have it.
        changeable = not isinstance(axis.size.expr, syntax.Variable)
        if axis.role is Role.INNER and axis.name != structure.routed and changeable:
            for size in _other_sizes(axis.theta):
                yield _resized(definition, axis.name, size)
    for number, parameter in enumerate(structure.parameters):
        for size in _other_sizes(parameter.growth.exponent):
            params = list(definition.params)
            params[number] = replace(params[number], default=size)
            text = f"{parameter.name} = {syntax.unparse(size)}"
            yield text, text, replace(definition, params=tuple(params))


def _indices(
    ref: syntax.Ref, names: Iterable[str]
) -> Iterator[tuple[str, tuple[syntax.Name, ...]]]:
    """A factor's indices with one more, or with one less."""
    held = [index.text for index in ref.indices]
    for name in names:
        if name in held:
            fewer = tuple(index for index in ref.indices if index.text != name)
            yield f"{ref.tensor.text} without {name}", fewer
        else:
            yield (
                f"{name} in {ref.tensor.text} as well",
                (*ref.indices, syntax.Name(name)),
            )


THETAS = [
    Fraction(n, m) for m in (1, 2, 3, 4) for n in range(m + 1) if m == 1 or 0 < n < m
]
"""What a size is tried to grow with: the nearest first."""


def _other_sizes(theta: Fraction) -> Iterator[syntax.Expr]:
    for other in sorted(set(THETAS) - {theta}, key=lambda other: abs(other - theta)):
        if other == 0:
            yield syntax.Number("1")
        elif other == 1:
            yield syntax.Variable("d")
        else:
            ratio = syntax.Binary(
                "/",
                syntax.Number(str(other.numerator)),
                syntax.Number(str(other.denominator)),
            )
            yield syntax.Binary("^", syntax.Variable("d"), ratio)


def _resized(definition: syntax.Definition, name: str, size: syntax.Expr) -> Edit:
    """With another size for one index, which leaves the statement that it was in."""
    statements: list[syntax.Statement] = []
    for statement in definition.statements:
        if isinstance(statement, syntax.Sizes):
            rest = tuple(i for i in statement.indices if i.text != name)
            if rest:
                statements.append(replace(statement, indices=rest))
        else:
            statements.append(statement)
    sized = syntax.Sizes((syntax.Name(name),), "~", size)
    text = syntax.unparse(sized)
    return text, text, replace(definition, statements=(*statements, sized))
