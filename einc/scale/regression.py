"""Teacher and student: a random network of several layers is to be learned from points.

As in Potapczynski et al. 2024 (arXiv 2410.02117, its published code): eight normal
inputs, a teacher of six ReLU layers without biases, its output shifted and scaled to mean
0 and variance 1, fresh points at every step, the mean squared error. The teacher has 128
features a layer here, where theirs has 1,024, to cost little beside small students.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from einc.scale.contestants import Contestant
from einc.scale.models import Regressor

FEATURES, HIDDEN, LAYERS = 8, 128, 6
BATCH = 1024
VALIDATION = 4 * BATCH
SEED = 42
"""Of the teacher, and of the validation points, which no other generator draws."""

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Regression:
    """The teacher's weights, and validation points with what it says of them."""

    weights: tuple[torch.Tensor, ...]
    held_out: Batch
    tokens: int = BATCH
    context: int = 1

    def model(self, contestant: Contestant, width: int, depth: int) -> nn.Module:
        return Regressor(contestant, width, depth, self.tokens, FEATURES)

    def batch(self, generator: torch.Generator) -> Batch:
        x = torch.randn(self.tokens, FEATURES, generator=generator)
        return x, answer(self.weights, x)

    def validation(self) -> Sequence[Batch]:
        return [self.held_out]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(model(x), y)


def load() -> Regression:
    """The task, the same every time."""
    generator = torch.Generator().manual_seed(SEED)

    def layer(d_in: int, d_out: int) -> torch.Tensor:
        weight = torch.randn(d_out, d_in, generator=generator)
        return weight * math.sqrt(2 / d_in)

    hidden = [layer(FEATURES, HIDDEN)]
    hidden += [layer(HIDDEN, HIDDEN) for _ in range(LAYERS - 1)]
    weights = (*hidden, layer(HIDDEN, 1), torch.zeros(1))
    x = torch.randn(4 * VALIDATION, FEATURES, generator=generator)
    y = answer(weights, x)
    mean, deviation = y.mean(), y.std()
    weights = (*hidden, weights[-2] / deviation, (-mean / deviation).reshape(1))
    x = x[:VALIDATION]
    return Regression(weights, (x, answer(weights, x)))


@torch.no_grad()
def answer(weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """(n, features) to (n, 1): what a teacher says; the last two are of its output."""
    *hidden, last, shift = weights
    for weight in hidden:
        x = torch.relu(x @ weight.T)
    return x @ last.T + shift
