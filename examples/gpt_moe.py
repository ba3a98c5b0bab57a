"""Trains a small GPT with experts in every linear layer but the head, twice.

    python examples/gpt_moe.py [--steps 300] [--width 128]

Each linear layer, those of attention among them, is btt_moe: Block Tensor-Train with
its rank index routed. The text is source code of Python's standard library, read as
bytes. The first run adds the auxiliary loss to the task's, the second leaves it out:
routers start at zero, so all tokens take the same experts until something parts them.
The paper's long runs weigh it by 0.01; 0.1 evens the load within a hundred steps.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn

import einc

CONTEXT, BATCH, DEPTH, HEADS, SYMBOLS = 64, 16, 2, 4, 128
RATE, DECAY, AUXILIARY = 2e-3, 0.1, 0.1
FILES = (
    "argparse.py",
    "ast.py",
    "datetime.py",
    "inspect.py",
    "pathlib.py",
    "typing.py",
)
MOE = einc.load("btt_moe", experts=8, active=2)


def text() -> torch.Tensor:
    """The library's source as one long vector of bytes, the few beyond ASCII cut."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = [folder / name for name in FILES if (folder / name).is_file()]
    data = b"".join(path.read_bytes() for path in found)
    return torch.tensor([byte for byte in data if byte < SYMBOLS])


def layer(d_in: int, d_out: int) -> nn.Module:
    return MOE.module_class(d_in, d_out)()


class Block(nn.Module):
    """A pre-norm transformer block, routed throughout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = layer(width, width), layer(width, width)
        self.value, self.out = layer(width, width), layer(width, width)
        self.up, self.down = layer(width, 4 * width), layer(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm1(x)
        q, k, v = (
            project(z).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, width)
        self.places = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = self.symbols(symbols) + self.places.weight[: symbols.shape[1]]
        return self.head(self.norm(self.blocks(x)))

    def routed(self) -> list[nn.Module]:
        return [m for m in self.modules() if hasattr(m, "auxiliary_loss")]


def optimizer(model: Gpt) -> torch.optim.Optimizer:
    """AdamW, each parameter of a structured layer at its multiple of the rate."""
    multiples = {
        parameter: module.lr_multipliers("adamw")[name]
        for module in model.routed()
        for name, parameter in module.named_parameters()
    }
    groups = [
        {
            "params": [parameter],
            "lr": RATE * multiples.get(parameter, 1.0),
            "weight_decay": DECAY / multiples.get(parameter, 1.0),
        }
        for parameter in model.parameters()
    ]
    return torch.optim.AdamW(groups)


def train(data: torch.Tensor, steps: int, width: int, weight: float) -> None:
    """Trains one model, and says how its loss and the load of its experts went."""
    torch.manual_seed(0)
    model = Gpt(width)
    adam = optimizer(model)
    for step in range(steps):
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,))
        batch = torch.stack([data[i : i + CONTEXT + 1] for i in starts.tolist()])
        logits = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        balance = torch.stack([m.auxiliary_loss() for m in model.routed()]).mean()
        adam.zero_grad()
        (loss + weight * balance).backward()
        adam.step()
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            found = [m.routing_statistics() for m in model.routed()]
            largest = sum(s["load"].max().item() for s in found) / len(found)
            used = sum(s["experts_in_use"] for s in found) / len(found)
            print(
                f"  step {step:4}  loss {loss.item():.3f}  experts in use {used:.1f}"
                f"  largest share {largest:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    data = text()
    print(f"{len(data):,} bytes of Python; 8 experts a layer, 2 a token")
    for weight in (AUXILIARY, 0.0):
        print(f"with {weight} of the auxiliary loss")
        train(data, options.steps, options.width, weight)


if __name__ == "__main__":
    main()
