"""Arrays that have no values: shapes, and how far apart in memory their values lie.

In: shapes, and the views that torch takes of them. Out: arrays, and `Copy`s where no
view will do, by torch's own rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

RUN = 8
"""Values that lie together and are copied as fast as more of them."""


@dataclass(frozen=True)
class Copy:
    """So many elements written anew.

    Until the value beside the first one is read, `rows` of them are, `columns` values
    apart or more; both are 1 where values that lie together are copied together.
    """

    elements: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Strided:
    """An array; equal to itself alone, so that it can have a gradient.

    >>> x = Strided.contiguous(2, 3, 4).permute((0, 2, 1))
    >>> x.shape, x.strides
    ((2, 4, 3), (12, 1, 4))
    >>> x.view((8, 3)) is None
    True
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def contiguous(cls, *shape: int) -> Strided:
        after = tuple(accumulate(reversed(shape[1:]), mul, initial=1))
        return cls(shape, after[::-1] if shape else ())

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def permute(self, order: Sequence[int]) -> Strided:
        return Strided(
            tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order)
        )

    @property
    def transposed(self) -> Strided:
        """The last two dimensions in turn."""
        *first, row, column = range(len(self.shape))
        return self.permute((*first, column, row))

    def view(self, shape: Sequence[int]) -> Strided | None:
        """In another shape, one size of which may be -1; None where that is no view."""
        known = math.prod(size for size in shape if size != -1)
        wanted = tuple(self.size // known if size == -1 else size for size in shape)
        strides: list[int] = []
        blocks = [*self._blocks()]
        left, stride = blocks.pop() if blocks else (1, 1)
        for size in reversed(wanted):
            if left == 1 and size > 1:
                left, stride = blocks.pop()
            if left % size:
                return None
            strides.append(stride)
            left, stride = left // size, stride * size
        return Strided(wanted, tuple(reversed(strides)))

    def _blocks(self) -> list[tuple[int, int]]:
        """Sizes above 1 with their strides, those that lie as one put together."""
        found: list[tuple[int, int]] = []
        for size, stride in zip(self.shape, self.strides, strict=True):
            if size == 1:
                continue
            if found and found[-1][1] == size * stride:
                found[-1] = found[-1][0] * size, stride
            else:
                found.append((size, stride))
        return found

    def copy(self) -> Copy:
        """What it is to write it anew, its last dimension the fastest."""
        inner = self._blocks()[::-1]
        if inner and inner[0][1] <= 1:
            inner = inner[1:] if inner[0][0] < RUN else []
        strides = [stride for _, stride in inner]
        nearest = strides.index(min(strides)) if strides else 0
        if nearest == 0:
            return Copy(self.size, 1, 1)
        rows = math.prod(size for size, _ in inner[:nearest])
        return Copy(self.size, rows, min(strides[:nearest]))
