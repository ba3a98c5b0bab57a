"""btt_moe against computing all experts, a loop over experts and one dense layer.

    python benchmarks/routed.py [--quick] [--threads 2] [--device cpu] [-o FOLDER]

All four are whole layers: with bias, and the routed ones with the same router. Each
cell is one run in which the four take turns, and has their medians. The routed
competitors keep their weights as suits them: the loop expert by expert, all experts
as two batched products. The ideal is the time of the active FLOPs, the router's
among them, at the best matrix product rate measured on the machine. Kept is what
backward holds beside the parameters and x, in multiples of x.

Large temporaries are faulted in anew at every call with glibc's default malloc, which
hurts the competitors most: the table is made under one that keeps memory, and a few
cells again under the default.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import einc

KEEP = "glibc.malloc.mmap_threshold=17179869184:glibc.malloc.trim_threshold=17179869184"
LARGEST = 0.7e9
"""Bytes of the largest tensor of all experts: more is not run, for want of memory."""

FEATURES = (1024, 2304, 4096)
EXPERTS = (8, 16, 64)
TOKENS = (512, 4096, 8192)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class AllExperts(nn.Module):
    """The paper's way: every expert for every token, times a gate that is mostly 0."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        g, a, f, r = layer.A.shape
        e = layer.B.shape[-1]
        with torch.no_grad():
            first = layer.A.permute(0, 1, 3, 2).reshape(g, a, r * f)
            second = layer.B.reshape(f, g * r, e)
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        g, a, f, r = layer.A.shape
        gates, chosen = layer.route(x)
        gate = gates.new_zeros(len(x), r).scatter(1, chosen, gates).to(x.dtype)
        z = torch.bmm(x.view(-1, g, a).transpose(0, 1), self.first)
        z = z.view(g, -1, r, f) * gate[None, :, :, None]
        z = z.permute(3, 1, 0, 2).reshape(f, -1, g * r)
        return torch.bmm(z, self.second).transpose(0, 1).flatten(1) + layer.bias


class Loop(nn.Module):
    """A loop over experts that gathers and scatters: the usual plain code."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            first = layer.A.permute(3, 0, 1, 2).contiguous()
            second = layer.B.permute(2, 0, 1, 3).contiguous()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        gates, chosen = layer.route(x)
        y = torch.zeros_like(x)
        for r in range(layer.experts):
            tokens, places = (chosen == r).nonzero(as_tuple=True)
            if not len(tokens):
                continue
            rows = x[tokens].view(len(tokens), *self.first.shape[1:3])
            z = torch.einsum("nga,gaf->ngf", rows, self.first[r])
            rows = torch.einsum("ngf,fge->nfe", z, self.second[r]).flatten(1)
            gate = gates[tokens, places, None].to(x.dtype)
            y = y.index_add(0, tokens, rows * gate)
        return y + layer.bias


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def take_turns(
    runs: dict[str, Callable[[], Any]], rounds: int, device: str
) -> dict[str, float]:
    """The median of each, one run of each a round; the slow ones in fewer rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        times[name].append(seconds(run, device))
    slow = {name for name in runs if times[name][0] > 4.0}
    for turn in range(rounds):
        for name, run in runs.items():
            if name in slow and turn >= 2:
                continue
            times[name].append(seconds(run, device))
    # The first run warms up.
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """The best FLOPs a second of a few square products and of nn.Linear."""
    best = 0.0
    for n in (1024, 2048, 4096):
        a = torch.randn(n, n, device=device).to(dtype)
        linear = nn.Linear(n, n, bias=False, device=device, dtype=dtype)
        for run in (lambda a=a: a @ a, lambda a=a, linear=linear: linear(a)):
            with torch.no_grad():
                times = [seconds(run, device) for _ in range(5)]
            best = max(best, 2 * n**3 / min(times))
    return best


def kept(module: nn.Module, x: torch.Tensor) -> float:
    """What backward holds beside parameters and x, in multiples of x."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    own.add(x.untyped_storage().data_ptr())
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    del y
    return sum(found.values()) / (x.numel() * x.element_size())


def cell(
    d: int, experts: int, tokens: int, dtype: str, rounds: int, device: str
) -> dict[str, Any]:
    """One row of the table: milliseconds and memory of the four."""
    torch.manual_seed(0)
    kind = DTYPES[dtype]
    structure = einc.load("btt_moe", experts=experts)
    made = structure.module_class(d, d, tokens=tokens)
    layer: Any = made(device=device, dtype=kind)
    nn.init.normal_(layer.router, std=d**-0.5)
    layers: dict[str, nn.Module] = {
        "einc": layer,
        "loop": Loop(layer),
        "all experts": AllExperts(layer),
        "dense": nn.Linear(d, d, device=device, dtype=kind),
    }
    if tokens * experts * d * kind.itemsize > LARGEST:
        del layers["all experts"]
    x = torch.randn(tokens, d, device=device).to(kind)
    trained = x.clone().requires_grad_()
    pull = torch.randn_like(x)

    def forward(module: nn.Module) -> None:
        with torch.no_grad():
            module(x)

    def training(module: nn.Module) -> None:
        module(trained).backward(pull)
        module.zero_grad()
        trained.grad = None

    report = structure.analyze(d, d, tokens=tokens).to_json()
    active = report["flops"]["forward"] + report["flops"]["router"]
    with torch.no_grad():
        reference = layers["loop"](x)
        error = (layer(x) - reference).abs().max() / reference.abs().max()
    assert error < (0.05 if dtype == "bfloat16" else 1e-4), error
    row: dict[str, Any] = {
        "d": d,
        "experts": experts,
        "tokens": tokens,
        "dtype": dtype,
        "active_flops": active * tokens,
        "kept": {name: kept(module, trained) for name, module in layers.items()},
    }
    for name, run in (("forward", forward), ("training", training)):
        runs = {n: lambda run=run, m=m: run(m) for n, m in layers.items()}
        times = take_turns(runs, rounds, device)
        row[name] = {n: 1e3 * t for n, t in times.items()}
    return row


def measure(options: argparse.Namespace, cells: list[tuple[int, int, int, str]]) -> Any:
    rates = {name: matmul_rate(DTYPES[name], options.device) for name in DTYPES}
    rows = []
    for d, experts, tokens, dtype in cells:
        row = cell(d, experts, tokens, dtype, options.rounds, options.device)
        row["ideal"] = 1e3 * row["active_flops"] / rates[dtype]
        rows.append(row)
        print(line(row), file=sys.stderr, flush=True)
    return {"rates": rates, "rows": rows}


HEADER = """\
| d | experts | tokens | pass | einc, ms | x ideal | all experts / einc | loop / einc \
| einc / dense | kept: einc | loop | all | dense |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def line(row: dict[str, Any]) -> str:
    """The two lines of a row, forward and training, in Markdown."""
    lines = []
    for name, factor in (("forward", 1), ("training", 3)):
        times = row[name]
        own = times["einc"]
        everyone = times.get("all experts", math.nan)
        memory = [
            "" if n not in row["kept"] or name == "forward" else f"{row['kept'][n]:.1f}"
            for n in ("einc", "loop", "all experts", "dense")
        ]
        figures = [
            f"{own:.1f}",
            f"{own / (factor * row['ideal']):.1f}",
            "memory" if math.isnan(everyone) else f"{everyone / own:.1f}",
            f"{times['loop'] / own:.2f}",
            f"{own / times['dense']:.2f}",
            *memory,
        ]
        head = [row["d"], row["experts"], row["tokens"], name]
        lines.append("| " + " | ".join(map(str, [*head, *figures])) + " |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    return "\n".join([HEADER, *map(line, rows)])


def processor() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.split(":", 1)[1].strip()
    return platform.processor()


def in_child(options: argparse.Namespace, cells: Any, tunables: str) -> Any:
    """`measure` in a process of its own, which malloc's settings need."""
    command = [sys.executable, __file__, "--cells", json.dumps(cells)]
    command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
    command += ["--device", options.device]
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two cells alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--cells", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cells:
        print(json.dumps(measure(options, json.loads(options.cells))))
        return
    grid = [(d, r, n) for d in FEATURES for r in EXPERTS for n in TOKENS]
    few = [(2304, 16, n) for n in TOKENS]
    if options.quick:
        grid = few = few[:1]
    parts = [
        ("float32, malloc that keeps memory", "float32", grid, KEEP),
        ("float32, glibc's default malloc", "float32", few, ""),
        ("bfloat16, malloc that keeps memory", "bfloat16", grid, KEEP),
    ]
    device = processor()
    if options.device == "cuda":
        device = torch.cuda.get_device_name()
    found: dict[str, Any] = {}
    for title, dtype, cells, tunables in parts:
        found[title] = in_child(options, [(*c, dtype) for c in cells], tunables)
        # After each part: a run takes half an hour.
        write(found, device, options)


def write(found: dict[str, Any], device: str, options: argparse.Namespace) -> None:
    """The table on stdout or, with the figures as JSON, in a folder."""
    text = report(found, device, options)
    if not options.output:
        print(text)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"routed_{options.device}"
    (options.output / f"{name}.md").write_text(text)
    document = {"device": device, "torch": torch.__version__, "parts": found}
    (options.output / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def report(found: dict[str, Any], device: str, options: argparse.Namespace) -> str:
    rates = {n: max(p["rates"][n] for p in found.values()) for n in DTYPES}
    parts = [
        "# btt_moe, rank 1 an expert, top 2, as a layer of d features",
        "Written by `python benchmarks/routed.py -o benchmarks/results`, which says what "
        "is measured.",
        f"{device}, {options.threads} threads, torch {torch.__version__}. Medians of "
        f"{options.rounds} rounds in which the layers take turns (2 for those of over "
        "4 s). Best matrix product rate: "
        + ", ".join(f"{r / 1e9:.0f} GFLOP/s in {n}" for n, r in rates.items())
        + ". A ratio above 1 in the columns of all experts and of the loop says how many "
        "times slower they are; `memory` where the largest tensor of all experts has "
        f"over {LARGEST / 1e9} GB.",
    ]
    for title, part in found.items():
        parts += [f"## {title}", table(part["rows"])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
