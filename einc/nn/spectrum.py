"""The singular values of a structure at initialization, beside a dense layer's.

In: a `Profile` at one shape. Out: `Spectra`. W is the generated module's
(d_out, d_in) matrix in float64, initialized as the module does it under a seed; of a
routed structure that of the first `top` experts with equal gates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from einc import compiler, library
from einc.analysis.profile import Profile
from einc.errors import UsageError
from einc.nn.compile import class_of

MAX_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Spectrum:
    """The singular values of one (d_out, d_in) matrix, largest first.

    Gains are of the root mean square of y over that of x. `gain` is for inputs of
    independent entries, |W|_F / sqrt(d_out); `largest_gain` for the worst input,
    |W|_2 / sqrt(d_out / d_in), which muP's spectral condition keeps of order 1 (Yang,
    Simon and Bernstein 2023). `stable_rank` is (|W|_F / |W|_2)^2.
    """

    singular_values: tuple[float, ...]
    d_in: int
    d_out: int

    @property
    def norm(self) -> float:
        return self.singular_values[0]

    @property
    def gain(self) -> float:
        return math.hypot(*self.singular_values) / math.sqrt(self.d_out)

    @property
    def limit(self) -> float:
        """sqrt(d_out / d_in)."""
        return math.sqrt(self.d_out / self.d_in)

    @property
    def largest_gain(self) -> float:
        return self.norm / self.limit

    @property
    def stable_rank(self) -> float:
        return (
            (math.hypot(*self.singular_values) / self.norm) ** 2 if self.norm else 0.0
        )

    def at(self, share: float) -> float:
        """The singular value that so large a share of them is above."""
        return self.singular_values[round(share * (len(self.singular_values) - 1))]

    def to_json(self) -> dict[str, Any]:
        return {
            "spectral_norm": self.norm,
            "gain": self.gain,
            "largest_gain": self.largest_gain,
            "stable_rank": self.stable_rank,
            "singular_values": list(self.singular_values),
        }


@dataclass(frozen=True)
class Spectra:
    """A structure's and the dense layer's, drawn with one seed."""

    structure: Spectrum
    dense: Spectrum
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "structure": self.structure.to_json(),
            "dense": self.dense.to_json(),
        }


def spectra(report: Profile, seed: int = 0) -> Spectra:
    """The spectrum of what was analysed, and of a dense layer of the same shape.

    Raises `UsageError` without features, and where W is too large.
    """
    if report.figures is None:
        raise UsageError("a spectrum needs features: give --in")
    binding = report.figures.binding
    shape = binding.d_in, binding.d_out
    if math.prod(shape) > MAX_ENTRIES:
        raise UsageError(
            f"a spectrum takes matrices of up to {MAX_ENTRIES:,} entries, not "
            f"{binding.d_in:,} x {binding.d_out:,}"
        )
    dense = compiler.analyze(library.structure("dense"), *shape)
    return Spectra(_spectrum(report, seed), _spectrum(dense, seed), seed)


def _spectrum(report: Profile, seed: int) -> Spectrum:
    assert report.figures is not None
    binding = report.figures.binding
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        layer: Any = class_of(report)(bias=False, dtype=torch.float64)
        if binding.top is None:
            matrix = layer.to_dense()
        else:
            gates = torch.zeros(layer.experts, dtype=torch.float64)
            gates[: layer.top] = 1 / layer.top
            matrix = layer.to_dense(gates)
        values = torch.linalg.svdvals(matrix.double())
    return Spectrum(tuple(values.tolist()), binding.d_in, binding.d_out)
