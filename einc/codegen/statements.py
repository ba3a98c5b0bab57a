"""What the statements of a forward and of a backward have in common.

In: tensors in layouts. Out: the operands of matrix products, and what the copies on the
way cost. Which products there are, and how they are named, is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from einc.codegen.choices import Dtype
from einc.codegen.layout import (
    TOKENS,
    Copy,
    Dim,
    Groups,
    Layouts,
    Operands,
    Tensor,
    dims_of,
)
from einc.codegen.nodes import (
    Attribute,
    Contiguous,
    Local,
    Value,
    View,
)
from einc.errors import InternalError

RUN = 16
"""Values that lie together and are copied as one."""
SHORT_RUNS = 8.0
"""Times as long takes a copy of shorter runs: they go at 1 to 4 GB/s where long ones go
at 26 to 37, on the CPU that this was measured on."""

EXPANDED: dict[Dtype, float] = {"float32": 0.25, "bfloat16": 0.5}
"""What many small products take beside a large one, for each value that they read or write,
in copies of it in long runs."""
LEAST_COLUMNS, NARROW = 8, 16.0
"""Columns from which on small products are considered; and times as long they take with
fewer than `RUN`."""

Dims = tuple[Dim, ...]
Orientation = Literal["plain", "turned", "expanded"]
"""How data meet a weight: as data x weight, as weight x data, or as weight x each of the
data's matrices, as they lie."""


@dataclass(frozen=True)
class _Way:
    """A layout for an operand: whether views lead to it that are read, and the cost."""

    groups: Groups
    is_read: bool
    cost: float


class Statements:
    """Statements over tensors at the sizes of a binding, for so many tokens a call."""

    def __init__(self, layouts: Layouts, tokens: int, dtype: Dtype) -> None:
        self.binding = layouts.binding
        self.tokens = tokens
        self.dtype = dtype
        self.layouts = layouts
        self.copies: list[Copy] = []
        self.slower = 0.0
        self.expands = False

    @property
    def cost(self) -> float:
        """What the layouts of a call cost, in values that are copied in long runs.

        That is what copies cost, and products that are slower than others of as many FLOPs.
        """
        return self.slower + sum(map(self._cost_of, self.copies))

    def _cost_of(self, copy: Copy) -> float:
        dims = dims_of(copy.groups)
        run = self._size(dims[len(dims) - copy.kept :])
        return self._size(dims) * (1.0 if run >= RUN else SHORT_RUNS)

    def matrix(
        self,
        left: Tensor,
        right: Tensor,
        batch: Groups,
        rows: Dims,
        summed: Dims,
        columns: Dims,
    ) -> Operands:
        """(batch, rows, summed) times (batch, summed, columns); `batch` has one or none."""
        kind: Literal["matmul", "bmm"] = "bmm" if batch else "matmul"
        if TOKENS in columns and self._size(columns) < LEAST_COLUMNS:
            # A weight that is read for few columns, against its rows.
            self.slower += self._size(dims_of((*batch, rows, summed)))
        first = self.operand(left, (*batch, rows, summed))
        second = self.operand(right, (*batch, summed, columns))
        return Operands(kind, first, second, (*batch, rows, columns))

    def oriented_matrix(
        self,
        orientation: Orientation,
        data: Tensor,
        weight: Tensor,
        batch: Groups,
        rows: Dims,
        summed: Dims,
        columns: Dims,
    ) -> Operands:
        """Data (batch, rows, summed) and a weight (batch, summed, columns).

        "plain" where the data do not lie as "expanded" has them.
        """
        if orientation == "turned":
            return self.matrix(weight, data, batch, columns, summed, rows)
        if orientation == "expanded" and not batch:
            operands = self._expanded(data, weight, summed, columns)
            if operands is not None:
                return operands
        return self.matrix(data, weight, batch, rows, summed, columns)

    def _expanded(
        self, data: Tensor, weight: Tensor, summed: Dims, columns: Dims
    ) -> Operands | None:
        """A weight (columns, summed) with each of the data's matrices, without a copy."""
        if not summed:
            return None
        lies = data.lies
        first = min(map(lies.index, summed))
        last = first + len(summed)
        before, between, after = lies[:first], lies[first:last], lies[last:]
        width = self._size(after)
        if set(between) != set(summed) or not before or width < LEAST_COLUMNS:
            return None
        wider = max(self._size(columns), self._size(summed))
        values = self._size(before) * wider * width
        slow = 1.0 if width >= RUN else NARROW
        self.slower += values * slow * EXPANDED[self.dtype]
        self.expands = True
        matrix = self.operand(weight, (columns, between))
        batch = self.operand(data, (before, between, after))
        return Operands("expanded", matrix, batch, (before, columns, after))

    def operand(self, tensor: Tensor, groups: Groups) -> Tensor:
        """As an operand of a matrix product, copied if that would not read it as it is.

        torch would copy each matrix of a batch by itself. A copy of the transposed one
        serves as well: the one in longer runs is made.
        """
        *batch, rows, columns = groups
        ways = [self._way(tensor, g) for g in (groups, (*batch, columns, rows))]
        way = min(ways, key=lambda way: way.cost)
        if way.is_read:
            found = self.regroup(tensor, way.groups)
        else:
            found = self.copy(tensor, way.groups)
        return self.regroup(found, groups)

    def regroup(self, tensor: Tensor, groups: Groups) -> Tensor:
        """The same tensor in another layout, and what it takes to `copies`."""
        path = self.layouts.path(tensor, groups)
        self.copies += path.copies
        return path.of(tensor)

    def _way(self, tensor: Tensor, groups: Groups) -> _Way:
        """What it costs to have a tensor as an operand in a layout.

        A product reads matrices of which one dimension is contiguous; in bfloat16 on a
        CPU batches without gaps, of matrices or of transposed ones.
        """
        path = self.layouts.path(tensor, groups)
        lies, cost = path.end.lies, sum(map(self._cost_of, path.copies))
        *batch, rows, columns = groups
        if self.dtype == "float32":
            is_read = lies[-1:] in (rows[-1:], columns[-1:])
        else:
            turned = dims_of((*batch, columns, rows))
            is_read = lies in (dims_of(groups), turned)
        if not is_read:
            cost += self._cost_of(Copy.of(lies, groups))
        return _Way(groups, is_read, cost)

    def copy(self, tensor: Tensor, groups: Groups) -> Tensor:
        """In a layout, as a tensor of its own."""
        found = self.regroup(tensor, groups)
        self.copies.append(Copy.of(found.lies, groups))
        return Tensor(Contiguous(found.value), groups)

    def _size(self, dims: Iterable[Dim]) -> int:
        return math.prod(
            self.tokens if dim is TOKENS else self.binding.size(dim) for dim in dims
        )


def root_of(value: Value) -> Local | Attribute:
    """What a chain of views starts from."""
    while not isinstance(value, Local | Attribute):
        if not isinstance(value, View):
            raise InternalError("a product without a name")
        value = value.value
    return value


def fresh(letter: str, used: Iterable[str]) -> str:
    """`letter` with the least number that makes it a name that is not `used`."""
    taken = set(used)
    numbers = range(1, len(taken) + 2)
    return next(name for i in numbers if (name := f"{letter}{i}") not in taken)
