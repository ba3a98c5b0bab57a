"""How the products of a chain are loops, and how what is between them lies.

In: a `Chain`. Out: `Looped`. Each product is lowered to loops three times: forward, for
the gradient of what it takes, and for that of its weight. The tensors between two
products are a kernel's own: they lie as is best for the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from einc.codegen.layout import TOKENS
from einc.codegen.native.chain import Axes, Chain, Sizes, strides
from einc.codegen.native.loops import Loops, Strides, best_loops
from einc.plan import Leaf

MOST_PERMUTED = 4
"""Axes that are put in every order; of more each is the fastest once."""

PADDING = 16
"""Values between the tokens of what is read: at powers of two they would all fall into
the same few places of a cache. x and the gradient of y are copied for that.
"""


@dataclass(frozen=True)
class Side:
    """A tensor of tokens: its axes, slowest first, and the values from token to token.

    Of those `padding` are nothing of the tensor's.
    """

    axes: Axes
    row: int
    padding: int
    strides: Strides


@dataclass(frozen=True)
class Product:
    """One product of the chain, as loops: forward, backward and for its weight.

    `axes` are the weight's of size above 1, and `size` is what they multiply to. The left
    operands are what the product takes, the gradient of its result, and for the weight
    one of the two: what it takes, unless `turned`.
    """

    weight: Leaf
    axes: Axes
    size: int
    forward: Loops
    backward: Loops
    gradient: Loops
    turned: bool


@dataclass(frozen=True)
class Looped:
    """`sides` are x, what is between the products, and y; `back` those of gradients."""

    products: tuple[Product, ...]
    sides: tuple[Side, ...]
    back: tuple[Side, ...]


def looped(chain: Chain) -> Looped:
    """Its products as loops."""
    holds, sizes = chain.holds, chain.sizes
    sides, forward = _lowered(chain.tensors, holds, sizes)
    back, backward = _lowered(chain.tensors[::-1], holds[::-1], sizes)
    back, backward = back[::-1], backward[::-1]
    products = []
    for i, weight in enumerate(chain.weights):
        taken, given = sides[i].strides, back[i + 1].strides
        either = [
            best_loops((taken, given, None), holds[i], sizes),
            best_loops((given, taken, None), holds[i], sizes),
        ]
        turned = either[1].cost < either[0].cost
        products.append(
            Product(
                weight,
                holds[i],
                chain.counts[i],
                forward[i],
                backward[i],
                either[turned],
                turned,
            )
        )
    return Looped(tuple(products), tuple(sides), tuple(back))


def _lowered(
    tensors: Sequence[Axes], holds: Sequence[Axes], sizes: Sizes
) -> tuple[list[Side], list[Loops]]:
    """The layouts between the products whose loops together cost the least.

    Found from product to product: for each layout of a result the best way there.
    """
    last = len(tensors) - 1
    first = _side(tensors[0], sizes, PADDING)
    ways: list[tuple[float, list[Side], list[Loops]]] = [(0.0, [first], [])]
    for i, axes in enumerate(tensors[1:]):
        inner = i + 1 < last
        orders = _orders(axes) if inner else [axes]
        found = []
        for order in orders:
            side = _side(order, sizes, PADDING * inner)
            reached = []
            for cost, sides, loops in ways:
                step = best_loops(
                    (sides[-1].strides, None, side.strides), holds[i], sizes
                )
                reached.append((cost + step.cost, [*sides, side], [*loops, step]))
            found.append(min(reached, key=lambda way: way[0]))
        ways = found
    _, sides, loops = min(ways, key=lambda way: way[0])
    return sides, loops


def _orders(axes: Axes) -> Iterator[Axes]:
    if len(axes) <= MOST_PERMUTED:
        yield from permutations(axes)
        return
    for axis in axes:
        yield (*(other for other in axes if other != axis), axis)


def _side(axes: Axes, sizes: Sizes, padding: int) -> Side:
    own, step = strides(axes, sizes, 1)
    row = step + padding
    return Side(axes, row, padding, {TOKENS: row, **own})
