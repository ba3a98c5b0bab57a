"""The models of a study: an MLP regressor and a small GPT, any linear layers inside.

In: a `Contestant`, a width and a depth. Out: a module whose inner layers are the
contestant's; inputs and output heads are dense. The names of modules are the same at any
width, so that one model is another's base for width muP.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from einc.scale.contestants import Contestant
from einc.scale.layers import dense, head

HEAD = 32
"""The features of an attention head; of a narrow model, what divides its width."""
EMBEDDED = 1.0
"""The standard deviation of embeddings at first."""


class Regressor(nn.Module):
    """(n, features) to (n, 1): a residual MLP of `depth` blocks, normed first."""

    def __init__(
        self,
        contestant: Contestant,
        width: int,
        depth: int,
        tokens: int,
        features: int,
    ) -> None:
        super().__init__()
        self.embed = dense(features, width)
        self.norm = nn.LayerNorm(width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.blocks = nn.ModuleList(
            contestant.feed_forward(width, tokens) for _ in range(depth)
        )
        self.head = head(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(nn.functional.gelu(self.embed(x)))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            z = z + block(norm(z))
        y: torch.Tensor = self.head(z)
        return y


class Attention(nn.Module):
    """Causal attention; its four projections are the contestant's."""

    def __init__(self, contestant: Contestant, width: int, tokens: int) -> None:
        super().__init__()
        self.width, self.heads = width, width // math.gcd(width, HEAD)
        self.query, self.key, self.value, self.out = (
            contestant.layer(width, width, tokens) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return y


class Block(nn.Module):
    """A transformer block, normed first."""

    def __init__(self, contestant: Contestant, width: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(contestant, width, tokens)
        self.mlp = contestant.feed_forward(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class Gpt(nn.Module):
    """(n, context) numbers of symbols to (n, context, symbols) logits of the next."""

    def __init__(
        self,
        contestant: Contestant,
        width: int,
        depth: int,
        tokens: int,
        symbols: int,
        context: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.places = nn.Embedding(context, width)
        for embedding in (self.embed, self.places):
            nn.init.normal_(embedding.weight, std=EMBEDDED)
        self.blocks = nn.Sequential(
            *(Block(contestant, width, tokens) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = head(width, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.embed(x) + self.places.weight[: x.shape[1]]
        y: torch.Tensor = self.head(self.norm(self.blocks(z)))
        return y
