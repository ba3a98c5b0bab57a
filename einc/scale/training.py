"""One job: a model is trained, and its validation loss logged against compute.

In: a `Job` and the data of its task. Out: what goes into its result file. A pure function
of both on one machine: no other state is read, and torch's generator is left as it was.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from statistics import median

import torch
from torch import nn

from einc.nn.training import auxiliary_loss, param_groups, routed
from einc.scale import compute, layers, parallel, tasks
from einc.scale.job import Job, Result
from einc.scale.tasks import Batch, Task

BETAS = (0.9, 0.95)
WARM_UP = 50
"""Steps in which the rate rises to its value, where it stays: a loss at any later step is
that of a run which ends there."""
FIRST, POINTS = 10, 20


def run(job: Job, task: Task) -> Result:
    """Trains; ends early, as "diverged", where a loss that is logged is not finite."""
    begun = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(job, "weights"))
        model = task.model(job.contestant, job.width, job.depth).to(job.device)
    flops = compute.flops_per_step(model, job.contestant, task.tokens, task.context)
    logged = set(points(job.steps))
    steps: list[int] = []
    losses: list[float] = []
    times: dict[str, list[float]] = {"step": [], "loss": []}
    for step in _trained(model, job, task, times["step"]):
        if step not in logged:
            continue
        start = time.perf_counter()
        loss = validation_loss(model, task)
        times["loss"].append(time.perf_counter() - start)
        if not math.isfinite(loss):
            break
        steps.append(step)
        losses.append(loss)
    return {
        "status": "finished" if steps and steps[-1] == job.steps else "diverged",
        "parameters": compute.parameters(model, job.contestant, task.tokens),
        "flops_per_step": flops,
        "log": {"step": steps, "flops": [flops * s for s in steps], "loss": losses},
        "seconds": time.perf_counter() - begun,
        "seconds_per_step": median(times["step"]),
        "seconds_per_loss": median(times["loss"]),
    }


def perform(job: Job, data: bytes | None = None) -> Result:
    """`run` in a process of its own, with the job's number of threads.

    The data are read, where nobody hands them over.
    """
    torch.set_num_threads(job.threads)
    return run(job, tasks.load(job.source, data))


def _trained(
    model: nn.Module, job: Job, task: Task, times: list[float]
) -> Iterator[int]:
    """The number of each step, after it; its seconds go into `times`."""
    adamw = optimizer(model, job, task)
    rate = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda done: min(1.0, (done + 1) / WARM_UP)
    )
    generator = torch.Generator().manual_seed(_seed(job, "batches"))
    is_routed = bool(routed(model))
    replica = parallel.replicated(model)
    for step in range(1, job.steps + 1):
        start = time.perf_counter()
        adamw.zero_grad()
        batch = task.batch(generator)
        mine = moved(parallel.share(batch), job.device)
        loss = task.loss(replica, mine)
        if is_routed:
            loss = loss + job.auxiliary * auxiliary_loss(model)
        loss = loss * parallel.weight(len(mine[0]), len(batch[0]))
        loss.backward()  # type: ignore[no-untyped-call]
        adamw.step()
        rate.step()
        if job.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        yield step


def optimizer(model: nn.Module, job: Job, task: Task) -> torch.optim.Optimizer:
    """AdamW without decay, by width muP from the base width."""
    with layers.without_values():
        base = task.model(job.contestant, job.base_width, job.depth)
    groups = param_groups(model, job.lr, base=base)
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, fused=True)


@torch.no_grad()
def validation_loss(model: nn.Module, task: Task) -> float:
    """The mean over the held-out batches, in eval mode; the model is left training."""
    model.eval()
    batches = task.validation()
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for mine in map(parallel.share, batches):
        if len(mine[0]):
            total += task.loss(model, moved(mine, device)) * len(mine[0])
    model.train()
    return float(parallel.summed(total) / sum(len(batch[0]) for batch in batches))


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """A batch on a device."""
    x, y = batch
    return x.to(device), y.to(device)


def points(steps: int) -> list[int]:
    """The steps whose loss is logged: about twenty, evenly apart in their logarithm.

    >>> points(100)[:4], points(100)[-1]
    ([10, 11, 13, 14], 100)
    """
    first = min(FIRST, steps)
    growth = (steps / first) ** (1 / (POINTS - 1))
    return sorted({round(first * growth**i) for i in range(POINTS)})


def _seed(job: Job, purpose: str) -> int:
    """Contestants and widths of one stage and seed share it: they see the same data."""
    text = f"{job.stage}/{job.seed}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
