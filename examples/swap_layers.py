"""Swaps the linear layers of a transformer block for structured ones, by their shape.

    python examples/swap_layers.py

Which structure goes where is a table from shapes to structures: the wide layers of the
feed-forward part become Block Tensor-Trains, the projections of attention Monarch
with four blocks; the rest stays dense. A class is generated once a shape.
"""

from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import einc

WIDTH, HEADS, TOKENS = 256, 4, 64
HERE = Path(__file__).parent

STRUCTURES = {
    (WIDTH, 4 * WIDTH): einc.load("btt", rank=2),
    (4 * WIDTH, WIDTH): einc.load("btt", rank=2),
    (WIDTH, WIDTH): einc.load(str(HERE / "monarch.ein"), blocks=4),
}


class Block(nn.Module):
    """A pre-norm transformer block with its projections as plain linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm1(x)
        heads = [p(z).unflatten(-1, (HEADS, -1)) for p in (self.query, self.key)]
        heads.append(self.value(z).unflatten(-1, (HEADS, -1)))
        q, k, v = (h.transpose(-2, -3) for h in heads)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(-2, -3).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def swap(model: nn.Module) -> None:
    """Replaces the linear layers whose shape is in the table, in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            shape = layer.in_features, layer.out_features
            if shape in STRUCTURES:
                cls = STRUCTURES[shape].module_class(*shape)
                setattr(parent, name, cls(bias=layer.bias is not None))


def describe(title: str, model: nn.Module) -> None:
    x = torch.randn(2, TOKENS, WIDTH)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(x).shape == x.shape
    size = sum(p.numel() for p in model.parameters())
    flops = counter.get_total_flops() // (2 * TOKENS)
    print(f"{title:12}{size:10,} parameters {flops:12,} FLOPs a token")


def main() -> None:
    torch.manual_seed(0)
    block = Block()
    describe("dense", block)
    swap(block)
    describe("structured", block)
    print()
    print(block)


if __name__ == "__main__":
    main()
