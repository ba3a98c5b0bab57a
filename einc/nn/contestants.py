"""What computes the same map in other ways: whole layers, with the same weights.

In: a `Profile` at one shape. Out: `Contestant`s by name: the generated module, the same
without its kernel, the dense layer, and the whole structure in one einsum, by torch and
by opt_einsum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from string import ascii_letters
from typing import Any

import opt_einsum
import torch
from torch import nn

from einc.analysis.profile import Profile
from einc.codegen.choices import Dtype, Kernels
from einc.errors import UsageError
from einc.nn.compile import class_of
from einc.sizes import Binding
from einc.structure import Axis, Term

MODULE, PLAIN, COMPILED, DENSE = "module", "plain", "compiled", "dense"
EINSUM, OPT_EINSUM = "einsum", "opt_einsum"
NAMES = (MODULE, PLAIN, COMPILED, DENSE, EINSUM, OPT_EINSUM)

LARGEST = 1 << 28
"""Elements of an intermediate: what would have a larger one is not run."""

Contract = Callable[..., torch.Tensor]
"""Of x, split into its indices, and the factors of a term."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Contestant:
    """A layer, and whether it computes what the module does.

    Where an `order` is given, its output i is that of the module at `order[i]`. An `own`
    one is the user's.
    """

    layer: nn.Module
    agrees: bool = True
    order: torch.Tensor | None = None
    own: bool = False


@dataclass(frozen=True)
class Field:
    """The contestants by name, and why others are not among them."""

    contestants: dict[str, Contestant]
    left_out: tuple[str, ...]


def field(
    report: Profile,
    tokens: int,
    dtype: torch.dtype,
    device: str,
    compiled: bool,
    kernels: Kernels = "torch",
) -> Field:
    """All contestants for calls of `tokens` tokens, with one set of random weights.

    Beside a module with a kernel there is the one of plain operations.
    """
    layer = generated(report, dtype, device, kernels).to(device, dtype)
    found = {MODULE: Contestant(layer)}
    if kernels != "torch":
        plain = generated(report, dtype, device).to(device, dtype)
        plain.load_state_dict(layer.state_dict())
        found[PLAIN] = Contestant(plain)
    if compiled:
        # Each shape is compiled for itself, as its first one would be.
        torch.compiler.reset()
        made: Any = torch.compile(layer, dynamic=False)
        found[COMPILED] = Contestant(made)
    found[DENSE] = _dense(report, layer)
    assert report.figures is not None
    binding = report.figures.binding
    reason = why_no_einsum(binding, tokens)
    if reason is None:
        found[EINSUM] = Contestant(OneShot(layer, binding, tokens, _by_torch))
        found[OPT_EINSUM] = Contestant(OneShot(layer, binding, tokens, _by_opt_einsum))
    return Field(found, () if reason is None else (reason,))


def generated(
    report: Profile,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kernels: Kernels = "torch",
) -> Any:
    """The module for a dtype and device, initialized under a seed; `UsageError` without features.

    Its router is drawn at random: at zero, as it starts, all tokens take the same
    experts.
    """
    if report.figures is None:
        raise UsageError("times need features: give --in")
    slow_views = dtype is torch.bfloat16 and device == "cpu"
    planned: Dtype = "bfloat16" if slow_views else "float32"
    made = class_of(report, dtype=planned, kernels=kernels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer: Any = made()
        nn.init.normal_(layer.bias)
        if report.structure.route is not None:
            nn.init.normal_(layer.router, std=layer.in_features**-0.5)
    return layer


def _dense(report: Profile, layer: Any) -> Contestant:
    """nn.Linear with the module's matrix; a routed one has a matrix a token."""
    options = {"device": layer.bias.device, "dtype": layer.bias.dtype}
    dense = nn.Linear(layer.in_features, layer.out_features, **options)
    routed = report.structure.route is not None
    if not routed:
        with torch.no_grad():
            dense.weight.copy_(layer.to_dense())
            dense.bias.copy_(layer.bias)
    return Contestant(dense, agrees=not routed)


def why_no_einsum(binding: Binding, tokens: int) -> str | None:
    """Why the structure is not computed in one einsum a term, if it is not."""
    both = "one-shot torch.einsum and opt_einsum are left out"
    structure = binding.structure
    if structure.route is not None:
        return f"{both}: which experts a token takes is in no einsum"
    if structure.normalized:
        return f"{both}: no einsum normalizes its factors"
    for term, padded in zip(structure.terms, binding.padded, strict=True):
        path = opt_einsum.contract_path(
            _equation(term), *_shapes(binding, term, tokens), shapes=True
        )[1]
        # The result of a term is no intermediate, however it pads.
        if path.largest_intermediate > max(LARGEST, tokens * padded[1]):
            return (
                f"{both} for {tokens:,} tokens: an intermediate would have "
                f"{int(path.largest_intermediate):,} elements"
            )
    return None


class OneShot(nn.Module):
    """The structure as it is written: an einsum a term, with a layer's parameters."""

    def __init__(
        self,
        layer: nn.Module,
        binding: Binding,
        tokens: int,
        make: Callable[[str, list[Shape]], Contract],
    ) -> None:
        super().__init__()
        self.layer = layer
        self.d_out = binding.d_out
        self.terms = [
            (
                make(_equation(term), _shapes(binding, term, tokens)),
                (0, padded_in - binding.d_in),
                (-1, *binding.shape(term.input)),
                [operand.name for operand in term.operands],
            )
            for term, (padded_in, _) in zip(
                binding.structure.terms, binding.padded, strict=True
            )
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self._terms(x)
        y = sum(others, start=first)
        bias: torch.Tensor = self.layer.get_parameter("bias")
        return y + bias

    def _terms(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for contract, padding, shape, names in self.terms:
            padded = nn.functional.pad(x, padding) if any(padding) else x
            factors = [self.layer.get_parameter(name) for name in names]
            y = contract(padded.reshape(shape), *factors)
            yield y.reshape(len(x), -1)[:, : self.d_out]


def _by_torch(equation: str, shapes: list[Shape]) -> Contract:
    return partial(torch.einsum, equation)


def _by_opt_einsum(equation: str, shapes: list[Shape]) -> Contract:
    expression: Contract = opt_einsum.contract_expression(equation, *shapes)
    return expression


def _equation(term: Term) -> str:
    """A term in letters, the first of them for the tokens."""
    token = ascii_letters[0]
    letter = dict(zip(term.axes, ascii_letters[1:], strict=False))

    def subscripts(axes: tuple[Axis, ...]) -> str:
        return "".join(letter[axis] for axis in axes)

    operands = [token + subscripts(term.input)]
    operands += [subscripts(operand.axes) for operand in term.operands]
    return f"{','.join(operands)}->{token}{subscripts(term.output)}"


def _shapes(binding: Binding, term: Term, tokens: int) -> list[Shape]:
    """The shapes of x and the factors."""
    x = (tokens, *binding.shape(term.input))
    return [x, *(binding.shape(operand.axes) for operand in term.operands)]
