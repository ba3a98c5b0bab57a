"""What a structure computes and what it costs, said again without einc.

An equation is read with two regular expressions, a tensor is a set of index names,
and a tree is a nested pair of tensor names. Nothing here imports einc.
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Tree = Any
"""The name of a tensor, or a pair of trees."""


@dataclass(frozen=True)
class Equation:
    """Indices of x, of y, and of each factor by name."""

    x: tuple[str, ...]
    y: tuple[str, ...]
    factors: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, text: str) -> Equation:
        """`y[o] = x[i] * W[i, o]` as an `Equation`."""
        tensors = {
            name: tuple(re.findall(r"\w+", indices))
            for name, indices in re.findall(r"(\w+)\[([^]]*)\]", text)
        }
        return cls(tensors.pop("x"), tensors.pop("y"), tensors)

    def __str__(self) -> str:
        left, *right = (
            f"{name}[{', '.join(indices)}]"
            for name, indices in (("y", self.y), ("x", self.x), *self.factors.items())
        )
        return f"{left} = {' * '.join(right)}"

    @property
    def indices(self) -> tuple[str, ...]:
        tensors = (self.x, self.y, *self.factors.values())
        return tuple(dict.fromkeys(i for indices in tensors for i in indices))

    @property
    def tensors(self) -> dict[str, tuple[str, ...]]:
        """x and the factors."""
        return {"x": self.x, **self.factors}


def size_of(indices: Any, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[i] for i in indices)


def dense(
    equation: Equation,
    sizes: Mapping[str, int],
    parameters: Mapping[str, torch.Tensor],
    d_in: int,
    d_out: int,
) -> torch.Tensor:
    """W: the images of all unit vectors by one einsum, cut to d_out x d_in."""
    letter = dict(zip(equation.indices, string.ascii_letters, strict=False))
    some = next(iter(parameters.values()), torch.empty((), dtype=torch.float64))
    padded_in = size_of(equation.x, sizes)
    units = torch.eye(padded_in, dtype=some.dtype, device=some.device)
    units = units.reshape(padded_in, *(sizes[i] for i in equation.x))
    inputs = ["Z" + "".join(letter[i] for i in equation.x)] + [
        "".join(letter[i] for i in indices) for indices in equation.factors.values()
    ]
    output = "Z" + "".join(letter[i] for i in equation.y)
    tensors = [units, *(parameters[name] for name in equation.factors)]
    images = torch.einsum(",".join(inputs) + "->" + output, *tensors)
    return images.reshape(padded_in, -1).T[:d_out, :d_in]


@dataclass(frozen=True)
class Route:
    """The expert index and how many of its values a token takes."""

    index: str
    top: int


def trees(names: tuple[str, ...]) -> Iterator[Tree]:
    """All binary trees over `names`: the first goes left, the others either way."""
    if len(names) == 1:
        yield names[0]
        return
    head, *rest = names
    for picks in range(2 ** len(rest) - 1):
        left = (head, *(n for i, n in enumerate(rest) if picks >> i & 1))
        right = tuple(n for n in rest if n not in left)
        for one in trees(left):
            for other in trees(right):
                yield (one, other)


def chain(*names: str) -> Tree:
    """x with one tensor after the other."""
    tree: Tree = "x"
    for name in names:
        tree = (tree, name)
    return tree


@dataclass
class Cost:
    """Of a whole call, not of a token."""

    macs: int = 0
    matrix: int = 0
    saved: int = 0
    """What stands between two steps, x itself not counted."""
    held: int = 0
    """What backward keeps of it: not what stands between the steps of experts."""
    again: int = 0
    """Multiply-adds of those steps, which backward computes again."""
    largest: int = 0
    elementwise: int = 0
    """Products that sum nothing, and sums of what a tensor has in no other."""
    training: int = 0
    """Multiply-adds of a step in which only some tensors need a gradient."""


def cost(
    equation: Equation,
    sizes: Mapping[str, int],
    tree: Tree,
    tokens: int,
    route: Route | None = None,
    trained: frozenset[str] | None = None,
) -> Cost:
    """What a tree costs, by walking it. The gate G[token, r] travels with x."""
    total = Cost()
    tensors = equation.tensors
    trained = frozenset(tensors) if trained is None else trained

    def elements(indices: set[str], holds_x: bool) -> int:
        count = tokens if holds_x else 1
        for index in indices:
            active = holds_x and route is not None and index == route.index
            count *= route.top if active else sizes[index]  # type: ignore[union-attr]
        return count

    def kept(members: set[str]) -> set[str]:
        """The indices of a product that something else still wants."""
        wanted = set(equation.y)
        for name, indices in tensors.items():
            if name not in members:
                wanted |= set(indices)
        if route is not None and "x" not in members:
            wanted.add(route.index)
        return wanted & {i for name in members for i in tensors[name]}

    def walk(node: Tree) -> set[str]:
        if isinstance(node, str):
            before, after = set(tensors[node]), kept({node})
            total.elementwise += elements(before, node == "x")
            total.elementwise -= elements(after, node == "x")
            return {node}
        left, right = walk(node[0]), walk(node[1])
        both = left | right
        touched, holds_x = kept(left) | kept(right), "x" in both
        macs = elements(touched, holds_x)
        total.macs += macs
        summed = {i for i in touched - kept(both) if sizes[i] > 1}
        if summed - {route.index if route else None}:
            total.matrix += macs
        else:
            total.elementwise += macs
        wanting = bool(left & trained) + bool(right & trained)
        total.training += macs * (1 + wanting)
        if len(both) < len(tensors):
            result = elements(kept(both), holds_x)
            total.saved += result
            open_experts = route is not None and route.index in kept(both)
            if holds_x and open_experts:
                total.again += macs
            else:
                total.held += result
            total.largest = max(total.largest, result)
        return both

    walk(tree)
    return total


def touched(equation: Equation, joined: set[str], group: set[str]) -> set[str]:
    """The indices that joining two sets of tensors touches, nothing being routed."""

    def kept(members: set[str]) -> set[str]:
        others = [f for n, f in equation.tensors.items() if n not in members]
        wanted = set(equation.y).union(*others)
        return wanted & {i for n in members for i in equation.tensors[n]}

    return kept(joined) | kept(group)


def cuts(equation: Equation) -> Iterator[set[str]]:
    """What is cut for each way to part the factors between x and y."""
    names = list(equation.factors)
    for count in range(len(names) + 1):
        for near in itertools.combinations(names, count):
            with_x = set(equation.x).union(*(equation.factors[n] for n in near))
            far = [n for n in names if n not in near]
            with_y = set(equation.y).union(*(equation.factors[n] for n in far))
            yield with_x & with_y
