"""Runs the modules of a file that `einc codegen` wrote, beside `nn.Linear`.

    einc codegen btt --in 1024 --out 1024 -o btt.py
    python examples/run_generated.py btt.py

The file is imported by its path and needs torch alone; so does this script. Biases
are left out, so that the figures are those of `einc analyze`.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BATCH = (8, 128)


def modules_of(path: Path) -> list[type[Any]]:
    """The generated classes of the file, in the order they are written in."""
    spec = importlib.util.spec_from_file_location("generated", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    return [
        value
        for value in vars(generated).values()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == generated.__name__
        and hasattr(value, "in_features")
    ]


def measure(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Size, int, int]:
    """Shape of the output, parameters, and FLOPs of a forward pass as torch counts."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = layer(x)
    params = sum(parameter.numel() for parameter in layer.parameters())
    return y.shape, params, counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the modules of a generated file.")
    parser.add_argument("file", type=Path, help="what `einc codegen -o` wrote")
    path = parser.parse_args().file
    if not path.is_file():
        raise SystemExit(f"{path}: no such file")
    classes = modules_of(path)
    if not classes:
        raise SystemExit(f"{path}: no generated module in it")

    torch.manual_seed(0)
    for cls in classes:
        d_in, d_out = cls.in_features, cls.out_features
        x = torch.randn(*BATCH, d_in)
        shape, params, flops = measure(cls(bias=False), x)
        _, dense_params, dense_flops = measure(nn.Linear(d_in, d_out, bias=False), x)
        tokens = x.numel() // d_in
        print(f"{cls.__name__}: {tuple(x.shape)} -> {tuple(shape)}")
        print(f"{'':16}{'generated':>16}{'nn.Linear':>16}{'ratio':>10}")
        for what, ours, dense in [
            ("parameters", params, dense_params),
            ("FLOPs", flops, dense_flops),
            ("FLOPs per token", flops // tokens, dense_flops // tokens),
        ]:
            print(f"{what:16}{ours:16,}{dense:16,}{ours / dense:10.4f}")


if __name__ == "__main__":
    main()
