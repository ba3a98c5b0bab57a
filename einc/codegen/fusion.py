"""Which structures are two contractions that one kernel computes.

In: a `Profile`. Out: a `Fused`, or None. The two are

    z[g, f, r] = x[g, a] * A[g, a, f, r]
    y[f, e] = z[g, f, r] * B[f, g, r, e]

as in Monarch and Block Tensor-Train. Known are they by which tensors have an index, not
by names; each of the five may be several indices, or none. What the kernel is, is
nothing to this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain

from einc.analysis.profile import Profile
from einc.codegen.layout import TOKENS, Layouts, Tensor, layout_text
from einc.codegen.nodes import Assign, Cut, Fused, Local, Pad, Value
from einc.codegen.tiles import Blocks, Sizes
from einc.plan import Contraction, Leaf, TermPlan
from einc.structure import Axis

PLACES = {
    frozenset("xA"): "a",
    frozenset("xAB"): "g",
    frozenset("ABy"): "f",
    frozenset("AB"): "r",
    frozenset("By"): "e",
}
"""What an index is, by the tensors that have it."""

ITEMSIZES = (2, 4)
"""Bytes of a value: float16 and bfloat16, and float32."""


def fused(profile: Profile) -> Fused | None:
    """The two contractions of a structure, or None where it is something else.

    A bottleneck alone (neither g nor f) is left to matrix products, and so are sizes
    that are too large for the kernel.
    """
    factors = _two_factors(profile)
    if factors is None:
        return None
    assert profile.figures is not None
    binding = profile.figures.binding
    layouts = Layouts(binding)
    axes = _places(layouts, profile.plan.terms[0], *factors)
    if axes is None:
        return None
    g, a, f, r, e = (math.prod(binding.shape(axes[place])) for place in "gafre")
    if min(a, e, g * f) == 1:
        return None
    blocks = _blocks(Sizes(g, a, f, r, e), profile.plan.tokens or 1)
    return _call(layouts, axes, factors, blocks) if blocks else None


def _two_factors(profile: Profile) -> tuple[Leaf, Leaf] | None:
    """The factors in the order in which x meets them, if there are two and no more."""
    plan, figures = profile.plan, profile.figures
    if figures is None or figures.binding.top is not None or len(plan.terms) > 1:
        return None
    root = plan.terms[0].root
    if not isinstance(root, Contraction):
        return None
    inner, second = root.x_first
    if not isinstance(inner, Contraction) or not isinstance(second, Leaf):
        return None
    x, first = inner.x_first
    if not isinstance(x, Leaf) or not isinstance(first, Leaf) or not x.holds_x:
        return None
    return (first, second) if first.name != second.name else None


def _places(
    layouts: Layouts, term: TermPlan, first: Leaf, second: Leaf
) -> dict[str, tuple[Axis, ...]] | None:
    """The axes that are g, a, f, r and e; None where one is none of these."""
    x, y = term.network.term.sides
    tensors = {"x": x, "y": y, "A": first.axes, "B": second.axes}
    found: dict[str, tuple[Axis, ...]] = {place: () for place in "gafre"}
    for axis in layouts.big(dict.fromkeys(chain(*tensors.values()))):
        holders = frozenset(name for name, axes in tensors.items() if axis in axes)
        if holders not in PLACES:
            return None
        found[PLACES[holders]] += (axis,)
    return found


def _blocks(sizes: Sizes, tokens: int) -> dict[int, tuple[Blocks, Blocks]]:
    """By bytes of a value, forward and backward, where there are any."""
    found = {}
    for itemsize in ITEMSIZES:
        forward = sizes.blocks(tokens, itemsize)
        backward = sizes.transposed.blocks(tokens, itemsize)
        if forward and backward:
            found[itemsize] = forward, backward
    return found


def _call(
    layouts: Layouts,
    axes: Mapping[str, tuple[Axis, ...]],
    factors: tuple[Leaf, Leaf],
    blocks: Mapping[int, tuple[Blocks, Blocks]],
) -> Fused:
    """The views that the kernel takes of x and the weights, and that of its result."""
    binding = layouts.binding
    padded_in, padded_out = binding.padded[0]
    (term,) = binding.structure.terms
    g, a, f, r, e = (axes[place] for place in "gafre")
    x: Value = Local("x")
    if padded_in != binding.d_in:
        x = Pad(x, padded_in - binding.d_in)
    rows = Tensor(x, ((TOKENS,), layouts.big(term.input)))
    first, second = (layouts.factor(factor) for factor in factors)
    y = Tensor(Local("y"), ((TOKENS,), f, e))
    result = layouts.regroup(y, ((TOKENS,), layouts.big(term.output))).value
    return Fused(
        equation=binding.structure.equations[0],
        weights=(first.value, second.value),
        arguments=tuple(
            Assign(name, layouts.regroup(tensor, groups).value, layout_text(groups))
            for name, tensor, groups in (
                ("x", rows, ((TOKENS,), g, a)),
                (factors[0].name, first, (g, a, f, r)),
                (factors[1].name, second, (f, g, r, e)),
            )
        ),
        layout=layout_text(y.groups),
        result=result if padded_out == binding.d_out else Cut(result, binding.d_out),
        blocks=blocks,
    )
