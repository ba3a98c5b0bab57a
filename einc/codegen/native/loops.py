"""A product of two tensors as loops around a tile whose sums stay in registers.

In: how three tensors lie. Out: which of their dimensions are the rows, the columns and
the lanes of the tile, which one it sums over, and which are loops around it:

    out[row, column, lane] = sum of left[row, sum, lane] * right[sum, column, lane]

The lanes are what a vector instruction takes at a time; a tensor without them has the
same value for all. What language the loops are written in is nothing to this file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from einc.codegen.layout import TOKENS, Dim

VECTOR = 16
"""Values of the widest vectors, float32 in 512 bits."""

ROWS = 12
"""Of a tile, which share what is loaded of right."""

OUT = 2
"""The place of out among left, right and out."""

Strides = Mapping[Dim, int]
"""How many values apart the entries of a dimension lie."""


@dataclass(frozen=True)
class Loop:
    """Dimensions that lie together in all tensors, as one.

    `steps` are the strides in left, right and out, 0 where it is not in one. Of tokens
    the size is 1: how many there are is known at the call.
    """

    dims: tuple[Dim, ...] = ()
    size: int = 1
    steps: tuple[int, int, int] = (0, 0, 0)

    @property
    def of_tokens(self) -> bool:
        return TOKENS in self.dims


NONE = Loop()


@dataclass(frozen=True)
class Loops:
    """A product; `free` are the dimensions of the tensor that lies as it suits, in order.

    `cost` is in vector operations for a token.
    """

    outer: tuple[Loop, ...]
    rows: Loop
    summed: Loop
    columns: Loop
    lanes: Loop
    free: tuple[Dim, ...]
    cost: float

    @property
    def added(self) -> tuple[int, ...]:
        """The places of those loops around it that are summed over, too."""
        return tuple(i for i, loop in enumerate(self.outer) if not loop.steps[2])


def best_loops(
    tensors: tuple[Strides | None, Strides | None, Strides | None],
    free: Collection[Dim],
    sizes: Mapping[Dim, int],
) -> Loops:
    """Those of the least cost. Of left, right and out one is None, and has dims `free`."""
    place = tensors.index(None)
    loops = joined([free if t is None else t for t in tensors], sizes)
    # Lanes that are summed over are added to out piece by piece, as gradients are.
    steps = (0, 1) if place == OUT else (1,)
    candidates = [
        loop for loop in loops if not loop.of_tokens and loop.steps[2] in steps
    ]
    found = [_around(lanes, loops, place) for lanes in candidates or [NONE]]
    return min(found, key=lambda one: one.cost)


def joined(
    tensors: Sequence[Strides | Collection[Dim]], sizes: Mapping[Dim, int]
) -> list[Loop]:
    """All dimensions, those as one that lie together wherever they are."""
    fixed = [t for t in tensors if isinstance(t, Mapping)]

    def held(dim: Dim) -> tuple[bool, ...]:
        return tuple(dim in t for t in tensors)

    def place(dim: Dim) -> tuple[tuple[bool, ...], int]:
        """What lies together is side by side: the slower first."""
        return held(dim), -max((t[dim] for t in fixed if dim in t), default=0)

    def follows(before: Dim, dim: Dim) -> bool:
        return (
            held(before) == held(dim)
            and TOKENS not in (before, dim)
            and all(t[before] == t[dim] * sizes[dim] for t in fixed if dim in t)
        )

    runs: list[tuple[Dim, ...]] = []
    for dim in sorted(dict.fromkeys(chain(*tensors)), key=place):
        joins = bool(runs) and follows(runs[-1][-1], dim)
        runs.append((*runs.pop(), dim) if joins else (dim,))
    return [_loop(run, tensors, sizes) for run in runs]


def _loop(
    dims: tuple[Dim, ...],
    tensors: Sequence[Strides | Collection[Dim]],
    sizes: Mapping[Dim, int],
) -> Loop:
    """With a step of 1, which stands for any, in the tensor that has none yet."""
    last = dims[-1]
    left, right, out = (
        0 if last not in t else t[last] if isinstance(t, Mapping) else 1
        for t in tensors
    )
    size = math.prod(1 if dim is TOKENS else sizes[dim] for dim in dims)
    return Loop(dims, size, (left, right, out))


def _around(lanes: Loop, loops: Iterable[Loop], place: int) -> Loops:
    """The largest loops as the others of a tile with these lanes."""
    rest = [loop for loop in loops if loop is not lanes]

    def take(held: tuple[bool, bool, bool]) -> Loop:
        fit = [loop for loop in rest if tuple(map(bool, loop.steps)) == held]
        best = max(fit, key=lambda one: (one.of_tokens, one.size), default=NONE)
        if best in rest:
            rest.remove(best)
        return best

    rows, summed = take((True, False, True)), take((True, True, False))
    # Where right and out alone have the lanes, vectors side by side are columns enough.
    are_columns = not lanes.steps[0] and lanes.size >= 2 * VECTOR
    columns = NONE if are_columns else take((False, True, True))
    parts = (*rest, rows, summed, columns, lanes)
    steps = _free_steps(parts, place)
    *outer, rows, summed, columns, lanes = (
        replace(part, steps=_with(part.steps, place, step))
        for part, step in zip(parts, steps, strict=True)
    )
    free = [part.dims for part, step in zip(parts, steps, strict=True) if step]
    found = Loops(
        tuple(outer), rows, summed, columns, lanes, tuple(chain(*free)), cost=0
    )
    return replace(found, cost=_cost(found))


def _free_steps(parts: Sequence[Loop], place: int) -> list[int]:
    """The strides of the tensor that lies as the loops go."""
    steps, step = [], 1
    for part in reversed(parts):
        held = part.steps[place] != 0
        steps.append(step if held else 0)
        step *= part.size if held else 1
    return steps[::-1]


def _with(steps: tuple[int, int, int], place: int, step: int) -> tuple[int, int, int]:
    left, right, out = (step if i == place else old for i, old in enumerate(steps))
    return left, right, out


def _cost(loops: Loops) -> float:
    """Vector multiply-adds for a token, and what loads and stores add to them."""
    lanes = loops.lanes
    vectors, rest = divmod(lanes.size, VECTOR)
    vectors += rest // 8 + rest % 8 // 4 + rest % 4
    parts = (*loops.outer, loops.rows, loops.summed, loops.columns)
    operations = vectors
    for part in parts:
        operations *= part.size
    side_by_side = loops.columns.size > 1 or (not lanes.steps[0] and vectors > 1)
    each = 1.0 if side_by_side else 1.25
    if lanes.steps[0] > 1:  # gathered, value by value
        each += VECTOR / (2 if side_by_side else 1)
    if lanes.steps[1] > 1:
        each += VECTOR / ROWS
    if not loops.summed.of_tokens:
        each += 2 / loops.summed.size
    if not lanes.steps[0] and loops.summed.steps[0] > 1:  # a cache line for each value
        each += 0.05
    if not loops.rows.of_tokens and loops.rows.size < 4:
        each += 0.5
    return operations * each
