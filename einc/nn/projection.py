"""From a dense weight to the nearest matrix of a structure.

In: a generated module and a weight W, (d_out, d_in). Out: the module's factors set,
and |W - structured| / |W| in the Frobenius norm.

One or two factors of one term are solved exactly: for each value of the indices that
both have, what remains is a matrix of bounded rank, and its truncated SVD is the
nearest one (Eckart and Young; for Kronecker products that is Van Loan's
rearrangement). More factors are parted one by one in the same way (for a
Tensor-Train: TT-SVD, at most sqrt(n - 1) times the least error for n factors) and
then refined by alternating least squares, which is also the way where an index joins
more than two factors, from several random starts. The terms of a sum are fitted in
turn to what the others leave; tied factors by L-BFGS. All in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from einc.analysis.scaling import scales
from einc.errors import UsageError
from einc.nn.compile import binding_of
from einc.sizes import Binding
from einc.structure import Axis, Term

STARTS = 24
"""Random starts where there is no better one."""
ENOUGH = 1e-8
"""A relative error that is not improved on."""
STALLED = 1e-3
"""A hundred steps of L-BFGS that lower the error by less than this share of it are the
last."""
SWEEPS, STALLED_SWEEPS = 50, 0.1
"""So many sweeps that lower it by less than this share are the last."""
RIDGES_OF_TREES = ((0.3, 1.05), (1.0, 1.02))
RIDGES = ((0.1, 1.2), (0.0, 1.0), (0.0, 1.0))
"""What sweeps add to the diagonal of the normal equations, as a share of its mean: at
first, and what it is divided by at each. Without it most starts of sums end in a poor
minimum; where an index joins three factors or more it helps some structures (BLAST) and
harms others (CP). Starts take turns."""
NO_RIDGE = 1e-10

Factors = dict[str, torch.Tensor]
Found = tuple[Factors, float]
"""Factors, and the relative error of their matrix."""
Named = tuple[str, ...]


def project(module: nn.Module, weight: torch.Tensor, *, seconds: float = 30.0) -> float:
    """Sets the factors of `module` to the nearest structured matrix to `weight`.

    `weight` is (out_features, in_features), as in nn.Linear; the bias is left alone.
    Returns the relative error. `seconds` bounds the refinement: a start is always
    finished. Of a routed structure all experts are set alike, so that each routing
    gives the same matrix, as when a dense model is made into one of experts.
    """
    binding = binding_of(module)
    shape = binding.d_out, binding.d_in
    if tuple(weight.shape) != shape:
        raise UsageError(f"the weight is {tuple(weight.shape)}, not {shape}")
    if weight.is_meta or not torch.isfinite(weight).all():
        raise UsageError("the weight has no finite values to project")
    target = weight.detach().to("cpu", torch.float64)
    problem = _Problem(binding, target, time.monotonic() + seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        factors, error = problem.solve()
    _store(module, binding, factors)
    return error


@torch.no_grad()
def _store(module: Any, binding: Binding, factors: Factors) -> None:
    """Writes factors into parameters: experts alike, normalized ones with a scale."""
    structure = binding.structure
    for operand in structure.factors:
        value = factors[operand.name]
        routed = [a.name == structure.routed for a in operand.axes]
        for dim, is_routed in enumerate(routed):
            if is_routed:
                value = value.unsqueeze(dim)
        parameter = getattr(module, operand.name)
        value = value.expand(parameter.shape)
        if operand.name in structure.normalized:
            # The module divides by max(1, RMS / std) and multiplies by the scale.
            scale = getattr(module, f"{operand.name}_scale")
            rms = float(value.square().mean().sqrt())
            std = scales(binding)[operand.name].std
            value = value * (std / rms if rms > 0 else 1.0)
            scale.fill_(rms / std if rms > 0 else 1.0)
        parameter.copy_(value)


@dataclass
class _Problem:
    """One projection: sizes without the routed index, and when to stop."""

    binding: Binding
    target: torch.Tensor
    deadline: float

    def __post_init__(self) -> None:
        self.structure = self.binding.structure
        self.norm = float(self.target.norm()) or 1.0
        self.sizes = {
            axis.name: self.binding.size(axis)
            for axis in self.structure.axes
            if axis.name != self.structure.routed
        }

    def indices(self, axes: Sequence[Axis]) -> Named:
        return tuple(a.name for a in axes if a.name in self.sizes)

    def shape(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.sizes[name] for name in names)

    def solve(self) -> Found:
        """The best factors found, and their relative error."""
        padded = zip(self.structure.terms, self.binding.padded, strict=True)
        terms = [_Term(self, term, pad) for term, pad in padded]
        tied = bool(self.structure.tied)
        trees = all(term.is_tree for term in terms)
        ridges = RIDGES_OF_TREES if trees else RIDGES
        one_start = len(terms) == 1 and trees and not tied
        best: Found | None = None
        for start in range(1 if one_start else STARTS):
            factors = self._started(terms, at_random=tied or start > 0)
            found = factors, self.error(terms, factors)
            if len(terms) == 1 and terms[0].is_exact and not tied:
                return found
            if tied:
                found = self._polished(terms, *found)
            else:
                found = self._refined(terms, *found, *ridges[start % len(ridges)])
            if best is None or found[1] < best[1]:
                best = found
            if best[1] < ENOUGH or time.monotonic() > self.deadline:
                break
        assert best is not None
        return best if tied else self._polished(terms, *best)

    def _started(self, terms: Sequence[_Term], at_random: bool) -> Factors:
        """Each term to what the ones before leave, or at random."""
        factors: Factors = {}
        rest = self.target
        for term in terms:
            if at_random:
                term.randomize(factors)
            else:
                term.start(factors, rest)
                rest = rest - term.matrix(factors)
        return factors

    def error(self, terms: Sequence[_Term], factors: Factors) -> float:
        total = sum(term.matrix(factors) for term in terms)
        return float((self.target - total).norm()) / self.norm

    def _refined(
        self,
        terms: Sequence[_Term],
        factors: Factors,
        error: float,
        ridge: float,
        divisor: float,
    ) -> Found:
        """Terms in turn, and within a term factors in turn, until little is gained."""
        best = dict(factors), error
        half = (time.monotonic() + self.deadline) / 2
        before, number = math.inf, 0
        while error > ENOUGH and time.monotonic() < self.deadline:
            for term in terms:
                rest = sum(t.matrix(factors) for t in terms if t is not term)
                term.sweep(factors, self.target - rest, ridge)
            error, number = self.error(terms, factors), number + 1
            if error < best[1]:
                best = dict(factors), error
            ridge /= divisor
            if ridge < NO_RIDGE or time.monotonic() > half:
                ridge = 0.0
                if number % SWEEPS == 0:
                    if not error < before * (1 - STALLED_SWEEPS):
                        break
                    before = error
        return best

    def _polished(
        self, terms: Sequence[_Term], factors: Factors, error: float
    ) -> Found:
        """All factors at once, by L-BFGS: sweeps grow slow where factors depend on
        each other, and a tied factor has none."""
        if not factors:
            return factors, error
        factors = {
            name: value.contiguous().clone().requires_grad_()
            for name, value in factors.items()
        }
        optimizer = torch.optim.LBFGS(
            list(factors.values()),
            max_iter=100,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            rest = self.target - sum(term.matrix(factors) for term in terms)
            value = rest.square().sum() / self.norm**2
            value.backward()  # type: ignore[no-untyped-call]
            return value

        best = {name: value.detach().clone() for name, value in factors.items()}, error
        while error > ENOUGH and time.monotonic() < self.deadline:
            optimizer.step(loss)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                before, error = error, self.error(terms, factors)
            if error < best[1]:
                best = (
                    {n: value.detach().clone() for n, value in factors.items()},
                    error,
                )
            if not error < before * (1 - STALLED):
                break
        return best


class _Term:
    """One term: its matrix, a start for its factors, and a sweep over them.

    A *cell* is an index of W: one of x or y. What W is in the span of a term is the
    tensor over the cells that some factor has, `reached`: an index of both sides is
    a diagonal, one that no factor has is repeated, and the nearest is their mean.
    """

    def __init__(self, problem: _Problem, term: Term, padded: tuple[int, int]) -> None:
        self.problem = problem
        self.x, self.y = (problem.indices(side) for side in term.sides)
        self.uses = [(o.name, problem.indices(o.axes)) for o in term.operands]
        # Of tied factors nothing but `uses` is asked.
        self.factors = dict(self.uses)
        self.padded = padded
        self.cells = tuple(dict.fromkeys((*self.y, *self.x)))
        held = {name for _, indices in self.uses for name in indices}
        self.reached = tuple(name for name in self.cells if name in held)

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
        rows, columns = self.problem.target.shape
        return self.padded != (columns, rows)

    # From W to the cells and back

    def cell_means(self, target: torch.Tensor) -> torch.Tensor:
        """The tensor over `reached` that is nearest to a (d_out, d_in) matrix.

        Where features are padded the rest of the matrix is zero.
        """
        rows, columns = target.shape
        whole = target.new_zeros(*reversed(self.padded))
        whole[:rows, :columns] = target
        whole = whole.reshape(self.problem.shape((*self.y, *self.x)))
        diagonal = torch.einsum(*_sublists([(whole, (*self.y, *self.x))], self.cells))
        gone = [i for i, name in enumerate(self.cells) if name not in self.reached]
        return diagonal.mean(gone) if gone else diagonal

    def matrix(self, factors: Factors) -> torch.Tensor:
        """What the term makes of factors: (d_out, d_in)."""
        rows, columns = self.problem.target.shape
        return self.whole(factors)[:rows, :columns]

    def whole(self, factors: Factors) -> torch.Tensor:
        """The same before the cut."""
        uses = [(factors[name], held) for name, held in self.uses]
        one = self.problem.target.new_ones(())
        inner = _einsum(uses, self.reached) if uses else one
        both = [name for name in self.y if name in self.x]
        parts: list[tuple[torch.Tensor, Named]] = [(inner, self.reached)]
        names = (*self.y, *(f"{n}'" if n in both else n for n in self.x))
        for name in both:
            eye = torch.eye(self.problem.sizes[name], dtype=inner.dtype)
            parts.append((eye, (name, f"{name}'")))
        for name in self.cells:
            if name not in self.reached and name not in both:
                parts.append((inner.new_ones(self.problem.sizes[name]), (name,)))
        return _einsum(parts, names).reshape(tuple(reversed(self.padded)))

    def weighted(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The means that cells should have, and how much each of them counts.

        Entries that the cut takes away, where features are padded, do not.
        """
        gone = [name for name in self.cells if name not in self.reached]
        counts = self.cell_means(torch.ones_like(target))
        sums = self.cell_means(target)
        return sums / counts.clamp(
            min=0.5 / math.prod(self.problem.shape(gone))
        ), counts

    # Starting

    def randomize(self, factors: Factors) -> None:
        for name, held in self.uses:
            if name not in factors:
                shape = self.problem.shape(held)
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
        size = [
            math.prod(self.problem.shape(group)) for group in (batch, rows, columns)
        ]
        block = _arranged(target, names, (*batch, *rows, *columns)).reshape(size)
        rank = math.prod(self.problem.shape(bonds))
        one, other = _truncated(block, rank)
        value = one.reshape(self.problem.shape((*batch, *rows, *bonds)))
        factors[first] = self._placed(value, (*batch, *rows, *bonds), spare, held)
        rest = other.reshape(self.problem.shape((*batch, *bonds, *columns)))
        self._split(
            factors, rest, (*batch, *bonds, *columns), {o: left[o] for o in others}
        )

    # Sweeping

    def sweep(self, factors: Factors, target: torch.Tensor, ridge: float) -> None:
        """Each factor in turn to its least squares, the others as they are."""
        if not self.factors:
            return
        means, counts = self.weighted(target)
        for name in self.factors:
            self._improve(factors, name, means, counts, ridge)

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
        n = math.prod(self.problem.shape(inner))
        gram = gram.reshape(-1, n, n)
        diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        # Cells that the cut takes away have no equations at all: 1 solves them by 0.
        added = max(ridge, 1e-14) * diagonal + (diagonal == 0)
        gram = gram + added[:, None, None] * torch.eye(n, dtype=gram.dtype)
        # A singular system gives what no error is below: the sweep is the last.
        solved, _ = torch.linalg.solve_ex(gram, right.reshape(len(gram), n, -1))
        names = (*systems, *inner, *alike)
        solved = solved.reshape(self.problem.shape(names))
        factors[name] = self._placed(solved, names, spare, held)

    def _placed(
        self, value: torch.Tensor, names: Named, spare: Named, held: Named
    ) -> torch.Tensor:
        """A factor over `held` from what it is over `names`.

        What it has alone, `spare`, is summed: each value of it has an equal share.
        """
        shape = self.problem.shape(spare)
        value = value.reshape((*value.shape, *(1 for _ in spare)))
        value = value.expand(self.problem.shape((*names, *spare))) / math.prod(shape)
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
