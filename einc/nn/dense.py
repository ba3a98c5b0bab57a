"""Dense layers as models have them: torch's nn.Linear and transformers' Conv1D."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Dense:
    """A dense layer with its features; `kind` is the name of its class."""

    module: Any
    kind: str
    d_in: int
    d_out: int
    transposed: bool

    @property
    def bias(self) -> torch.Tensor | None:
        found: torch.Tensor | None = self.module.bias
        return found

    def matrix(self) -> torch.Tensor:
        """W of y = W x, (d_out, d_in)."""
        weight: torch.Tensor = self.module.weight.detach()
        return weight.T if self.transposed else weight


def dense_of(module: nn.Module) -> Dense | None:
    """`module` as a dense layer, or None where it is none.

    A subclass of nn.Linear with a forward of its own (quantized, or an adapter
    already) is none.
    """
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        if type(module).forward is not nn.Linear.forward:
            return None
        return Dense(module, kind, module.in_features, module.out_features, False)
    if kind == "Conv1D" and type(module).__module__.startswith("transformers."):
        d_in, d_out = module.weight.shape  # type: ignore[misc]
        return Dense(module, kind, int(d_in), int(d_out), True)
    return None
