"""The plan: for each term a contraction tree over x and its factors, in axes.

In: a `Structure` (for orders by exponents) or a `Binding` with the tokens planned
for. Out: a `Plan`, kept in axes, so that its costs can be written as formulas or
evaluated. The trees are found in `order`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from einc.errors import InternalError
from einc.network import Network
from einc.order import (
    Costs,
    Order,
    Shape,
    best_tree,
    chain,
    least_exponent_order,
    opt_einsum_tree,
)
from einc.sizes import Binding
from einc.structure import Axis, Structure, Term

MOST_SHARED, MOST_TENSORS = 6, 7
"""Products that the terms of a sum may share, and tensors of a term, up to which all that
can be shared is tried."""


@dataclass(frozen=True)
class Leaf:
    """x (tensor 0) or an operand (tensor i + 1); `axes` as written.

    `kept` are the axes left after those in nothing else have been summed.
    """

    tensor: int
    name: str
    axes: tuple[Axis, ...]
    kept: tuple[Axis, ...]

    @cached_property
    def key(self) -> Key:
        """Equal for equal tensors, in whatever term they stand."""
        return (self.name, _names(self.axes), _names(self.kept))

    @property
    def holds_x(self) -> bool:
        return self.tensor == 0

    @property
    def private(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a not in self.kept)


@dataclass(frozen=True)
class Contraction:
    """The product of two nodes, summed over the axes that nothing else has."""

    name: str
    left: Node
    right: Node
    kept: tuple[Axis, ...]
    touched: tuple[Axis, ...]

    @cached_property
    def key(self) -> Key:
        """Equal for equal products, in whatever term and order they stand."""
        leaves = [n.key for n in _postorder(self) if isinstance(n, Leaf)]
        return product_key(leaves, self.kept)

    @property
    def holds_x(self) -> bool:
        return self.left.holds_x or self.right.holds_x

    @property
    def summed(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.touched if a not in self.kept)

    @property
    def x_first(self) -> tuple[Node, Node]:
        """The two nodes, the one that holds x before the other, if one does."""
        return (
            (self.right, self.left) if self.right.holds_x else (self.left, self.right)
        )


Node = Leaf | Contraction
Key = tuple[Any, ...]


def product_key(leaves: Iterable[Key], kept: Iterable[Axis]) -> Key:
    """What a product of tensors is, whatever the order in which they were joined."""
    return (tuple(sorted(leaves)), tuple(sorted(_names(kept))))


def _names(axes: Iterable[Axis]) -> tuple[str, ...]:
    return tuple(axis.name for axis in axes)


@dataclass(frozen=True)
class TermPlan:
    """The tree of one term; `steps` are its contractions in order of execution."""

    network: Network
    root: Node

    @cached_property
    def steps(self) -> tuple[Contraction, ...]:
        return tuple(n for n in _postorder(self.root) if isinstance(n, Contraction))

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(n for n in _postorder(self.root) if isinstance(n, Leaf))

    @cached_property
    def expert_steps(self) -> tuple[Contraction, ...]:
        """What each expert computes for its tokens, in order; without a route, nothing.

        From the contraction in which x meets the first tensor with the routed index
        to that in which it meets the last, where the gated sum over experts is.
        """
        spine: list[Contraction] = []
        node = self.root
        while isinstance(node, Contraction):
            spine.append(node)
            node = node.x_first[0]
        spine.reverse()
        routed = [
            i
            for i, step in enumerate(spine)
            if any(a.name == self.network.routed for a in step.x_first[1].kept)
        ]
        return tuple(spine[routed[0] : routed[-1] + 1]) if routed else ()


@dataclass(frozen=True)
class Plan:
    """Trees for all terms. `tokens` is None where the order is by exponents."""

    kind: Order
    tokens: int | None
    terms: tuple[TermPlan, ...]

    @cached_property
    def steps(self) -> tuple[tuple[TermPlan, Contraction], ...]:
        """What is computed, with its term: what two terms share stands once."""
        nodes = self._nodes
        return tuple((t, n) for t, n in nodes if isinstance(n, Contraction))

    @cached_property
    def leaves(self) -> tuple[tuple[TermPlan, Leaf], ...]:
        """The tensors that are read, with their terms, each once."""
        return tuple((t, n) for t, n in self._nodes if isinstance(n, Leaf))

    @cached_property
    def _nodes(self) -> tuple[tuple[TermPlan, Node], ...]:
        first: dict[Key, tuple[TermPlan, Node]] = {}

        def visit(term: TermPlan, node: Node) -> None:
            # What experts compute on the way to their result is never shared.
            open_experts = node in term.expert_steps[:-1]
            key = (self.terms.index(term), node.key) if open_experts else node.key
            if key in first:
                return
            if isinstance(node, Contraction):
                visit(term, node.left)
                visit(term, node.right)
            first[key] = (term, node)

        for term in self.terms:
            visit(term, term.root)
        return tuple(first.values())


def _postorder(node: Node) -> Iterator[Node]:
    if isinstance(node, Contraction):
        yield from _postorder(node.left)
        yield from _postorder(node.right)
    yield node


def verify(plan: Plan) -> None:
    """Raises `InternalError` unless each tree joins every tensor exactly once."""
    for term in plan.terms:
        tensors = sorted(leaf.tensor for leaf in term.leaves)
        if tensors != list(range(len(term.network.tensors))):
            raise InternalError(f"a plan over tensors {tensors}")
        if term.network.mask(term.root.kept) != term.network.output:
            raise InternalError("a plan that does not end in y")


def plan(binding: Binding, tokens: int, order: Order = "best") -> Plan:
    """The plan of `binding` for `tokens` tokens a call, every tensor trained."""
    networks = [binding.network(term) for term in binding.structure.terms]
    costs = [Costs.of(binding, network, tokens) for network in networks]
    both = list(zip(networks, costs, strict=True))
    if order == "best":
        shapes = _best_trees(both) if len(both) == 1 else _best_of_sums(both)
    elif order == "given":
        shapes = [chain(range(1, len(network.tensors))) for network in networks]
    else:
        shapes = [opt_einsum_tree(network, costs, order) for network, costs in both]
    result = _dressed(order, networks, shapes, tokens)
    verify(result)
    return result


def _dressed(
    order: Order, networks: Sequence[Network], shapes: Sequence[Shape], tokens: int
) -> Plan:
    names = _Names([network.term for network in networks])
    pairs = zip(networks, shapes, strict=True)
    terms = tuple(term_plan(network, shape, names) for network, shape in pairs)
    return Plan(order, tokens, terms)


# Sums


def _best_trees(
    terms: Sequence[tuple[Network, Costs]], shared: Set[Key] | None = None
) -> list[Shape]:
    """The best tree of each term where the products `shared` cost nothing.

    With None they are those of the terms before.
    """
    known = set[Key]() if shared is None else shared
    shapes = []
    for network, costs in terms:
        sets = frozenset(_sets_of(network, known).values())
        shapes.append(best_tree(network, replace(costs, known=sets)))
        if shared is None:
            planned = term_plan(network, shapes[-1])
            experts = planned.expert_steps[:-1]
            known |= {step.key for step in planned.steps if step not in experts}
    return shapes


def _best_of_sums(terms: Sequence[tuple[Network, Costs]]) -> list[Shape]:
    """Trees that together take the fewest multiply-adds: what terms share counts once.

    Whatever the best ones share, each of them is the best one where that costs nothing:
    so all that terms can share is tried, if it is `MOST_SHARED` products at most.
    """
    networks = [network for network, _ in terms]

    def total(shapes: Sequence[Shape]) -> int:
        plan = _dressed("best", networks, shapes, terms[0][1].tokens)
        costs = {network.term: costs for network, costs in terms}
        return sum(
            costs[term.network.term].elements(
                term.network.mask(step.touched), step.holds_x
            )
            for term, step in plan.steps
        )

    found = [_best_trees(terms)]
    routed = any(network.routed is not None for network in networks)
    if not routed and all(len(n.tensors) <= MOST_TENSORS for n in networks):
        products = Counter(key for n in networks for key in _sets_of(n))
        shared = [key for key, count in products.items() if count > 1]
        if len(shared) <= MOST_SHARED:
            found += [
                _best_trees(terms, set(chosen))
                for count in range(len(shared) + 1)
                for chosen in combinations(shared, count)
            ]
    return min(found, key=total)


def _sets_of(network: Network, keys: Set[Key] | None = None) -> dict[Key, int]:
    """The products of two tensors and more of a term that `keys` have, or all of them."""
    if keys is not None and not keys:
        return {}
    leaves = [_leaf(network, i).key for i in range(len(network.tensors))]
    found = {}
    for subset in range(1, network.everything + 1):
        if subset & (subset - 1):
            held = (leaf for i, leaf in enumerate(leaves) if subset >> i & 1)
            key = product_key(held, network.members(network.kept(subset)))
            if keys is None or key in keys:
                found[key] = subset
    return found


def plan_by_exponents(structure: Structure, order: Order = "best") -> Plan:
    """The plan without features: by the exponents of x-first orders, or as written."""
    terms, names = [], _Names(structure.terms)
    for term in structure.terms:
        network = Network(term, structure.routed)
        sequence: Sequence[int] = range(1, len(network.tensors))
        if order == "best" and structure.grows:
            sequence = least_exponent_order(structure, network)[1]
        terms.append(term_plan(network, chain(sequence), names))
    result = Plan(order, None, tuple(terms))
    verify(result)
    return result


def _leaf(network: Network, tensor: int) -> Leaf:
    """Tensor number `tensor` of a term, in its axes."""
    operands = network.term.operands
    axes = network.term.input if tensor == 0 else operands[tensor - 1].axes
    private = network.members(network.private(tensor))
    kept = tuple(a for a in axes if a not in private)
    name = "x" if tensor == 0 else operands[tensor - 1].name
    return Leaf(tensor, name, axes, kept)


class _Names:
    """Names for what is computed: z, or z1, z2, ...; y, or y1, y2, ... for terms."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.taken = {operand.name for term in terms for operand in term.operands}
        counts = [len(term.operands) for term in terms]
        self.single = sum(max(0, n - 1) for n in counts) == 1
        self.sum = len(counts) > 1
        self.known: dict[Key, str] = {}

    def of(self, key: Key, is_root: bool) -> str:
        """The name of a product; one that was named before keeps its name."""
        if key not in self.known:
            self.known[key] = self._new(is_root)
        return self.known[key]

    def _new(self, is_root: bool) -> str:
        letter, alone = ("y", not self.sum) if is_root else ("z", self.single)
        used = self.taken | set(self.known.values())
        if alone and letter not in used:
            return letter
        numbered = (f"{letter}{i}" for i in range(1, len(used) + 2))
        return next(name for name in numbered if name not in used)


def term_plan(network: Network, shape: Shape, names: _Names | None = None) -> TermPlan:
    """Dresses a tree of tensor numbers in axes and names."""
    names = names or _Names([network.term])

    def build(shape: Shape) -> tuple[Node, int]:
        if isinstance(shape, int):
            return _leaf(network, shape), 1 << shape
        left, in_left = build(shape[0])
        right, in_right = build(shape[1])
        joined = in_left | in_right
        kept = network.members(network.kept(joined))
        touched = network.members(network.touched(in_left, in_right))
        unnamed = Contraction("", left, right, kept, touched)
        name = names.of(unnamed.key, joined == network.everything)
        return replace(unnamed, name=name), joined

    return TermPlan(network, build(shape)[0])
