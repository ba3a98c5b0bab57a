"""The parts that all models of a study are made of, dense ones initialized by einc's rule.

In: features. Out: modules. Which contestant stands where is `models`'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def dense(d_in: int, d_out: int) -> nn.Linear:
    """nn.Linear with the standard deviation that the structure `dense` has; no bias yet.

    sqrt(min(d_in, d_out)) / d_in: outputs of unit RMS or below from inputs of unit RMS.
    """
    layer = nn.Linear(d_in, d_out)
    nn.init.normal_(layer.weight, std=min(d_in, d_out) ** 0.5 / d_in)
    nn.init.zeros_(layer.bias)
    return layer


def head(d_in: int, d_out: int) -> nn.Linear:
    """A dense output layer that starts at zero, so that all first losses are alike."""
    layer = nn.Linear(d_in, d_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Undrawn(TorchFunctionMode):
    """Tensors stay as they are where they would be filled with normal values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if func is nn.init.normal_ else func(*args, **given)


@contextmanager
def without_values() -> Iterator[None]:
    """What is made has shapes alone: on the meta device, where torch would import its
    compiler, which takes seconds, to draw normal values that are not there."""
    with torch.device("meta"), _Undrawn():
        yield


class FeedForward(nn.Module):
    """An MLP block: up, GELU, down."""

    def __init__(self, up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.up, self.down = up, down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(nn.functional.gelu(self.up(x)))
        return y
