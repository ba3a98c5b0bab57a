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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from einc.analysis.scaling import scales
from einc.errors import UsageError
from einc.nn.adapter import last_factors
from einc.nn.compile import binding_of
from einc.nn.fitting import Factors, TermFit
from einc.sizes import Binding
from einc.structure import Operand, Structure

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

Found = tuple[Factors, float]
"""Factors, and the relative error of their matrix."""


def project(module: nn.Module, weight: torch.Tensor, *, seconds: float = 30.0) -> float:
    """Sets the factors of `module` to the nearest structured matrix to `weight`.

    `weight` is (out_features, in_features), as in nn.Linear; the bias is left alone.
    Returns the relative error. `seconds` bounds the refinement: a start is always
    finished. Of a routed structure all experts are set alike, so that each routing
    gives the same matrix, as when a dense model is made into one of experts; with one
    expert a token that is so while the router is zero, as it starts, since the gate is
    a share of all experts then. Raises `UsageError` for a weight of another shape, or
    one that is not finite and real, and for a layer with parametrized factors.
    """
    binding = _binding(module)
    shape = binding.d_out, binding.d_in
    if tuple(weight.shape) != shape:
        raise UsageError(f"the weight is {tuple(weight.shape)}, not {shape}")
    if any(parameter.is_meta for parameter in (weight, *module.parameters())):
        raise UsageError("there are no values on the meta device, to project or to set")
    gated = _gated(binding)
    if weight.is_complex() or not torch.isfinite(weight).all():
        raise UsageError("the weight is to have real values, all of them finite")
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
    ):
        torch.manual_seed(0)
        target = weight.detach().to("cpu", torch.float64, copy=True)
        problem = _Problem(binding, target, time.monotonic() + seconds)
        zero = None if target.any() else _zero(binding)
        factors, error = problem.solve() if zero is None else (zero, 0.0)
    for name, experts in gated.items():
        factors[name] = factors[name] * experts
    _store(module, binding, factors)
    return error


def _binding(module: nn.Module) -> Binding:
    """The structure and sizes of a layer whose factors can be set."""
    if parametrize.is_parametrized(module):
        raise UsageError("a layer with parametrizations is not projected")
    binding = binding_of(module)
    structure = binding.structure
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    routed: dict[str, list[bool]] = {}
    for operand in _operands(structure):
        name = operand.name
        if name not in own:
            raise UsageError(f"`{name}` is computed from others: project before that")
        places = [axis.name == structure.routed for axis in operand.axes]
        if routed.setdefault(name, places) != places:
            raise UsageError(f"`{name}` is routed by different indices of its own")
    return binding


def _operands(structure: Structure) -> list[Operand]:
    return [operand for term in structure.terms for operand in term.operands]


def _gated(binding: Binding) -> dict[str, int]:
    """A factor of each term that a token has one expert of, and how many there are.

    Its gate is one over that. Raises `UsageError` where all factors of a term are tied.
    """
    structure, found = binding.structure, {}
    names = [operand.name for operand in _operands(structure)]
    for term in structure.terms:
        experts = [axis for axis in term.axes if axis.name == structure.routed]
        if binding.top != 1 or not experts:
            continue
        once = [o.name for o in term.operands if names.count(o.name) == 1]
        if not once:
            raise UsageError("a term of tied factors alone has no scale of its own")
        found[once[-1]] = binding.size(experts[0])
    return found


def _zero(binding: Binding) -> Factors | None:
    """Factors of a matrix of zeros that can learn: the last of each term is zero alone.

    None where all factors of a term stand there twice.
    """
    structure = binding.structure
    try:
        last = last_factors(structure)
    except UsageError:
        return None
    factors = {}
    for operand in structure.factors:
        own = [axis for axis in operand.axes if axis.name != structure.routed]
        std = 0.0 if operand.name in last else scales(binding)[operand.name].std
        factors[operand.name] = std * torch.randn(
            binding.shape(own), dtype=torch.float64
        )
    return factors


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
    """One projection: what it is of, and when to stop."""

    binding: Binding
    target: torch.Tensor
    deadline: float

    def __post_init__(self) -> None:
        self.structure = self.binding.structure
        self.norm = float(self.target.norm()) or 1.0

    def solve(self) -> Found:
        """The best factors found, and their relative error."""
        sizes = {
            axis.name: self.binding.size(axis)
            for axis in self.structure.axes
            if axis.name != self.structure.routed
        }
        features = self.binding.d_in, self.binding.d_out
        terms = [
            TermFit(term, sizes, padded, features)
            for term, padded in zip(
                self.structure.terms, self.binding.padded, strict=True
            )
        ]
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

    def _started(self, terms: Sequence[TermFit], at_random: bool) -> Factors:
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

    def error(self, terms: Sequence[TermFit], factors: Factors) -> float:
        total = sum(term.matrix(factors) for term in terms)
        return float((self.target - total).norm()) / self.norm

    def _refined(
        self,
        terms: Sequence[TermFit],
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
                term.sweep(factors, self.target - rest, ridge, self.deadline)
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
        self, terms: Sequence[TermFit], factors: Factors, error: float
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
