"""How the products of a chain are products of matrices, and how what they take lies.

In: a `Chain`. Out: `InMatrices`. For each token and value of the `kept` axes, a product
has a row in each of the `batch` axes' matrices: of `taken` axes, which it sums over, into
`given` ones. So each tensor between two products has two forms: as the one writes it and
as the other reads it. Where these differ, it is reordered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from einc.codegen.layout import TOKENS
from einc.codegen.native.chain import Axes, Chain, Sizes, strides
from einc.codegen.native.loops import Strides
from einc.errors import InternalError

DEEPEST = 32
"""Values that the matrix unit sums over at a time."""

LONG = 512
PADDING = 32
"""Values that follow a long row: at powers of two the same columns of many rows would
fall into the same few places of a cache. x and the gradient of y are copied for that.
"""


@dataclass(frozen=True)
class Roles:
    """What the axes of one product are to it, in one direction through the chain."""

    kept: Axes
    batch: Axes
    taken: Axes
    given: Axes

    @property
    def turned(self) -> Roles:
        """As the other direction has them."""
        return Roles(self.kept, self.batch, self.given, self.taken)


@dataclass(frozen=True)
class Way:
    """One direction through the chain: how its ends lie, and what products read and write.

    `written` are x or the gradient of y, and what each product writes; `read` what each
    product reads, and the end.
    """

    written: tuple[Strides, ...]
    read: tuple[Strides, ...]


@dataclass(frozen=True)
class InMatrices:
    """`roles` are those of the forward way; `back` has the last product first."""

    roles: tuple[Roles, ...]
    forward: Way
    back: Way

    def of_tokens(self, sizes: Sizes) -> list[int]:
        """The values of one matrix of each product of which tokens alone are the rows."""
        return [
            extent((*one.taken, *one.given), sizes)
            for one in self.roles
            if not one.kept
        ]


def in_matrices(chain: Chain) -> InMatrices:
    """Its products as matrices."""
    x, *between, y = chain.tensors
    # Between two products axes lie as the weights have them.
    taken = [x, *chain.holds[1:]]
    given = [*chain.holds[:-1], y]
    order, roles = x, []
    for i, (held, result) in enumerate(zip(chain.holds, (*between, y), strict=True)):
        one = Roles(
            kept=tuple(a for a in order if a in result and a not in held),
            batch=tuple(a for a in order if a in result and a in held),
            taken=tuple(a for a in taken[i] if a in order and a not in result),
            given=tuple(a for a in given[i] if a in result and a not in order),
        )
        if {*held} != {*one.batch, *one.taken, *one.given}:
            raise InternalError(f"a product that sums over one side of {held} alone")
        roles.append(one)
        order = (*one.kept, *one.batch, *one.given)
    back = [one.turned for one in reversed(roles)]
    sizes = chain.sizes
    return InMatrices(tuple(roles), _way(x, roles, y, sizes), _way(y, back, x, sizes))


def _way(first: Axes, roles: Sequence[Roles], last: Axes, sizes: Sizes) -> Way:
    read = [_form(one, one.taken, sizes) for one in roles]
    written = [_form(one, one.given, sizes) for one in roles]
    begin, end = _lies(first, sizes), _lies(last, sizes)
    if list(written[-1]) == list(end):
        written[-1] = end  # what is only written needs no padding
    return Way((begin, *written), (*read, end))


def _form(roles: Roles, inner: Axes, sizes: Sizes) -> Strides:
    """Tokens, kept axes, the batch, and rows that are as long as products read them."""
    inside, _ = strides(inner, sizes, 1)
    batch, row = strides(roles.batch, sizes, padded(extent(inner, sizes)))
    kept, token = strides(roles.kept, sizes, row + PADDING * (row >= LONG))
    return {TOKENS: token, **kept, **batch, **inside}


def _lies(axes: Axes, sizes: Sizes) -> Strides:
    """A tensor without gaps."""
    own, token = strides(axes, sizes, 1)
    return {TOKENS: token, **own}


def extent(axes: Axes, sizes: Sizes) -> int:
    return math.prod(sizes[axis] for axis in axes)


def steps_of(depth: int) -> tuple[int, int]:
    """How many steps a sum over so many values takes, and an even number of each."""
    steps = -(-depth // DEEPEST)
    step = -(-depth // steps)
    return steps, step + step % 2


def padded(depth: int) -> int:
    """The values of all steps: those behind the sum's are 0."""
    steps, step = steps_of(depth)
    return steps * step
