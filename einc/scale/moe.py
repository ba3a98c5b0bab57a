"""The standard mixture of experts: whole MLP blocks, of which a token takes a few.

Its router, gates and auxiliary loss are those of einc's generated routed modules, so that
what is compared is where experts stand and what they are. No token is dropped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from einc.scale.layers import FeedForward, dense


class FeedForwardMoE(nn.Module):
    """`experts` dense MLP blocks of width -> hidden -> width; a token takes `top`.

    Each is computed for the tokens that chose it and no others.
    """

    def __init__(self, width: int, hidden: int, experts: int, top: int) -> None:
        super().__init__()
        self.top = top
        self.router = nn.Linear(width, experts, bias=False)
        nn.init.zeros_(self.router.weight)
        self.experts = nn.ModuleList(
            FeedForward(dense(width, hidden), dense(hidden, width))
            for _ in range(experts)
        )
        self._loss: torch.Tensor | None = None
        self._load: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        gates, chosen = self.route(rows)
        expert, places = chosen.flatten().sort(stable=True)
        tokens = places // self.top
        counts = expert.bincount(minlength=len(self.experts)).tolist()
        parts = torch.split(rows[tokens], counts)
        results = torch.cat(
            [block(part) for block, part in zip(self.experts, parts, strict=True)]
        )
        gated = results * gates.flatten()[places, None]
        return torch.zeros_like(rows).index_add(0, tokens, gated).view_as(x)

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gates and the experts of each token, (n, top) both, for x of (n, width)."""
        logits = self.router(x)
        best, chosen = logits.topk(self.top)
        if self.training:
            self._record(logits, chosen)
        return best.softmax(-1), chosen

    def _record(self, logits: torch.Tensor, chosen: torch.Tensor) -> None:
        share = logits.softmax(-1).mean(0)
        load = chosen.flatten().bincount(minlength=len(share)) / chosen.numel()
        log_partition = logits.logsumexp(-1).square().mean()
        self._loss = len(share) * (share * load).sum() + 0.1 * log_partition
        self._load = load

    def auxiliary_loss(self) -> torch.Tensor:
        """The balance and router loss of the latest forward in training mode, once.

        experts * sum(share of probability * share of tokens) + 0.1 * the mean squared
        log-partition. RuntimeError where there is none.
        """
        if self._loss is None:
            raise RuntimeError("no forward in training mode since the last reading")
        loss, self._loss = self._loss, None
        return loss

    def routing_statistics(self) -> dict[str, Any]:
        """Of the latest forward in training mode, as generated modules tell them."""
        if self._load is None:
            raise RuntimeError("no forward in training mode yet")
        return {
            "load": self._load,
            "entropy": torch.special.entr(self._load).sum().item(),
            "experts_in_use": int((self._load > 0).sum()),
        }

    def train(self, mode: bool = True) -> FeedForwardMoE:
        """Changes the mode: the loss and the load of the batch before are gone."""
        self._loss = self._load = None
        return super().train(mode)
