"""The order of contraction of one term: the search among trees.

In: a `Network` and what it costs. Out: a `Shape`, a tree before it is dressed in axes
and names. Costs are multiply-adds as docs/analysis.md counts them: one contraction
costs the product of the sizes of all axes of its two operands, times the tokens
where x is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

from einc.errors import InternalError
from einc.network import Network, X, bits, product
from einc.sizes import Binding
from einc.structure import Structure

Order = Literal["best", "given", "auto", "greedy", "optimal", "dp"]
ORDERS: tuple[Order, ...] = ("best", "given", "auto", "greedy", "optimal", "dp")
MAX_LISTED_FACTORS = 4
"""Up to so many factors all trees are listed, to trade FLOPs for memory."""
FEWER_SAVED = Fraction(105, 100)
"""How many more multiply-adds a tree may take that keeps less for backward."""

# A tensor's number, or a pair of trees.
Shape = int | tuple[Any, Any]
T = TypeVar("T", int, Fraction)


@dataclass(frozen=True)
class Costs:
    """Sizes for counting: `active` where x is in (a routed axis counts as `top`)."""

    active: tuple[int, ...]
    full: tuple[int, ...]
    tokens: int
    known: Set[int] = frozenset()
    """Sets of tensors whose product is there already."""

    @classmethod
    def of(cls, binding: Binding, network: Network, tokens: int) -> Costs:
        return cls(
            tuple(binding.active_size(a) for a in network.axes),
            tuple(binding.size(a) for a in network.axes),
            tokens,
        )

    def elements(self, mask: int, holds_x: bool) -> int:
        """The product of the sizes of a mask, for a call of `tokens` tokens."""
        if holds_x:
            return self.tokens * product(mask, self.active)
        return product(mask, self.full)


def best_tree(
    network: Network,
    costs: Costs,
    needs_grad: int | None = None,
) -> Shape:
    """The tree with the fewest multiply-adds of a training step, exactly.

    A contraction costs its product once, and once more for each operand that needs
    a gradient; `needs_grad` is the set of tensors that do (all, if None). Ties go
    to the tree that keeps the fewest elements for backward. With four factors or
    fewer a tree that keeps less is taken even at up to 5% more multiply-adds. What
    is in `costs.known` costs nothing.
    """
    grad = network.everything if needs_grad is None else needs_grad
    if len(network.tensors) <= MAX_LISTED_FACTORS + 1:
        listed = [
            _Judged(*_judge(network, costs, grad, shape), shape)
            for shape in all_trees(tuple(range(len(network.tensors))))
        ]
        limit = min(tree.cost for tree in listed) * FEWER_SAVED
        good = [tree for tree in listed if tree.cost <= limit]
        shape = min(good, key=lambda t: (t.saved, t.cost, t.sets)).shape
        if not costs.known:
            return shape
        # How what costs nothing is computed was not judged.
        build = _best_by_subsets(network, costs, grad)
        return _grafted(shape, {known: build(known) for known in costs.known})
    return _best_by_subsets(network, costs, grad)(network.everything)


@dataclass(frozen=True)
class _Judged:
    cost: int
    saved: int
    sets: tuple[int, ...]
    shape: Shape


def all_trees(tensors: tuple[int, ...]) -> Iterator[Shape]:
    """All binary trees over `tensors`: 1, 1, 3, 15, 105, ... of them."""
    if len(tensors) == 1:
        yield tensors[0]
        return
    first, rest = tensors[0], tensors[1:]
    for chosen in range(1 << len(rest)):
        left = (first, *(t for i, t in enumerate(rest) if chosen >> i & 1))
        right = tuple(t for i, t in enumerate(rest) if not chosen >> i & 1)
        if not right:
            continue
        for a in all_trees(left):
            for b in all_trees(right):
                yield (a, b)


def _judge(
    network: Network, costs: Costs, grad: int, shape: Shape
) -> tuple[int, int, tuple[int, ...]]:
    """Multiply-adds, elements kept for backward, and the sets of a tree's nodes."""
    cost = saved = 0
    sets: list[int] = []

    def visit(shape: Shape) -> int:
        nonlocal cost, saved
        if isinstance(shape, int):
            return 1 << shape
        if costs.known and (whole := _tensors(shape)) in costs.known:
            return whole
        left, right = visit(shape[0]), visit(shape[1])
        joined = left | right
        weight = 1 + bool(left & grad) + bool(right & grad)
        cost += weight * costs.elements(network.touched(left, right), bool(joined & X))
        if joined != network.everything:
            saved += costs.elements(network.kept(joined), bool(joined & X))
        sets.append(joined)
        return joined

    visit(shape)
    return cost, saved, tuple(sets)


def _tensors(shape: Shape) -> int:
    """The set of a tree's tensors."""
    if isinstance(shape, int):
        return 1 << shape
    return _tensors(shape[0]) | _tensors(shape[1])


def _grafted(shape: Shape, trees: Mapping[int, Shape]) -> Shape:
    """A tree with `trees` in place of its own over their sets of tensors."""
    if isinstance(shape, int):
        return shape
    known = trees.get(_tensors(shape))
    if known is not None:
        return known
    return _grafted(shape[0], trees), _grafted(shape[1], trees)


def _best_by_subsets(
    network: Network, costs: Costs, grad: int
) -> Callable[[int], Shape]:
    """The best tree for each set of tensors.

    Dynamic programming over them: 3^(n + 1) / 2 splits.
    """
    count = network.everything + 1
    best: list[tuple[int, int] | None] = [None] * count
    split = [0] * count
    # The same axes are touched over and over: each product is taken once.
    touched_cost: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for subset in range(1, count):
        if subset & (subset - 1) == 0:
            best[subset] = (0, 0)
            continue
        holds_x = subset & X
        cache = touched_cost[holds_x]
        low = subset & -subset
        rest = subset ^ low
        found: tuple[int, int] | None = None
        right = rest
        while right:
            left = subset ^ right
            below, beside = best[left], best[right]
            assert below is not None and beside is not None
            mask = network.touched(left, right)
            step = cache.get(mask)
            if step is None:
                step = cache[mask] = costs.elements(mask, bool(holds_x))
            step *= 1 + bool(left & grad) + bool(right & grad)
            total = (below[0] + beside[0] + step, below[1] + beside[1])
            if found is None or total < found:
                found, split[subset] = total, left
            right = (right - 1) & rest
        assert found is not None
        kept = costs.elements(network.kept(subset), bool(holds_x))
        best[subset] = (found[0], found[1] + kept)
        if subset in costs.known:
            best[subset] = (0, 0)

    def build(subset: int) -> Shape:
        if subset & (subset - 1) == 0:
            return subset.bit_length() - 1
        return build(split[subset]), build(subset ^ split[subset])

    return build


def chain(sequence: Sequence[int]) -> Shape:
    """x with each tensor in turn."""
    shape: Shape = 0
    for tensor in sequence:
        shape = (shape, tensor)
    return shape


def x_first_order(
    network: Network,
    cost: Callable[[int, int], T],
    combine: Callable[[T, T], T],
    nothing: T,
) -> tuple[T, tuple[int, ...]]:
    """The order in which tensors join x one by one, with the least combined cost.

    `cost(left, right)` is that of one step, `combine` adds or takes the larger.
    Ties go to the order as written. Every contraction holds x.
    """
    everything = network.everything
    to_go: dict[int, T] = {everything: nothing}
    for subset in range(everything - 1, 0, -1):
        if subset & X:
            to_go[subset] = min(
                combine(cost(subset, 1 << i), to_go[subset | 1 << i])
                for i in bits(everything ^ subset)
            )
    joined, order = X, []
    while joined != everything:
        for i in bits(everything ^ joined):
            if combine(cost(joined, 1 << i), to_go[joined | 1 << i]) == to_go[joined]:
                order.append(i)
                joined |= 1 << i
                break
    return to_go[X], tuple(order)


def least_exponent_order(
    structure: Structure, network: Network
) -> tuple[Fraction, tuple[int, ...]]:
    """The x-first order whose most expensive step grows the slowest, and how fast.

    Its multiply-adds per token grow as d to the power of that exponent.
    """
    thetas = [structure.active_theta(a) for a in network.axes]

    def exponent(left: int, right: int) -> Fraction:
        touched = network.touched(left, right)
        return sum((thetas[i] for i in bits(touched)), Fraction(0))

    return x_first_order(network, exponent, max, Fraction(0))


def fewest_macs_order(binding: Binding, network: Network) -> tuple[int, ...]:
    """The x-first order with the fewest multiply-adds, tokens left out."""
    costs = Costs.of(binding, network, 1)

    def macs(left: int, right: int) -> int:
        return product(network.touched(left, right), costs.active)

    return x_first_order(network, macs, lambda a, b: a + b, 0)[1]


def opt_einsum_tree(network: Network, costs: Costs, order: Order) -> Shape:
    """The tree that an optimiser of opt_einsum finds, the tokens in.

    The gate of a routed axis is passed as a tensor and taken out of its answer.
    """
    import opt_einsum

    count = len(network.tensors)
    if count == 1:
        return 0
    token = opt_einsum.get_symbol(len(network.axes))
    letters = [opt_einsum.get_symbol(i) for i in range(len(network.axes))]
    sizes = dict(zip(letters, costs.active, strict=True)) | {token: costs.tokens}
    inputs = ["".join(letters[i] for i in bits(mask)) for mask in network.tensors]
    inputs[0] = token + inputs[0]
    if network.gate:
        inputs.append(token + "".join(letters[i] for i in bits(network.gate)))
    output = token + "".join(letters[i] for i in bits(network.output))
    optimizer: Any = order
    if order == "dp":
        from opt_einsum.paths import DynamicProgramming

        optimizer = DynamicProgramming(minimize="flops", search_outer=True)
    path, _ = opt_einsum.contract_path(
        ",".join(inputs) + "->" + output,
        *[tuple(sizes[c] for c in letters_of) for letters_of in inputs],
        shapes=True,
        optimize=optimizer,
    )
    stack: list[Shape | None] = [*range(count)] + [None] * (len(inputs) - count)
    for positions in path:
        taken = [stack.pop(i) for i in sorted(positions, reverse=True)]
        real = [shape for shape in reversed(taken) if shape is not None]
        joined: Shape | None = real[0] if real else None
        for shape in real[1:]:
            joined = (joined, shape)
        stack.append(joined)
    (result,) = stack
    if result is None:
        raise InternalError("opt_einsum returned an empty path")
    return result
