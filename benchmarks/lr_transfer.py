"""Does the best learning rate of a narrow network stay the best of a wide one?

    python benchmarks/lr_transfer.py [--quick] [--threads 2] [-o FOLDER]

An MLP 8 -> d -> d -> d -> 1 with ReLU learns a fixed random ReLU network by AdamW
without weight decay, at a constant rate. Its two d x d layers have the structure
under test; the first and the last are nn.Linear. At width d and base rate `lr` the
rates are those of muP, with base width 64:

    first layer, every bias     lr
    last layer                  lr * 64 / d
    factor of a d x d layer     lr * 64 / d * lr_multipliers("adamw")[factor]

The last line is taken once as it is and once with every multiplier set to 1. For
dense the two are one, and measured once.

A loss is the mean squared error on held-out samples after the last step, where
answering the mean has 1; a curve is the mean of it over seeds, which draw the
initial weights. Data and order of minibatches are the same for all. Where a run
diverged, its loss is null and that point of the curve is missing. Written are the
table, all losses and the curves.

Each run has one thread, and `--threads` of them go on at a time, so that the losses
do not depend on it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import einc

STRUCTURES = ("dense", "btt", "kronecker", "low_rank")
SETTINGS = {True: "multipliers", False: "all set to 1"}
BASE = 64
"""The width at which muP changes nothing."""
RATES = {
    ("dense", True): (-11, -4),
    ("btt", True): (-11, -4),
    ("btt", False): (-9, -2),
    ("kronecker", True): (-11, -4),
    ("kronecker", False): (-9, -2),
    ("low_rank", True): (-11, -4),
    ("low_rank", False): (-10, -3),
}
"""Least and greatest base rate, as powers of 2; the same for all widths."""


@dataclass(frozen=True)
class Config:
    widths: tuple[int, ...] = (64, 128, 256, 512)
    seeds: int = 4
    steps: int = 250
    batch: int = 512
    inputs: int = 8
    teacher_width: int = 64
    training_samples: int = 65536
    validation_samples: int = 8192
    data_seed: int = 0


QUICK = Config(widths=(64, 128), seeds=1, steps=10, training_samples=5120)

Losses = dict[tuple[str, bool, int, int], list[float | None]]
"""By structure, multipliers, width and log2 of the base rate: one loss a seed."""


def spectral_(weight: torch.Tensor) -> None:
    """Initial weights of a dense layer by the spectral condition of muP."""
    fan_out, fan_in = weight.shape
    std = math.sqrt(1 / fan_in) * min(1.0, math.sqrt(fan_out / fan_in))
    nn.init.normal_(weight, std=std)


@functools.cache
def data(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, of which the last are for validation."""
    torch.manual_seed(config.data_seed)
    wide = config.teacher_width
    first = torch.randn(config.inputs, wide) * math.sqrt(2 / config.inputs)
    second = torch.randn(wide, wide) * math.sqrt(2 / wide)
    last = torch.randn(wide, 1)
    x = torch.randn(config.training_samples + config.validation_samples, config.inputs)
    y = ((x @ first).relu() @ second).relu() @ last
    return x, (y - y.mean()) / y.std()


@functools.cache
def order(config: Config) -> torch.Tensor:
    """The samples of each step: epochs, each in an order of its own."""
    generator = torch.Generator().manual_seed(config.data_seed + 1)
    samples, needed = config.training_samples, config.steps * config.batch
    epochs = [
        torch.randperm(samples, generator=generator)
        for _ in range(math.ceil(needed / samples))
    ]
    return torch.cat(epochs)[:needed].view(config.steps, config.batch)


def student(structure: str, width: int, inputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    made = einc.load(structure).module_class(width, width)
    first, last = nn.Linear(inputs, width), nn.Linear(width, 1)
    for layer in (first, last):
        spectral_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), made(), nn.ReLU(), made(), nn.ReLU(), last)


def groups(
    model: nn.Sequential, width: int, rate: float, multipliers: bool
) -> list[dict[str, Any]]:
    """Groups for AdamW: a rate for each parameter, as the table above has them."""
    found = []
    first = model[0]
    for layer in model:
        factors = {}
        if multipliers and hasattr(layer, "lr_multipliers"):
            factors = layer.lr_multipliers("adamw")
        for name, parameter in layer.named_parameters():
            own = rate
            if name != "bias" and layer is not first:
                own = rate * BASE / width * factors.get(name, 1.0)
            found.append({"params": [parameter], "lr": own})
    return found


def train(
    config: Config, structure: str, multipliers: bool, width: int, power: int, seed: int
) -> float | None:
    """The loss on held-out samples after training; None if it diverged."""
    x, y = data(config)
    model = student(structure, width, config.inputs, seed)
    parameters = groups(model, width, 2.0**power, multipliers)
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    for samples in order(config):
        loss = nn.functional.mse_loss(model(x[samples]), y[samples])
        if not math.isfinite(loss.item()):
            return None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        held = slice(config.training_samples, None)
        final = nn.functional.mse_loss(model(x[held]), y[held]).item()
    # Six digits are more than the seeds agree on, and keep the file small.
    return float(f"{final:.6g}") if math.isfinite(final) else None


def measure(config: Config, rates: dict[Any, range], threads: int) -> Losses:
    """All runs, the long ones first, so that no thread is left alone with one."""
    cells = [
        (structure, multipliers, width, power)
        for width in sorted(config.widths, reverse=True)
        for (structure, multipliers), powers in rates.items()
        for power in powers
    ]
    found: Losses = {}
    with ProcessPoolExecutor(
        threads,
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        runs = {
            cell: [
                pool.submit(train, config, *cell, seed) for seed in range(config.seeds)
            ]
            for cell in cells
        }
        for cell, futures in runs.items():
            found[cell] = [future.result() for future in futures]
            print(*cell, found[cell], file=sys.stderr, flush=True)
    return found


@dataclass(frozen=True)
class Curve:
    """Loss against base rate, of one structure, setting and width."""

    powers: tuple[int, ...]
    seeds: tuple[tuple[float | None, ...], ...]

    @property
    def means(self) -> list[float | None]:
        """A point for each rate; none where any seed diverged."""
        return [mean(losses) for losses in self.seeds]

    @property
    def best(self) -> int:
        """Which of the powers has the least mean."""
        return lowest(self.means)

    @property
    def inside(self) -> bool:
        """Whether the grid goes on to both sides of the best."""
        return 0 < self.best < len(self.powers) - 1

    def bests(self) -> list[int]:
        """The best power of each seed by itself."""
        return [self.powers[lowest(losses)] for losses in zip(*self.seeds, strict=True)]

    def vertex(self) -> float:
        """log2 of the best rate, by the parabola through log loss at three points."""
        i = self.best
        near = self.means[max(i - 1, 0) : i + 2]
        if not self.inside or None in near:
            return float(self.powers[i])
        left, middle, right = (math.log(value) for value in near if value is not None)
        return self.powers[i] + (left - right) / (2 * (left - 2 * middle + right))


def mean(losses: Sequence[float | None]) -> float | None:
    finite = [loss for loss in losses if loss is not None]
    return statistics.fmean(finite) if len(finite) == len(losses) else None


def lowest(losses: Sequence[float | None]) -> int:
    """Where the least loss is; one that diverged is greater than any."""
    filled = [math.inf if loss is None else loss for loss in losses]
    return filled.index(min(filled))


def curves(found: Losses) -> dict[tuple[str, bool], dict[int, Curve]]:
    """By structure and setting, then by width from narrow to wide."""
    result: dict[tuple[str, bool], dict[int, Curve]] = {}
    for structure, multipliers, width in sorted({cell[:3] for cell in found}):
        powers = sorted(c[3] for c in found if c[:3] == (structure, multipliers, width))
        seeds = [tuple(found[structure, multipliers, width, p]) for p in powers]
        curve = Curve(tuple(powers), tuple(seeds))
        result.setdefault((structure, multipliers), {})[width] = curve
    return {cell: result[cell] for cell in RATES}


def line(structure: str, multipliers: bool, widths: dict[int, Curve]) -> str:
    """A row of the table, in Markdown."""
    narrow, wide = min(widths), max(widths)
    first, last = widths[narrow], widths[wide]
    shift = last.powers[last.best] - first.powers[first.best]
    alone = [b - a for a, b in zip(first.bests(), last.bests(), strict=True)]
    kept = last.means[first.best]
    least = last.means[last.best]
    ratio = kept / least if kept is not None and least is not None else None
    cells = [
        structure,
        "yes = no" if structure == "dense" else "yes" if multipliers else "no",
        *(
            f"2^{c.powers[c.best]}{'' if c.inside else ' (edge)'}"
            for c in widths.values()
        ),
        f"{shift:+d}",
        f"{last.vertex() - first.vertex():+.1f}",
        ", ".join(f"{s:+d}" for s in alone),
        *(number(c.means[c.best], "{:.4f}") for c in widths.values()),
        number(ratio, "{:.2f}"),
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, form: str) -> str:
    return "diverged" if value is None else form.format(value)


def table(config: Config, found: Losses) -> str:
    narrow, wide = min(config.widths), max(config.widths)
    heads = [
        "structure",
        "multipliers",
        *(f"best rate, d = {width}" for width in config.widths),
        "shift",
        "of parabola",
        "seed by seed",
        *(f"loss, d = {width}" for width in config.widths),
        f"d = {wide} at the best rate of {narrow}",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [line(*cell, widths) for cell, widths in curves(found).items()]
    return "\n".join(lines)


def report(config: Config, found: Losses, command: str, threads: int) -> str:
    narrow, wide = min(config.widths), max(config.widths)
    parts = [
        "# Transfer of the learning rate across widths",
        f"Written by `{command}`, which says what is measured.",
        f"{versions(threads)}. {config.steps} steps of {config.batch} samples, base rates "
        f"in powers of 2, seeds: {config.seeds}.",
        f"The shift is that of the best base rate from d = {narrow} to d = {wide}, in "
        "octaves: 0 where it transfers. Beside the best rate of the grid it is given "
        "for the vertex of a parabola through the best point and its neighbours, and "
        "for the best rates of each seed alone. The last column is the loss at "
        f"d = {wide} with the rate that was best at d = {narrow}, as a multiple of the "
        f"best loss at d = {wide}.",
        table(config, found),
    ]
    return "\n\n".join(parts) + "\n"


def versions(threads: int) -> str:
    return (
        f"{processor()}, {threads} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, einc {einc.__version__}"
    )


def processor() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.split(":", 1)[1].strip()
    return platform.processor()


def document(config: Config, found: Losses, threads: int) -> dict[str, Any]:
    return {
        "versions": versions(threads),
        "config": {**asdict(config), "base_width": BASE, "optimizer": "AdamW"},
        "curves": [
            {
                "structure": structure,
                "multipliers": multipliers,
                "width": width,
                "log2_rates": curve.powers,
                "losses": curve.seeds,
            }
            for (structure, multipliers), widths in curves(found).items()
            for width, curve in widths.items()
        ],
    }


def draw(config: Config, found: Losses, file: Path) -> None:
    """Small multiples, a column a structure and a row a setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    styles = [("0.5", ":"), ("0.4", "--"), ("0.2", "-."), ("0", "-")]
    drawn = curves(found)
    losses = [m for ws in drawn.values() for c in ws.values() for m in c.means if m]
    # The same bytes at every run: fixed ids and no date.
    with matplotlib.rc_context({"svg.hashsalt": "einc", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            len(SETTINGS),
            len(STRUCTURES),
            figsize=(11, 5.4),
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        for row, (multipliers, title) in zip(axes, SETTINGS.items(), strict=True):
            for axis, structure in zip(row, STRUCTURES, strict=True):
                # Dense has no multiplier other than 1.
                setting = multipliers or structure == "dense"
                widths = drawn[structure, setting]
                axis.set_title(f"{structure}, {title}", fontsize=9)
                for (width, curve), (grey, style) in zip(
                    widths.items(), styles, strict=False
                ):
                    # A missing point is a gap in the line.
                    means = [math.nan if m is None else m for m in curve.means]
                    axis.plot(
                        curve.powers, means, style, color=grey, label=f"d = {width}"
                    )
                    axis.plot(
                        curve.powers[curve.best], means[curve.best], "o", color=grey
                    )
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_locator(ticker.NullLocator())
                # Above 2 is worse than answering the mean, and of no interest.
                axis.set_ylim(0.8 * min(losses), min(1.25 * max(losses), 2))
                axis.grid(alpha=0.3)
        axes[0][0].legend(fontsize=8)
        figure.supxlabel("log2 of the base rate")
        figure.supylabel("validation loss")
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    config = QUICK if options.quick else Config()
    rates = {cell: range(a, b + 1) for cell, (a, b) in RATES.items()}
    if options.quick:
        rates = {cell: powers[::3] for cell, powers in rates.items()}
    if options.output:
        import matplotlib  # noqa: F401  # rather missed now than after ten minutes

    start = time.perf_counter()
    found = measure(config, rates, options.threads)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    command = "python benchmarks/lr_transfer.py"
    command += " --quick" if options.quick else ""
    command += f" -o {options.output}" if options.output else ""
    text = report(config, found, command, options.threads)
    if not options.output:
        print(text, end="")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "lr_transfer.md").write_text(text)
    compact = json.dumps(
        document(config, found, options.threads), separators=(",", ":")
    )
    (options.output / "lr_transfer.json").write_text(compact + "\n")
    draw(config, found, options.output / "lr_transfer.svg")


if __name__ == "__main__":
    main()
