"""Which ways to orient the products of x are tried.

In: a `Plan` and its sizes. Out: an `Orientation` for the key of each matrix product,
one mapping a way.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as every

from einc.analysis.counts import is_matrix
from einc.codegen.statements import Orientation
from einc.plan import Contraction, Key, Plan
from einc.sizes import Binding

MOST_WAYS = 256
"""Ways to orient products, all together, that are tried."""


def orientations(
    binding: Binding, plan: Plan, expand: bool
) -> Iterator[dict[Key, Orientation]]:
    """Orientations of the matrix products of x; with few that are not plain first."""
    products = {
        step.key: step
        for term, step in plan.steps
        if step.holds_x and is_matrix(binding, step) and step not in term.expert_steps
    }
    choices: list[tuple[Orientation, ...]] = []
    ways = 1
    for step in products.values():
        found = _orientations_of(step, expand)
        ways *= len(found)
        choices.append(found if ways <= MOST_WAYS else ("plain",))
    for chosen in sorted(every(*choices), key=lambda each: -each.count("plain")):
        yield dict(zip(products, chosen, strict=True))


def _orientations_of(step: Contraction, expand: bool) -> tuple[Orientation, ...]:
    """Only a weight is expanded that shares no dimension of the result with the data."""
    data, weight = step.x_first
    shared = set(data.kept) & set(weight.kept) & set(step.kept)
    single = expand and not shared
    return ("plain", "turned", "expanded") if single else ("plain", "turned")
