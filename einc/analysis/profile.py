"""Every number of the analysis, with the plan that it holds for.

In: a `Structure` and a `Plan`, with a `Binding` where there are features. Out: a
`Profile`, which `to_json` turns into the document `einc.profile/1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from einc.analysis import counts
from einc.analysis.exponents import Exponents, Triple, class_of, exponents
from einc.analysis.rank import Rank, rank, rank_formula
from einc.errors import Diagnostic
from einc.plan import Contraction, Leaf, Plan, TermPlan
from einc.sizes import Binding
from einc.structure import Axis, Structure

SCHEMA = "einc.profile/1"


@dataclass(frozen=True)
class Figures:
    """What needs features: sizes, counts and rank at a binding."""

    binding: Binding
    parameters: counts.Parameters
    work: counts.Work
    memory: counts.Memory
    rank: Rank

    @property
    def dense(self) -> int:
        """The multiply-adds per token, and the parameters, of a dense layer."""
        return self.binding.d_in * self.binding.d_out

    @property
    def parameter_share(self) -> float:
        """Parameters over those of a dense layer, the router left out."""
        return self.parameters.total / self.dense

    @property
    def flop_share(self) -> float:
        """Matrix FLOPs over those of a dense layer."""
        return float(self.work.matrix / self.dense)


@dataclass(frozen=True)
class StepReport:
    """One contraction: its operands by name and as an einsum for `torch.einsum`.

    `macs` per token, None without features; `matrix` whether it sums an index.
    """

    operands: tuple[str, str]
    einsum: str
    result: str
    macs: Fraction | None
    matrix: bool | None


@dataclass(frozen=True)
class Profile:
    """The whole analysis of one structure."""

    structure: Structure
    plan: Plan
    steps: tuple[StepReport, ...]
    figures: Figures | None
    exponents: Exponents | None
    warnings: tuple[Diagnostic, ...]

    @cached_property
    def formulas(self) -> Mapping[str, str]:
        """Parameters, multiply-adds a token and the rank, in sizes; found when asked for."""
        return {
            "params": counts.parameters_formula(self.structure),
            "macs": counts.macs_formula(self.structure, self.plan),
            "rank": rank_formula(self.structure),
        }

    @property
    def class_(self) -> str | None:
        if self.exponents is None:
            return None
        return class_of(self.structure, self.exponents.best)

    @property
    def name(self) -> str:
        return self.structure.name

    def to_json(self) -> dict[str, Any]:
        """The document `einc.profile/1`: rationals and formulas are strings."""
        return _document(self)


def profile(structure: Structure, plan: Plan, binding: Binding | None) -> Profile:
    """Analyses a structure under a plan."""
    figures = None
    if binding is not None:
        figures = Figures(
            binding,
            counts.parameters(binding),
            counts.work(binding, plan),
            counts.memory(binding, plan),
            rank(binding),
        )
    return Profile(
        structure,
        plan,
        tuple(_step(binding, plan, term, step) for term, step in plan.steps),
        figures,
        exponents(structure, given=plan.kind == "given") if structure.grows else None,
        structure.warnings
        if binding is None
        else structure.warnings + binding.warnings,
    )


def _step(
    binding: Binding | None, plan: Plan, term: TermPlan, step: Contraction
) -> StepReport:
    macs = matrix = None
    if binding is not None and plan.tokens is not None:
        macs = counts.step_macs(binding, term, step, plan.tokens)
        matrix = counts.is_matrix(binding, step)
    return StepReport(
        (step.left.name, step.right.name),
        einsum(term, step),
        step.name,
        macs,
        matrix,
    )


def einsum(term: TermPlan, step: Contraction) -> str:
    """A contraction in the letters of `torch.einsum`, `...` for the tokens.

    An index keeps its name where that is one letter; others get a free one.
    """
    letters = _letters(term.network.axes)

    def subscripts(axes: tuple[Axis, ...], holds_x: bool) -> str:
        return "..." * holds_x + "".join(letters[a] for a in axes)

    sides = [
        subscripts(n.axes if isinstance(n, Leaf) else n.kept, n.holds_x)
        for n in (step.left, step.right)
    ]
    result = term.network.term.output if step is term.root else step.kept
    return f"{sides[0]},{sides[1]}->{subscripts(result, step.holds_x)}"


def _letters(axes: tuple[Axis, ...]) -> dict[Axis, str]:
    letters = {axis: axis.name for axis in axes if len(axis.name) == 1}
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    free = iter([c for c in alphabet if c not in letters.values()])
    for axis in axes:
        if axis not in letters:
            preferred = axis.name[0]
            taken = set(letters.values())
            letters[axis] = (
                next(c for c in free if c not in taken)
                if preferred in taken
                else preferred
            )
    return letters


def number(value: Fraction | int | None) -> int | float | None:
    """A count for JSON: an integer where it is one, else a float."""
    if value is None:
        return None
    fraction = Fraction(value)
    return fraction.numerator if fraction.denominator == 1 else float(fraction)


def _document(profile: Profile) -> dict[str, Any]:
    structure, figures, plan = profile.structure, profile.figures, profile.plan
    binding = figures.binding if figures is not None else None
    work = figures.work if figures is not None else None
    params = figures.parameters if figures is not None else None
    dense = figures.dense if figures is not None else None
    padded = binding.padded if binding is not None else None

    def of_work(name: str, factor: int = 1) -> int | float | None:
        return None if work is None else number(factor * getattr(work, name))

    router = params.router if params is not None else None
    doubled = None if router is None else 2 * router
    return {
        "schema": SCHEMA,
        "structure": structure.name,
        "equations": list(structure.equations),
        "arguments": structure.arguments,
        "features": {
            "in": None if binding is None else binding.d_in,
            "out": None if binding is None else binding.d_out,
            "padded_in": None if padded is None else max(p[0] for p in padded),
            "padded_out": None if padded is None else max(p[1] for p in padded),
        },
        "sizes": {
            axis.name: None if binding is None else binding.size(axis)
            for axis in structure.axes
        },
        "params": {
            "formula": profile.formulas["params"],
            "total": None if params is None else params.total,
            "active": None if params is None else params.active,
            "router": router,
            "scales": len(structure.normalized),
            "factors": {
                f.name: None if params is None else params.factors[f.name]
                for f in structure.factors
            },
        },
        "macs": {
            "formula": profile.formulas["macs"],
            "forward": of_work("forward"),
            "matrix": of_work("matrix"),
            "all_experts": of_work("all_experts"),
            "router": router,
            "training": of_work("training"),
            "dense_forward": dense,
            "per_call": of_work("forward", plan.tokens or 0),
        },
        "flops": {
            "forward": of_work("matrix", 2),
            "all_experts": of_work("all_experts_matrix", 2),
            "router": doubled,
            "training": of_work("training_matrix", 2),
            "dense_forward": None if dense is None else 2 * dense,
            "elementwise": of_work("elementwise"),
        },
        "memory": {
            name: None if figures is None else number(getattr(figures.memory, name))
            for name in (
                "largest_intermediate",
                "saved_for_backward",
                "bytes_moved",
                "intensity",
            )
        },
        "rank": {
            "formula": profile.formulas["rank"],
            "bound": None if figures is None else figures.rank.bound,
            "generic": None if figures is None else figures.rank.generic,
            "status": "bound only" if figures is None else figures.rank.status,
            "least": None if figures is None else figures.rank.least,
            "method": None if figures is None else figures.rank.method,
            "cuts": [] if figures is None else [vars(c) for c in figures.rank.cuts],
        },
        "exponents": _exponents(profile.exponents),
        "class": profile.class_,
        "order": {
            "kind": plan.kind,
            "tokens": plan.tokens,
            "steps": [
                {
                    "operands": list(step.operands),
                    "einsum": step.einsum,
                    "result": step.result,
                    "macs": number(step.macs),
                }
                for step in profile.steps
            ],
        },
        "routing": _routing(structure, binding),
        "warnings": [
            {
                "code": w.code,
                "message": w.message,
                "line": w.line,
                "column": w.column,
            }
            for w in profile.warnings
        ],
    }


def _exponents(found: Exponents | None) -> dict[str, Any] | None:
    """The JSON of the exponents; `formulas` are in the parameters."""
    if found is None:
        return None

    def triple(values: Triple) -> dict[str, str | None]:
        return {
            name: None if value is None else str(value)
            for name, value in vars(values).items()
        }

    return {
        **triple(found.best),
        "psi_status": "exact" if found.psi_is_exact else "bound only",
        "order": list(found.order),
        "merged": triple(found.merged),
        "formulas": dict(found.formulas),
    }


def _routing(structure: Structure, binding: Binding | None) -> dict[str, Any] | None:
    if structure.route is None:
        return None
    experts = None if binding is None else binding.sizes[structure.route.index]
    return {
        "index": structure.route.index,
        "experts": experts,
        "active": None if binding is None else binding.top,
    }
