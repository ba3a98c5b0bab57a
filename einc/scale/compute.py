"""What a step of training costs and what a model has, by einc's analysis.

In: a model of `models` and the contestant in it. Out: the training FLOPs of one step,
1 multiply-add = 2 FLOPs, and the parameters, total and active.

A matrix product is counted three times: forward, for its input's gradient and for its
weights'. The input layer of a regressor counts twice, since its input needs no gradient.
Attention counts all pairs of places, those that the causal mask hides too, as torch's
FlopCounterMode does. Of experts those count that a token takes, and the router. What
backward computes again instead of keeping is left out: it is a choice of the code, not of
the model. So are elementwise operations, norms, softmax, the losses and the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from einc.scale.contestants import Contestant, profile
from einc.scale.models import Attention
from einc.scale.moe import FeedForwardMoE


@dataclass(frozen=True)
class Cost:
    """Multiply-adds forward a token, and the parameters that a token uses."""

    macs: Fraction
    active: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.active + other.active)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.macs * times, self.active * times)


def flops_per_step(
    model: nn.Module, contestant: Contestant, tokens: int, context: int
) -> int:
    """The training FLOPs of a step of `tokens` tokens in sequences of `context`."""
    macs = 3 * cost(model, contestant, tokens, context).macs
    if isinstance(model.embed, nn.Linear):
        macs -= model.embed.weight.numel()
    flops = 2 * macs * tokens
    assert flops.denominator == 1
    return flops.numerator


def parameters(model: nn.Module, contestant: Contestant, tokens: int) -> dict[str, int]:
    """The numbers of all parameters and of those that one token uses."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"total": total, "active": cost(model, contestant, tokens, 0).active}


def cost(module: Any, contestant: Contestant, tokens: int, context: int) -> Cost:
    """The sum over a module and what is in it."""
    own = Cost(Fraction(0), sum(p.numel() for p in module.parameters(recurse=False)))
    if isinstance(module, FeedForwardMoE):
        # All experts are alike.
        expert = cost(module.experts[0], contestant, tokens, context)
        return cost(module.router, contestant, tokens, context) + expert * module.top
    if hasattr(module, "lr_multipliers"):
        figures = profile(
            contestant, module.in_features, module.out_features, tokens
        ).figures
        assert figures is not None
        counts = figures.parameters
        idle = counts.total - counts.active
        macs = figures.work.matrix + counts.router
        return Cost(macs, own.active - idle)
    if isinstance(module, nn.Linear):
        own += Cost(Fraction(module.weight.numel()), 0)
    if isinstance(module, Attention):
        own += Cost(Fraction(2 * context * module.width), 0)
    for child in module.children():
        own += cost(child, contestant, tokens, context)
    return own
