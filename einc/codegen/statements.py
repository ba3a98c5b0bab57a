"""What the statements of a forward and of a backward have in common.

In: tensors in layouts. Out: the operands of matrix products, and what the copies on the
way cost. Which products there are, and how they are named, is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from einc.codegen.layout import (
    TOKENS,
    Copy,
    Dim,
    Groups,
    Layouts,
    Operands,
    Tensor,
)
from einc.codegen.nodes import Attribute, Local, Value, View
from einc.errors import InternalError
from einc.sizes import Binding

Dtype = Literal["float32", "bfloat16"]
RUN = 16
"""Values that lie together and are copied as one."""
SHORT_RUNS = 8.0
"""Times as long takes a copy of shorter runs: they go at 1 to 4 GB/s where long ones go
at 26 to 37, on the CPU that this was measured on."""

Dims = tuple[Dim, ...]


class Statements:
    """Statements over tensors at the sizes of a binding, for so many tokens a call."""

    def __init__(self, binding: Binding, tokens: int, dtype: Dtype) -> None:
        self.binding = binding
        self.tokens = tokens
        self.dtype = dtype
        self.layouts = Layouts(binding)

    @property
    def cost(self) -> float:
        """What the copies of a call cost, in values that are copied in long runs."""
        return sum(self._cost_of(copy) for copy in self.layouts.copies)

    @property
    def cost_of_weights(self) -> float:
        """The part of `cost` that is paid whatever the tokens are."""
        copies = self.layouts.copies
        return sum(
            self._cost_of(copy)
            for copy in copies
            if all(TOKENS not in group for group in copy.groups)
        )

    def _cost_of(self, copy: Copy) -> float:
        sizes = [
            self.tokens if dim is TOKENS else self.binding.size(dim)
            for group in copy.groups
            for dim in group
        ]
        run = math.prod(sizes[len(sizes) - copy.kept :])
        return math.prod(sizes) * (1.0 if run >= RUN else SHORT_RUNS)

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
        first = self.operand(left, (*batch, rows, summed))
        second = self.operand(right, (*batch, summed, columns))
        return Operands(kind, first, second, (*batch, rows, columns))

    def operand(self, tensor: Tensor, groups: Groups) -> Tensor:
        """As an operand of a matrix product, which copies what it cannot read.

        It reads matrices of which one dimension is contiguous; in bfloat16 on a CPU
        those fast of which the last one is.
        """
        found = self.layouts.regroup(tensor, groups)
        fastest = found.lies[-1:]
        ends = [group[-1:] for group in groups[-2:]]
        read = ends if self.dtype == "float32" else ends[-1:]
        if fastest not in read:
            self.layouts.copied(found.lies, found.groups, inside=True)
        return found


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
