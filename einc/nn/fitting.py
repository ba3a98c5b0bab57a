"""One term of a structure, fitted to a matrix: a start by SVDs, and sweeps.

In: a term with its sizes, the routed index left out, and matrices in float64. Out: its
factors. What these fit, and for how long, is decided in `projection`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from einc.structure import Axis, Term

MOST = 1 << 27
"""Numbers that the equations of a factor may be made of: a GiB."""

Factors = dict[str, torch.Tensor]
Named = tuple[str, ...]


class TermFit:
    """One term: its matrix, a start for its factors, and a sweep over them.

    A *cell* is an index of W: one of x or y. What W is in the span of a term is the
    tensor over the cells that some factor has, `reached`: an index of both sides is
    a diagonal, one that no factor has is repeated, and the nearest is their mean.
    """

    def __init__(
        self,
        term: Term,
        sizes: Mapping[str, int],
        padded: tuple[int, int],
        features: tuple[int, int],
    ) -> None:
        self.sizes = sizes
        self.features = features
        self.x, self.y = (self.indices(side) for side in term.sides)
        self.uses = [(o.name, self.indices(o.axes)) for o in term.operands]
        # Of tied factors nothing but `uses` is asked.
        self.factors = dict(self.uses)
        self.padded = padded
        self.cells = tuple(dict.fromkeys((*self.y, *self.x)))
        held = {name for _, indices in self.uses for name in indices}
        self.reached = tuple(name for name in self.cells if name in held)

    def indices(self, axes: Sequence[Axis]) -> Named:
        """The names of axes, the routed one left out."""
        return tuple(axis.name for axis in axes if axis.name in self.sizes)

    def shape(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.sizes[name] for name in names)

    @property
    def is_tree(self) -> bool:
        """Whether each inner index is in two factors at most: SVDs part them then."""
        uses = [
            i for held in self.factors.values() for i in held if i not in self.cells
        ]
        return all(uses.count(i) <= 2 for i in uses)

    @property
    def is_exact(self) -> bool:
        """Whether the start is the nearest there is."""
        return self.is_tree and len(self.factors) <= 2 and not self.is_padded

    @property
    def is_padded(self) -> bool:
        return self.padded != self.features

    # From W to the cells and back

    def cell_means(self, target: torch.Tensor) -> torch.Tensor:
        """The tensor over `reached` that is nearest to a (d_out, d_in) matrix.

        Where features are padded the rest of the matrix is zero.
        """
        rows, columns = target.shape
        whole = target.new_zeros(*reversed(self.padded))
        whole[:rows, :columns] = target
        whole = whole.reshape(self.shape((*self.y, *self.x)))
        diagonal = torch.einsum(*_sublists([(whole, (*self.y, *self.x))], self.cells))
        gone = [i for i, name in enumerate(self.cells) if name not in self.reached]
        return diagonal.mean(gone) if gone else diagonal

    def matrix(self, factors: Factors) -> torch.Tensor:
        """What the term makes of factors: (d_out, d_in)."""
        columns, rows = self.features
        return self.whole(factors)[:rows, :columns]

    def whole(self, factors: Factors) -> torch.Tensor:
        """The same before the cut."""
        uses = [(factors[name], held) for name, held in self.uses]
        one = torch.ones((), dtype=torch.float64)
        inner = _einsum(uses, self.reached) if uses else one
        both = [name for name in self.y if name in self.x]
        parts: list[tuple[torch.Tensor, Named]] = [(inner, self.reached)]
        names = (*self.y, *(f"{n}'" if n in both else n for n in self.x))
        for name in both:
            eye = torch.eye(self.sizes[name], dtype=inner.dtype)
            parts.append((eye, (name, f"{name}'")))
        for name in self.cells:
            if name not in self.reached and name not in both:
                parts.append((inner.new_ones(self.sizes[name]), (name,)))
        return _einsum(parts, names).reshape(tuple(reversed(self.padded)))

    def weighted(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The means that cells should have, and how much each of them counts.

        Entries that the cut takes away, where features are padded, do not.
        """
        gone = [name for name in self.cells if name not in self.reached]
        counts = self.cell_means(torch.ones_like(target))
        sums = self.cell_means(target)
        return sums / counts.clamp(min=0.5 / math.prod(self.shape(gone))), counts

    # Starting

    def randomize(self, factors: Factors) -> None:
        for name, held in self.uses:
            if name not in factors:
                shape = self.shape(held)
                factors[name] = torch.randn(shape, dtype=torch.float64)

    def start(self, factors: Factors, target: torch.Tensor) -> None:
        """Factors to begin with: by SVDs where these can part them, else at random."""
        if self.is_tree and self.factors:
            means = self.cell_means(target)
            self._split(factors, means, self.reached, self.factors)
        else:
            self.randomize(factors)

    def _split(
        self,
        factors: Factors,
        target: torch.Tensor,
        names: Named,
        left: Mapping[str, Named],
    ) -> None:
        """Parts the first factor of `left` from the others by an SVD, then the others.

        `target` is over `names`: cells, and bonds to factors parted before.
        """
        first, *others = left
        held = left[first]
        own = tuple(i for i in held if i in names)
        if not others:
            # What it has alone is summed: its share is the same for each value.
            spare = tuple(i for i in held if i not in own)
            factors[first] = self._placed(
                _arranged(target, names, own), own, spare, held
            )
            return
        theirs = {i for other in others for i in left[other]}
        bonds = tuple(i for i in held if i not in names and i in theirs)
        spare = tuple(i for i in held if i not in names and i not in theirs)
        batch = tuple(i for i in own if i in theirs)
        rows = tuple(i for i in own if i not in theirs)
        columns = tuple(i for i in names if i not in own)
        size = [math.prod(self.shape(group)) for group in (batch, rows, columns)]
        block = _arranged(target, names, (*batch, *rows, *columns)).reshape(size)
        rank = math.prod(self.shape(bonds))
        one, other = _truncated(block, rank)
        value = one.reshape(self.shape((*batch, *rows, *bonds)))
        factors[first] = self._placed(value, (*batch, *rows, *bonds), spare, held)
        rest = other.reshape(self.shape((*batch, *bonds, *columns)))
        self._split(
            factors, rest, (*batch, *bonds, *columns), {o: left[o] for o in others}
        )

    # Sweeping

    def sweep(
        self, factors: Factors, target: torch.Tensor, ridge: float, deadline: float
    ) -> None:
        """Each factor in turn to its least squares, the others as they are.

        Until `deadline`; those whose equations are too large stay as they are.
        """
        if not self.factors:
            return
        means, counts = self.weighted(target)
        for name in self.factors:
            if time.monotonic() > deadline:
                return
            if self._equations(name) <= MOST:
                self._improve(factors, name, means, counts, ridge)

    def _equations(self, name: str) -> int:
        """How many numbers the others make of which a factor's equations are."""
        theirs = {i for n, held in self.factors.items() if n != name for i in held}
        inner = [i for i in self.factors[name] if i not in self.cells and i in theirs]
        return math.prod(
            self.shape((*(i for i in self.reached if i in theirs), *inner))
        )

    def _improve(
        self,
        factors: Factors,
        name: str,
        target: torch.Tensor,
        counts: torch.Tensor,
        ridge: float,
    ) -> None:
        """The normal equations of one factor: a system for each value of its cells."""
        one: tuple[torch.Tensor, Named] = (counts.new_ones(()), ())
        others = [(factors[n], h) for n, h in self.factors.items() if n != name]
        held = self.factors[name]
        theirs = {i for _, h in others for i in h}
        cells = tuple(i for i in held if i in self.cells)
        inner = tuple(i for i in held if i not in self.cells and i in theirs)
        spare = tuple(i for i in held if i not in self.cells and i not in theirs)
        # What multiplies the factor: over the cells that the others have, and `inner`.
        outside = tuple(i for i in self.reached if i in theirs)
        around = _einsum([one, *others], (*outside, *inner))
        again = tuple(f"{i}'" for i in inner)
        # Cells that the others lack have the same equations, as long as all count.
        alike = () if self.is_padded else tuple(i for i in cells if i not in theirs)
        systems = tuple(i for i in cells if i not in alike)
        weights = counts
        if alike:
            weights = counts.mean([self.reached.index(i) for i in alike])
        kept = tuple(i for i in self.reached if i not in alike)
        gram = _einsum(
            [
                (around, (*outside, *inner)),
                (weights, kept),
                (around, (*outside, *again)),
            ],
            (*systems, *inner, *again),
        )
        right = _einsum(
            [
                (around, (*outside, *inner)),
                (counts * target, self.reached),
            ],
            (*systems, *inner, *alike),
        )
        n = math.prod(self.shape(inner))
        gram = gram.reshape(-1, n, n)
        diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        # Cells that the cut takes away have no equations at all: 1 solves them by 0.
        added = max(ridge, 1e-14) * diagonal + (diagonal == 0)
        gram = gram + added[:, None, None] * torch.eye(n, dtype=gram.dtype)
        # A singular system gives what no error is below: the sweep is the last.
        solved, _ = torch.linalg.solve_ex(gram, right.reshape(len(gram), n, -1))
        names = (*systems, *inner, *alike)
        solved = solved.reshape(self.shape(names))
        factors[name] = self._placed(solved, names, spare, held)

    def _placed(
        self, value: torch.Tensor, names: Named, spare: Named, held: Named
    ) -> torch.Tensor:
        """A factor over `held` from what it is over `names`.

        What it has alone, `spare`, is summed: each value of it has an equal share.
        """
        shape = self.shape(spare)
        value = value.reshape((*value.shape, *(1 for _ in spare)))
        value = value.expand(self.shape((*names, *spare))) / math.prod(shape)
        return _arranged(value, (*names, *spare), held)


def _truncated(block: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(b, m, n) as (b, m, rank) times (b, rank, n): the nearest ones.

    Past the rank of a block there is nothing, and a pair of zeros would never learn:
    there the left one is random and the right one zero.
    """
    u, s, v = torch.linalg.svd(block, full_matrices=False)
    kept = min(rank, s.shape[-1])
    root = s[:, :kept].sqrt()
    left = torch.randn(*block.shape[:2], rank, dtype=block.dtype)
    left *= root.square().mean().sqrt().clamp(min=1e-3) / math.sqrt(block.shape[1])
    right = block.new_zeros(block.shape[0], rank, block.shape[2])
    alive = root > 1e-8 * root.max().clamp(min=1e-300)
    scaled = u[:, :, :kept] * root[:, None, :]
    left[:, :, :kept] = torch.where(alive[:, None, :], scaled, left[:, :, :kept])
    right[:, :kept] = root[:, :, None] * v[:, :kept]
    return left, right


# Einsums by name


def _arranged(value: torch.Tensor, names: Named, order: Named) -> torch.Tensor:
    return value.permute([names.index(name) for name in order])


def _einsum(uses: Sequence[tuple[torch.Tensor, Named]], output: Named) -> torch.Tensor:
    """An einsum over named indices; one in the output alone is not allowed."""
    return torch.einsum(*_sublists(uses, output))


def _sublists(uses: Sequence[tuple[torch.Tensor, Named]], output: Named) -> list[Any]:
    numbers: dict[str, int] = {}
    arguments: list[Any] = []
    for value, names in uses:
        arguments += [value, [numbers.setdefault(n, len(numbers)) for n in names]]
    return [*arguments, [numbers[name] for name in output]]
