"""Layouts of tensors, and the views that lead from one to another.

A tensor's dimensions are groups of axes, slowest first; `Layouts` gives reshapes and
permutations from one grouping to another, the copies that these take, and what two
tensors are as operands of `*`. Axes of size 1 are in no layout.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, takewhile
from typing import Literal

from einc.codegen.nodes import (
    Attribute,
    Contiguous,
    Local,
    Permute,
    Reshape,
    Value,
)
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

    @cached_property
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

    @classmethod
    def of(cls, lies: tuple[Dim, ...], groups: Groups) -> Copy:
        """Of a tensor that lies otherwise."""
        return cls(groups, len(kept(lies, dims_of(groups))))


@dataclass(frozen=True)
class Path:
    """How tensors of one layout come into another one: the views of `STEM` that lead to
    `end`, and the copies that these take.
    """

    end: Tensor
    copies: tuple[Copy, ...]

    def of(self, tensor: Tensor) -> Tensor:
        end = self.end
        return Tensor(with_root(end.value, tensor.value), end.groups, end.memory)


STEM = Local("")
"""Stands for any tensor."""


@dataclass(frozen=True)
class Operands:
    """Two tensors in the layouts in which `kind` multiplies them, and the result's."""

    kind: Literal["matmul", "bmm", "expanded", "multiply"]
    left: Tensor
    right: Tensor
    groups: Groups


class Layouts:
    """Views of tensors at the sizes of a binding; each path is found once."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._paths: dict[tuple[Groups, tuple[Dim, ...] | None, Groups], Path] = {}

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
        """The same tensor in another layout."""
        return self.path(tensor, groups).of(tensor)

    def path(self, tensor: Tensor, groups: Groups) -> Path:
        """Reshape, permute, reshape, as needed."""
        key = (tensor.groups, tensor.memory, groups)
        if key not in self._paths:
            arranged = self.arrange(replace(tensor, value=STEM), groups)
            end = self.reshape(arranged, groups)
            copies = (
                () if end.lies == arranged.lies else (Copy.of(arranged.lies, groups),)
            )
            self._paths[key] = Path(end, copies)
        return self._paths[key]

    def arrange(self, tensor: Tensor, groups: Groups) -> Tensor:
        """Its dimensions in the order of `groups`, in pieces: a view of the same."""
        wanted = dims_of(groups)
        if set(wanted) != set(tensor.dims) or len(wanted) != len(tensor.dims):
            raise InternalError(f"a layout of {wanted} from {tensor.dims}")
        if wanted == tensor.dims:
            return tensor
        pieces = cut(tensor.groups, groups)
        ordered = sorted(pieces, key=lambda piece: wanted.index(piece[0]))
        flat = self.reshape(tensor, pieces)
        order = tuple(pieces.index(piece) for piece in ordered)
        return Tensor(Permute(flat.value, order), tuple(ordered), tensor.lies)

    def reshape(self, tensor: Tensor, groups: Groups) -> Tensor:
        """A view where the dimensions of each group lie together, else a copy, which lies
        as its groups do.
        """
        if groups == tensor.groups:
            return tensor
        shape = tuple(self.extent(group) for group in groups)
        together = _lie_together(tensor.lies, groups)
        memory = tensor.lies if together else dims_of(groups)
        return Tensor(Reshape(tensor.value, shape), groups, memory)

    def elementwise(self, left: Tensor, right: Tensor) -> Operands:
        """As `*`, each broadcast over what the other alone has."""
        dims = (*left.dims, *(d for d in right.dims if d not in left.dims))
        return Operands(
            "multiply",
            self.regroup(left, broadcast(dims, left.dims)),
            self.regroup(right, broadcast(dims, right.dims)),
            tuple((d,) for d in dims),
        )


def with_root(value: Value, root: Value) -> Value:
    """The same views of another tensor."""
    match value:
        case Permute(inner, order):
            return Permute(with_root(inner, root), order)
        case Reshape(inner, shape):
            return Reshape(with_root(inner, root), shape)
        case Contiguous(inner):
            return Contiguous(with_root(inner, root))
        case _:
            return root


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
