"""Parameters, multiply-adds, FLOPs and memory of a plan at given sizes.

In: a `Binding` and a `Plan`. Out: numbers per token, unless the name says
otherwise; a contraction without x costs once a call and is divided by the tokens.
1 multiply-add = 2 FLOPs. A contraction that sums no index of size above 1 is
elementwise (and lowered to `*`); the others are matrix products, and those alone
are what `torch.utils.flop_counter` sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from einc.order import Costs
from einc.plan import Contraction, Leaf, Node, Plan, TermPlan
from einc.sizes import Binding
from einc.structure import Axis, Structure

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Parameters:
    """Numbers of learned elements, the router and the bias apart.

    `active` are those that one token uses.
    """

    factors: dict[str, int]
    total: int
    active: int
    router: int


def parameters(binding: Binding) -> Parameters:
    """The sum over distinct factors of the product of their sizes."""
    structure = binding.structure
    factors = {f.name: math.prod(binding.shape(f.axes)) for f in structure.factors}
    total = sum(factors.values())
    active = total - sum(_idle(binding, name) for name in factors)
    return Parameters(factors, total, active, router_size(binding))


def _idle(binding: Binding, name: str) -> int:
    """The elements of a factor that a token uses nowhere.

    In each of its uses they are at values of the routed index that were not chosen.
    """
    structure = binding.structure
    uses = [o for term in structure.terms for o in term.operands if o.name == name]
    idle = list(binding.shape(uses[0].axes))
    places = set()
    for use in uses:
        names = [axis.name for axis in use.axes]
        if structure.routed not in names:
            return 0
        places.add(names.index(structure.routed))
    for place in places:
        assert binding.top is not None
        idle[place] -= binding.top
    return math.prod(idle)


def router_size(binding: Binding) -> int:
    """d_in x E, the elements and the multiply-adds of the router, or 0."""
    routed = binding.structure.routed
    return 0 if routed is None else binding.d_in * binding.sizes[routed]


@dataclass(frozen=True)
class Work:
    """Multiply-adds of all contractions, of those that sum, and elementwise FLOPs.

    `all_experts` and `all_experts_matrix` are what `forward` and `matrix` would be
    if every expert were computed for every token. `recomputed` and
    `recomputed_matrix` are what backward computes again: what experts computed on the
    way to their result, which is not kept.
    """

    forward: Fraction
    matrix: Fraction
    all_experts: Fraction
    all_experts_matrix: Fraction
    elementwise: Fraction
    recomputed: Fraction
    recomputed_matrix: Fraction

    @property
    def training(self) -> Fraction:
        """Three times forward, each contraction once and once for each operand; and
        what is computed again."""
        return 3 * self.forward + self.recomputed

    @property
    def training_matrix(self) -> Fraction:
        """`training` of the contractions that sum."""
        return 3 * self.matrix + self.recomputed_matrix


def work(binding: Binding, plan: Plan) -> Work:
    """The work of a plan, per token.

    >>> from einc.library import structure
    >>> from einc.plan import plan
    >>> from einc.sizes import bind
    >>> binding = bind(structure("btt"), 1024, 1024)
    >>> work(binding, plan(binding, tokens=4096)).forward
    Fraction(65536, 1)
    """
    tokens = _tokens(plan)
    zero = Fraction(0)
    forward = matrix = all_experts = all_matrix = elementwise = zero
    recomputed = recomputed_matrix = zero
    for term, step in plan.steps:
        costs = Costs.of(binding, term.network, tokens)
        full = Costs(costs.full, costs.full, tokens)
        macs = step_macs(binding, term, step, tokens)
        touched = term.network.mask(step.touched)
        unrouted = Fraction(full.elements(touched, step.holds_x), tokens)
        forward += macs
        all_experts += unrouted
        if is_matrix(binding, step):
            matrix += macs
            all_matrix += unrouted
        else:
            elementwise += macs
        if step in term.expert_steps[:-1]:
            recomputed += macs
            recomputed_matrix += macs if is_matrix(binding, step) else 0
        elementwise += _gating(binding, step)
    for term, leaf in plan.leaves:
        costs = Costs.of(binding, term.network, tokens)
        before, after = term.network.mask(leaf.axes), term.network.mask(leaf.kept)
        kept = costs.elements(after, leaf.holds_x)
        additions = costs.elements(before, leaf.holds_x) - kept
        elementwise += Fraction(additions, tokens)
    elementwise += (len(plan.terms) - 1) * binding.d_out
    elementwise += Fraction(_normalizing(binding), tokens)
    return Work(
        forward,
        matrix,
        all_experts,
        all_matrix,
        elementwise,
        recomputed,
        recomputed_matrix,
    )


def step_macs(
    binding: Binding, term: TermPlan, step: Contraction, tokens: int
) -> Fraction:
    """Multiply-adds of one contraction per token."""
    costs = Costs.of(binding, term.network, tokens)
    touched = term.network.mask(step.touched)
    return Fraction(costs.elements(touched, step.holds_x), tokens)


def is_matrix(binding: Binding, step: Contraction) -> bool:
    """Whether a contraction sums an index of size above 1, the gate's sum apart."""
    return any(
        binding.size(axis) > 1 and axis.name != binding.structure.routed
        for axis in step.summed
    )


def _normalizing(binding: Binding) -> int:
    """FLOPs a call of `normalize`: a square, an addition and a product an element."""
    normalized = binding.structure.normalized
    factors = [f for f in binding.structure.factors if f.name in normalized]
    return 3 * sum(math.prod(binding.shape(f.axes)) for f in factors)


def _gating(binding: Binding, step: Contraction) -> int:
    """Where a routed index is summed: one product and one addition an expert."""
    if binding.top is None or not step.holds_x:
        return 0
    if all(axis.name != binding.structure.routed for axis in step.summed):
        return 0
    kept = math.prod(binding.active_size(axis) for axis in step.kept)
    return kept * (2 * binding.top - 1)


@dataclass(frozen=True)
class Memory:
    """Elements per token of the largest intermediate and of what backward keeps.

    `bytes_moved` per token in float32, each operand read and each result written
    once, and `intensity`, the matrix FLOPs for each of these bytes.
    """

    largest_intermediate: Fraction
    saved_for_backward: Fraction
    bytes_moved: Fraction
    intensity: Fraction


def memory(binding: Binding, plan: Plan) -> Memory:
    """The memory that a plan needs.

    Backward keeps both operands of each contraction; factors are there anyhow, and
    what experts compute on the way is computed again.
    """
    tokens = _tokens(plan)
    largest = saved = moved = matrix = Fraction(0)
    kept: set[object] = set()
    for term, step in plan.steps:
        macs = step_macs(binding, term, step, tokens)
        matrix += macs if is_matrix(binding, step) else 0
        for node in (step.left, step.right, step):
            elements = _elements(binding, term, node, tokens)
            moved += elements
            if node is step or (isinstance(node, Leaf) and not node.holds_x):
                continue
            # However x is split, it is one tensor, unless padded or summed.
            whole = isinstance(node, Leaf) and all(
                binding.size(axis) == 1 for axis in node.private
            )
            key = ("x", elements) if whole else node.key
            if key not in kept and node not in term.expert_steps[:-1]:
                kept.add(key)
                saved += elements
            if isinstance(node, Contraction):
                largest = max(largest, elements)
    moved *= FLOAT32_BYTES
    return Memory(largest, saved, moved, 2 * matrix / moved if moved else Fraction(0))


def _elements(binding: Binding, term: TermPlan, node: Node, tokens: int) -> Fraction:
    costs = Costs.of(binding, term.network, tokens)
    return Fraction(costs.elements(term.network.mask(node.kept), node.holds_x), tokens)


def _tokens(plan: Plan) -> int:
    assert plan.tokens is not None, "a plan by exponents has no counts"
    return plan.tokens


def parameters_formula(structure: Structure) -> str:
    """The number of parameters as a sum of products of index names."""
    import sympy

    products = [monomial_of(operand.axes) for operand in structure.factors]
    return str(sum(products, sympy.Integer(0)))


def macs_formula(structure: Structure, plan: Plan) -> str:
    """The multiply-adds per token: a product for each contraction.

    Those of a contraction without x are divided by `tokens`, or `tokens_` where an index
    has that name, and a routed index where x is in is written `top`.
    """
    import sympy

    top = None if structure.route is None else sympy.Symbol("top", positive=True)
    name, taken = "tokens", {axis.name for axis in structure.axes}
    while name in taken:
        name += "_"
    tokens = sympy.Symbol(name, positive=True)
    total = sympy.Integer(0)
    for _, step in plan.steps:
        replaced = structure.routed if step.holds_x else None
        monomial = monomial_of(step.touched, replaced, top)
        if not step.holds_x:
            monomial /= tokens
        total += monomial
    return str(total)


def monomial_of(
    axes: Iterable[Axis], replaced: str | None = None, by: Any = None
) -> Any:
    """The product of the axes as a sympy expression, one of them replaced."""
    import sympy

    symbols = [
        by if axis.name == replaced else sympy.Symbol(axis.name, positive=True)
        for axis in axes
    ]
    return sympy.Mul(*symbols)
