"""A frozen dense layer with a structured one beside it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from einc.errors import UsageError
from einc.nn.compile import binding_of
from einc.nn.dense import Dense, dense_of
from einc.structure import Structure


class Adapted(nn.Module):
    """base(x) + adapter(x), in place of `base`, whose parameters are frozen.

    The adapter starts at zero: its last factor does, in each term. `merge` adds its
    matrix to the base's weight, so that a forward costs one dense layer; `unmerge`
    takes it out again. Which of the two holds is not in the state_dict: save a model
    unmerged.
    """

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        dense = dense_of(base)
        if dense is None:
            raise UsageError(f"{type(base).__name__} is not a dense layer")
        with torch.no_grad():
            for name in last_factors(binding_of(adapter).structure):
                getattr(adapter, name).zero_()
        self.in_features, self.out_features = dense.d_in, dense.d_out
        self.base, self.adapter = base.requires_grad_(False), adapter
        self.merged = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return y if self.merged else y + self.adapter(x)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the adapter to the weight. UsageError where it is routed."""
        if not self.merged:
            self._add(1)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Takes the adapter out of the weight; up to rounding, as it was."""
        if self.merged:
            self._add(-1)
            self.merged = False

    def check_mergeable(self) -> Dense:
        """The dense layer. UsageError where the adapter cannot be merged into it."""
        if hasattr(self.adapter, "router"):
            raise UsageError("a routed structure has no one matrix to merge")
        dense = dense_of(self.base)
        if dense is None:
            raise UsageError(f"{type(self.base).__name__} is not a dense layer")
        return dense

    def _add(self, sign: int) -> None:
        dense, adapter = self.check_mergeable(), cast(Any, self.adapter)
        matrix = dense.matrix()
        # What is taken away again is to be the same, wherever that is.
        device = "cpu" if matrix.is_meta else matrix.device.type
        with torch.autocast(device, enabled=False):
            matrix.add_(adapter.to_dense(), alpha=sign)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, merged={self.merged}"


def last_factors(structure: Structure) -> list[str]:
    """For each term the last factor that stands there once: it starts at zero.

    One that stands twice would never leave it. Raises `UsageError` where there is none.
    """
    found = []
    for term in structure.terms:
        names = [operand.name for operand in term.operands]
        once = [name for name in names if names.count(name) == 1]
        if not once:
            raise UsageError(
                f"`{structure.name}` has a term without a factor that stands once, and "
                "cannot start at zero"
            )
        found.append(once[-1])
    return found


def merge(model: nn.Module) -> None:
    """Merges all adapters of a model, or none: UsageError where one is routed."""
    found = [module for module in model.modules() if isinstance(module, Adapted)]
    for module in found:
        module.check_mergeable()
    for module in found:
        module.merge()


def unmerge(model: nn.Module) -> None:
    """Takes all adapters of a model out of the dense weights."""
    for module in model.modules():
        if isinstance(module, Adapted):
            module.unmerge()
