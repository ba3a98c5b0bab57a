"""Which structures are a chain of products of x with one weight each.

In: a `Profile`. Out: a `Chain`, or None. How the products are lowered is in
`looped` for float32, and in `matrices` for bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from einc.analysis.profile import Profile
from einc.codegen.layout import Dim, Layouts
from einc.plan import Contraction, Leaf
from einc.sizes import Binding
from einc.structure import Axis

Axes = tuple[Axis, ...]
Sizes = Mapping[Dim, int]


@dataclass(frozen=True)
class Chain:
    """`tensors` are x, what is between the products, and y: one more than `weights`.

    They and `holds`, the axes of the weights, are without those of size 1.
    """

    binding: Binding
    weights: tuple[Leaf, ...]
    holds: tuple[Axes, ...]
    tensors: tuple[Axes, ...]

    @property
    def sizes(self) -> Sizes:
        """Of all axes."""
        every = {axis for axes in (*self.tensors, *self.holds) for axis in axes}
        return {axis: self.binding.size(axis) for axis in every}

    @property
    def counts(self) -> list[int]:
        """The values of each weight."""
        return [math.prod(self.binding.shape(axes)) for axes in self.holds]

    def features(self, i: int) -> int:
        """The values of a tensor for a token."""
        return math.prod(self.binding.shape(self.tensors[i]))


def native_chain(profile: Profile) -> Chain | None:
    """The products of a structure, or None where it is no chain of at least two."""
    spine = _spine(profile)
    if spine is None:
        return None
    assert profile.figures is not None
    binding = profile.figures.binding
    weights, tensors = spine
    big = Layouts(binding).big
    holds = tuple(big(weight.axes) for weight in weights)
    if not all(holds):
        return None
    return Chain(binding, tuple(weights), holds, tuple(map(big, tensors)))


def _spine(profile: Profile) -> tuple[list[Leaf], list[Axes]] | None:
    """The weights in the order in which x meets them, and x, what is between, and y."""
    plan, figures = profile.plan, profile.figures
    if figures is None or figures.binding.top is not None or len(plan.terms) > 1:
        return None
    (term,) = plan.terms
    weights: list[Leaf] = []
    node, tensors = term.root, [term.network.term.output]
    while isinstance(node, Contraction):
        node, weight = node.x_first
        if not isinstance(weight, Leaf) or weight.private:
            return None
        weights.append(weight)
        tensors.append(node.kept)
    if not node.holds_x or node.private or len(weights) < 2:
        return None
    if len({weight.name for weight in weights}) < len(weights):
        return None
    tensors[-1] = term.network.term.input
    return weights[::-1], tensors[::-1]


def strides(axes: Axes, sizes: Sizes, step: int) -> tuple[dict[Dim, int], int]:
    """Of axes whose entries are at least `step` values apart, and of what is around."""
    found: dict[Dim, int] = {}
    for axis in reversed(axes):
        found[axis] = step
        step *= sizes[axis]
    return dict(reversed(found.items())), step
