"""A term's tensors in columns from x to y, and its indices between them.

In: a `Term`. Out: which tensors share a column, and between which columns an index
has its place; how high each is there is found in `layered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from einc.drawing.layered import Chain
from einc.structure import Axis, Term

MAX_UPRIGHT = 2
"""How many indices of two tensors may be drawn as upright lines."""
PULL = 0.01
"""By how much a factor keeps to the middle between x and y."""


class Columns:
    """x is tensor 0, the factors follow as written, and y is the last one."""

    def __init__(self, term: Term) -> None:
        self.tensors = (term.input, *(o.axes for o in term.operands), term.output)
        self.names = ("x", *(operand.name for operand in term.operands), "y")
        self.axes = term.axes
        self.y = len(self.tensors) - 1

    @cached_property
    def holders(self) -> dict[Axis, tuple[int, ...]]:
        """The tensors of each index."""
        return {
            axis: tuple(i for i, axes in enumerate(self.tensors) if axis in axes)
            for axis in self.axes
        }

    def shared(self, one: int, other: int) -> list[Axis]:
        """The indices that two tensors have, and no other."""
        pair = (min(one, other), max(one, other))
        return [axis for axis, holders in self.holders.items() if holders == pair]

    @cached_property
    def places(self) -> list[float]:
        """How far each tensor is from x (0) to y (1): in the mean of its neighbours.

        The mean over its indices of the mean over the others that hold it. A slight
        pull to the middle makes that unique where a factor hangs on neither x nor y.
        """
        import numpy as np

        matrix, constant = np.eye(self.y + 1), np.zeros(self.y + 1)
        constant[self.y] = 1
        for tensor in range(1, self.y):
            held = [self.holders[axis] for axis in self.tensors[tensor]]
            held = [holders for holders in held if len(holders) > 1]
            constant[tensor] = PULL / 2 if held else 1 / 2
            for holders in held:
                for other in holders:
                    if other != tensor:
                        share = len(held) * (len(holders) - 1)
                        matrix[tensor, other] -= (1 - PULL) / share
        # Rounded, so that what is equal is equal on every machine.
        return [round(float(p), 6) for p in np.linalg.solve(matrix, constant)]

    @cached_property
    def columns(self) -> list[list[Chain]]:
        """The tensors from x to y; those that are about as far share a column.

        In a column the tensors of a chain are neighbours, and what two of them share
        are upright lines.
        """
        near = 1 / (4 * self.y)
        columns: list[list[Chain]] = []
        first = 0.0
        for tensor in sorted(range(1, self.y), key=lambda t: (self.places[t], t)):
            if columns and self.places[tensor] - first <= near:
                chains = self._joined(columns[-1], tensor)
                if chains is not None:
                    columns[-1] = chains
                    continue
            columns.append([(tensor,)])
            first = self.places[tensor]
        return [[(0,)], *columns, [(self.y,)]]

    def _joined(self, chains: Sequence[Chain], tensor: int) -> list[Chain] | None:
        """A column with one tensor more, which links chains at their ends.

        None where it would have to be the neighbour of others than ends.
        """
        apart: list[Chain] = []
        linked: list[Chain] = []
        for chain in chains:
            counts = [len(self.shared(other, tensor)) for other in chain]
            if not any(counts):
                apart.append(chain)
                continue
            if sum(map(bool, counts)) > 1 or max(counts) > MAX_UPRIGHT:
                return None
            if counts[-1]:
                linked.append(chain)
            elif counts[0]:
                linked.append(chain[::-1])
            else:
                return None
        match linked:
            case []:
                return [*apart, (tensor,)]
            case [chain]:
                return [*apart, (*chain, tensor)]
            case [chain, other]:
                return [*apart, (*chain, tensor, *other[::-1])]
        return None

    @cached_property
    def column_of(self) -> list[int]:
        """The column of each tensor."""
        found = [0] * (self.y + 1)
        for number, chains in enumerate(self.columns):
            for chain in chains:
                for tensor in chain:
                    found[tensor] = number
        return found

    @cached_property
    def links(self) -> list[tuple[int, int]]:
        """The neighbours in chains."""
        return [
            pair
            for chains in self.columns
            for chain in chains
            for pair in pairwise(chain)
        ]

    @cached_property
    def gap_of(self) -> dict[Axis, int]:
        """The column to the left of each index; upright ones are in no gap."""
        upright = {axis for pair in self.links for axis in self.shared(*pair)}
        return {axis: self._gap(axis) for axis in self.axes if axis not in upright}

    def _gap(self, axis: Axis) -> int:
        """Where lines to all tensors are shortest; of several, near to x or to y."""
        columns = [self.column_of[tensor] for tensor in self.holders[axis]]
        gaps = range(min(columns), max(columns))
        if not gaps:
            return columns[0]
        lengths = [sum(abs(gap + 0.5 - column) for column in columns) for gap in gaps]
        best = [g for g, n in zip(gaps, lengths, strict=True) if n == min(lengths)]
        if 0 in self.holders[axis]:
            return best[0]
        return best[-1] if self.y in self.holders[axis] else best[len(best) // 2]
