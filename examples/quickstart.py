"""A structured layer in place of nn.Linear: load, analyse, generate, train.

    python examples/quickstart.py

A small network learns to imitate a random dense one, once with nn.Linear and once with
Block Tensor-Train at half the size. The factors of a structured layer want learning
rates of their own, which it gives as multiples of the rate that suits nn.Linear; the
last row shows what becomes of it without them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import einc

FEATURES, BATCH, STEPS, RATE, DECAY = 256, 128, 150, 1e-3, 0.01


def network(linear: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(linear(), nn.GELU(), linear())


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups for AdamW: a rate for each parameter, and the same decay for all.

    AdamW takes away rate times decay, so the decay is divided by what multiplies the
    rate.
    """
    found = []
    for layer in model.modules():
        multipliers = getattr(layer, "lr_multipliers", lambda _: {})("adamw")
        for name, parameter in layer.named_parameters(recurse=False):
            factor = multipliers.get(name, 1.0)
            rates = {"lr": RATE * factor, "weight_decay": DECAY / factor}
            found.append({"params": [parameter], **rates})
    return found


def train(model: nn.Module, teacher: nn.Module, parameters: Any) -> float:
    """Trains; returns the error on fresh inputs, relative to that of answering zero."""
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        x = torch.randn(BATCH, FEATURES)
        loss = nn.functional.mse_loss(model(x), teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        x = torch.randn(2048, FEATURES)
        wanted = teacher(x)
        return float((model(x) - wanted).square().mean() / wanted.square().mean())


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # layers this small gain nothing from more

    structure = einc.load("btt", rank=4)
    report = structure.analyze(FEATURES, FEATURES)
    print(f"{structure.name}: {report.class_}, rank {report.figures.rank.generic}")
    print(f"parameters, of dense: {report.figures.parameter_share:.0%}")
    print(f"FLOPs, of dense:      {report.figures.flop_share:.0%}\n")

    Structured = structure.module_class(FEATURES, FEATURES)
    dense = network(lambda: nn.Linear(FEATURES, FEATURES))
    ours = network(Structured)
    flat = network(Structured)
    teacher = network(lambda: nn.Linear(FEATURES, FEATURES, bias=False))
    for name, model, parameters in [
        ("nn.Linear", dense, dense.parameters()),
        ("btt", ours, groups(ours)),
        ("btt, one rate", flat, flat.parameters()),
    ]:
        size = sum(p.numel() for p in model.parameters())
        error = train(model, teacher, parameters)
        print(f"{name:14}{size:8,} parameters   error {error:.2f}")


if __name__ == "__main__":
    main()
