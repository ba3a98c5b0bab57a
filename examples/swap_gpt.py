"""Puts a structure into every linear layer of a small GPT but the head, and trains it.

    python examples/swap_gpt.py [--spec btt] [--steps 200] [--width 128] [--dry-run]

The model is an ordinary one, in the manner of nanoGPT: fused query, key and value, a
head that shares the embedding's weight. It knows nothing of einc: `restructure` swaps
its layers, `param_groups` gives each factor its rate. Any structure of the library will
do, or a path to your own. The text is source code of Python's standard library.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn

import einc

SYMBOLS, CONTEXT, BATCH = 128, 64, 16
FILES = ("argparse.py", "ast.py", "datetime.py", "inspect.py", "typing.py")


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(
        self, width: int, depth: int, heads: int, symbols: int, context: int
    ) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = (
            nn.LayerNorm(width),
            nn.Linear(width, symbols, bias=False),
        )
        self.head.weight = self.symbols.weight
        nn.init.normal_(self.symbols.weight, std=0.02)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = self.symbols(symbols) + self.places.weight[: symbols.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def loss(model: nn.Module, symbols: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of each symbol after those before it."""
    logits = model(symbols[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), symbols[:, 1:].flatten())


def text() -> torch.Tensor:
    folder = Path(sysconfig.get_path("stdlib"))
    data = b"".join((folder / name).read_bytes() for name in FILES)
    return torch.tensor([byte for byte in data if byte < SYMBOLS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", default="btt", help="a library structure or a path")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Gpt(options.width, 2, 4, SYMBOLS, CONTEXT)
    print(einc.nn.restructure(model, options.spec, dry_run=options.dry_run))
    if options.dry_run:
        return
    groups = einc.nn.param_groups(model, options.rate, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    data = text()
    is_routed = any(hasattr(layer, "router") for layer in model.modules())
    for step in range(options.steps):
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,)).tolist()
        batch = torch.stack([data[start : start + CONTEXT + 1] for start in starts])
        task = loss(model, batch)
        whole = task + 0.1 * einc.nn.auxiliary_loss(model) if is_routed else task
        optimizer.zero_grad()
        whole.backward()
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            print(f"step {step:4}: loss {task.item():.3f}")


if __name__ == "__main__":
    main()
