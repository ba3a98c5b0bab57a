"""Layouts of tensors, and the views that lead from one to another.

A tensor's dimensions are groups of axes, slowest first; `Layouts` gives reshapes and
permutations from one grouping to another, and what two tensors are as the operands
of a matrix product. Axes of size 1 are in no layout.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

from einc.codegen.nodes import Attribute, Local, Permute, Reshape, Value
from einc.errors import InternalError
from einc.plan import Leaf
from einc.sizes import Binding
from einc.structure import Axis


class Tokens(enum.Enum):
    """The dimension that all batch dimensions of x are flattened into."""

    TOKENS = "n"


TOKENS = Tokens.TOKENS
Dim = Axis | Tokens
Groups = tuple[tuple[Dim, ...], ...]
"""A layout: each dimension is a group of axes, slowest first."""


@dataclass(frozen=True)
class Tensor:
    """A value, its layout, and its dimensions as they lie in memory, slowest first.

    Without `memory` they lie as in `groups`.
    """

    value: Value
    groups: Groups
    memory: tuple[Dim, ...] | None = None

    @property
    def dims(self) -> tuple[Dim, ...]:
        return dims_of(self.groups)

    @property
    def lies(self) -> tuple[Dim, ...]:
        return self.dims if self.memory is None else self.memory


@dataclass(frozen=True)
class Copy:
    """A tensor that is written anew: its layout, and how many of the fastest dimensions
    keep their place, so that they are copied in one run.
    """

    groups: Groups
    kept: int


@dataclass(frozen=True)
class Operands:
    """Two tensors in the layouts in which `kind` multiplies them, and the result's."""

    kind: Literal["matmul", "bmm", "expanded", "multiply"]
    left: Tensor
    right: Tensor
    groups: Groups


class Layouts:
    """Views of tensors at the sizes of a binding, and the `copies` that they took."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.copies: list[Copy] = []

    def big(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """The axes of size above 1: the others are nothing to a layout."""
        return tuple(a for a in axes if self.binding.size(a) > 1)

    def extent(self, group: tuple[Dim, ...]) -> int:
        if TOKENS in group:
            return -1
        return math.prod(self.binding.size(d) for d in group if d is not TOKENS)

    def factor(self, leaf: Leaf) -> Tensor:
        """A factor as the module has it; a normalized one is a local variable."""
        normalized = leaf.name in self.binding.structure.normalized
        value = Local(leaf.name) if normalized else Attribute(leaf.name)
        return Tensor(value, tuple(self.big([axis]) for axis in leaf.axes))

    def regroup(self, tensor: Tensor, groups: Groups) -> Tensor:
        """The same tensor in another layout: reshape, permute, reshape, as needed."""
        return self.reshape(self.arrange(tensor, groups), groups)

    def arrange(self, tensor: Tensor, groups: Groups) -> Tensor:
        """Its dimensions in the order of `groups`, in pieces: a view of the same."""
        wanted = dims_of(groups)
        if Counter(wanted) != Counter(tensor.dims):
            raise InternalError(f"a layout of {wanted} from {tensor.dims}")
        if wanted == tensor.dims:
            return tensor
        pieces = cut(tensor.groups, groups)
        ordered = sorted(pieces, key=lambda piece: wanted.index(piece[0]))
        flat = self.reshape(tensor, pieces)
        order = tuple(pieces.index(piece) for piece in ordered)
        return Tensor(Permute(flat.value, order), tuple(ordered), tensor.lies)

    def reshape(self, tensor: Tensor, groups: Groups) -> Tensor:
        """A view where the dimensions of each group lie together, else a copy."""
        if groups == tensor.groups:
            return tensor
        shape = tuple(self.extent(group) for group in groups)
        memory = tensor.lies
        if not _lie_together(memory, groups):
            memory = self.copied(memory, groups)
        return Tensor(Reshape(tensor.value, shape), groups, memory)

    def copied(self, before: tuple[Dim, ...], groups: Groups) -> tuple[Dim, ...]:
        """Notes that a tensor is written anew, and returns how it then lies."""
        after = dims_of(groups)
        self.copies.append(Copy(groups, len(kept(before, after))))
        return after

    def elementwise(self, left: Tensor, right: Tensor) -> Operands:
        """As `*`, each broadcast over what the other alone has."""
        dims = (*left.dims, *(d for d in right.dims if d not in left.dims))
        return Operands(
            "multiply",
            self.regroup(left, broadcast(dims, left.dims)),
            self.regroup(right, broadcast(dims, right.dims)),
            tuple((d,) for d in dims),
        )


def dims_of(groups: Groups) -> tuple[Dim, ...]:
    return tuple(dim for group in groups for dim in group)


def kept(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The fastest dimensions that have the same place in both."""
    pairs = zip(reversed(before), reversed(after), strict=True)
    same = takewhile(lambda pair: pair[0] == pair[1], pairs)
    return tuple(dim for dim, _ in same)[::-1]


def _lie_together(memory: tuple[Dim, ...], groups: Groups) -> bool:
    place = {dim: i for i, dim in enumerate(memory)}
    return all(
        place[after] == place[before] + 1
        for group in groups
        for before, after in pairwise(group)
    )


def broadcast(dims: tuple[Dim, ...], own: tuple[Dim, ...]) -> Groups:
    """The layout of a tensor with dims `own` against `dims`: size 1 elsewhere."""
    return tuple((d,) if d in own else () for d in dims)


def cut(groups: Groups, wanted: Groups) -> Groups:
    """The groups, cut where what follows in them does not follow in `wanted`."""
    place = {d: (g, i) for g, group in enumerate(wanted) for i, d in enumerate(group)}
    pieces: list[tuple[Dim, ...]] = []
    for group in groups:
        for i, dim in enumerate(group):
            number, position = place[dim]
            if i and place[group[i - 1]] == (number, position - 1):
                pieces[-1] += (dim,)
            else:
                pieces.append((dim,))
    return tuple(pieces)


def names_of(axes: Iterable[Axis]) -> str:
    return ", ".join(a.name for a in axes)


def layout_text(groups: Groups) -> str:
    """A layout for a comment: dimensions by comma, axes within one by `*`."""
    names = [
        "*".join(d.value if isinstance(d, Tokens) else d.name for d in group) or "1"
        for group in groups
    ]
    return ", ".join(names)
