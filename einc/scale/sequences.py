"""Prediction of the next symbol in sequences, whatever the symbols are.

In: numbered symbols, for training and for validation. Out: batches, a GPT and its loss,
in nats a symbol. Where sequences come from is `text`'s and `pixels`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from einc.scale.contestants import Contestant
from einc.scale.models import Gpt

VALIDATION = 8192
"""How many symbols are predicted to measure the validation loss, where there are so
many."""

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sequences:
    """Two vectors of symbols' numbers, read in windows of `context` + 1.

    A window begins at a multiple of `stride`: 1 for running text.
    """

    training: torch.Tensor
    held_out: torch.Tensor
    symbols: int
    context: int
    sequences: int
    stride: int = 1

    @property
    def tokens(self) -> int:
        return self.sequences * self.context

    def model(self, contestant: Contestant, width: int, depth: int) -> nn.Module:
        return Gpt(contestant, width, depth, self.tokens, self.symbols, self.context)

    def batch(self, generator: torch.Generator) -> Batch:
        places = torch.randint(
            self._starts(self.training), (self.sequences,), generator=generator
        )
        return self._windows(self.training, self.stride * places)

    def validation(self) -> Sequence[Batch]:
        """Windows that do not overlap, spread evenly."""
        apart = -(-(self.context + 1) // self.stride) * self.stride
        starts = torch.arange(0, len(self.held_out) - self.context, apart)
        count = min(len(starts), max(1, VALIDATION // self.context))
        starts = starts[torch.arange(count) * len(starts) // count]
        return [
            self._windows(self.held_out, part)
            for part in torch.split(starts, self.sequences)
        ]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def _starts(self, symbols: torch.Tensor) -> int:
        """How many places there are for a window to begin at."""
        return (len(symbols) - self.context - 1) // self.stride + 1

    def _windows(self, symbols: torch.Tensor, starts: torch.Tensor) -> Batch:
        window = symbols[starts[:, None] + torch.arange(self.context + 1)].long()
        return window[:, :-1], window[:, 1:]
