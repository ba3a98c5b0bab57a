"""A term as a hypergraph of tensors, in bit masks: what a contraction touches.

Plans, exponents, rank bounds and sizes all ask the same two questions of a set of
tensors: which axes does its product keep, and which axes does joining two sets
touch. Tensor 0 is x and tensor i + 1 is operand i; a set of tensors is a mask of
those bits, a set of axes a mask of `axes` bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from einc.structure import Axis, Term

X = 1
"""The set of tensors that holds x alone."""


@dataclass(frozen=True)
class Network:
    """The hypergraph of `term`; `routed` names the axis that is an expert index.

    The gate of a routed index is a tensor G[token, r] that travels with x: so r
    stays open in any set without x, and is summed where the last tensor with r
    joins x.
    """

    term: Term
    routed: str | None = None

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        return self.term.axes

    @cached_property
    def tensors(self) -> tuple[int, ...]:
        """The axes of each tensor, x first."""
        return (
            self.mask(self.term.input),
            *(self.mask(operand.axes) for operand in self.term.operands),
        )

    @cached_property
    def output(self) -> int:
        return self.mask(self.term.output)

    @cached_property
    def gate(self) -> int:
        """The routed axis, or nothing."""
        return self.mask(a for a in self.axes if a.name == self.routed)

    @cached_property
    def everything(self) -> int:
        """The set of all tensors."""
        return (1 << len(self.tensors)) - 1

    def mask(self, axes: Iterator[Axis] | Sequence[Axis]) -> int:
        bits = 0
        for axis in axes:
            bits |= 1 << self.axes.index(axis)
        return bits

    def members(self, mask: int) -> tuple[Axis, ...]:
        """The axes of a mask, in the order of `axes`."""
        return tuple(axis for i, axis in enumerate(self.axes) if mask >> i & 1)

    @cached_property
    def _held(self) -> list[int]:
        """For each set of tensors, all axes that any of them has."""
        held = [0] * (self.everything + 1)
        for subset in range(1, self.everything + 1):
            low = subset & -subset
            held[subset] = held[subset ^ low] | self.tensors[low.bit_length() - 1]
        return held

    @cached_property
    def _kept(self) -> list[int]:
        kept = [0] * (self.everything + 1)
        for subset in range(1, self.everything + 1):
            outside = self._held[self.everything ^ subset] | self.output
            if not subset & X:
                outside |= self.gate
            kept[subset] = self._held[subset] & outside
        return kept

    def kept(self, subset: int) -> int:
        """The axes that the product of a set of tensors still has.

        All others of the set are in nothing outside it, and so are summed.
        """
        return self._kept[subset]

    def touched(self, left: int, right: int) -> int:
        """The axes over which joining two disjoint sets costs multiply-adds."""
        return self._kept[left] | self._kept[right]

    def private(self, tensor: int) -> int:
        """The axes that a tensor sums by itself, before anything is joined."""
        return self.tensors[tensor] & ~self._kept[1 << tensor]

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """The smallest cuts between x and y, as masks of the axes that are cut.

        A cut puts each factor on the side of x or of y; cut is every axis whose
        tensors (x and y counted) stand on both sides. Cuts that contain another
        are left out. With n factors 2^n cuts are looked at.
        """
        smallest: list[int] = []
        ordered = sorted(self._near_x, key=lambda c: (c.bit_count(), c))
        for _, cuts in groupby(ordered, key=int.bit_count):
            # None contains another of as many axes.
            fewer = tuple(smallest)
            for cut in cuts:
                if not any(cut & other == other for other in fewer):
                    smallest.append(cut)
        return tuple(smallest)

    def near_x(self, cut: int) -> int:
        """The tensors on the side of x in a cut, x among them: the fewest there are."""
        return self._near_x[cut]

    @cached_property
    def _near_x(self) -> dict[int, int]:
        """Each cut with the smallest of the sets of tensors that it parts from y."""
        found: dict[int, int] = {}
        for subset in range(X, self.everything + 1, 2):
            cut = self._held[subset] & (
                self._held[self.everything ^ subset] | self.output
            )
            known = found.get(cut, self.everything)
            if subset.bit_count() <= known.bit_count():
                found[cut] = subset
        return found


def bits(mask: int) -> Iterator[int]:
    """The positions of the bits of a mask, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def product(mask: int, sizes: Sequence[int]) -> int:
    """The product of the sizes of the axes of a mask."""
    result = 1
    for i in bits(mask):
        result *= sizes[i]
    return result
