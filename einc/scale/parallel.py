"""One job after the other on all processes that torchrun began, each with its share of
every batch.

In: jobs, at the process of rank 0. Out: their results, there; the others follow. Gradients
are averaged by torch's DistributedDataParallel, so that without routing the numbers are
those of one process up to rounding. Without torchrun every function here leaves things as
they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from einc.errors import UsageError
from einc.scale.job import Job, Result

Work = Callable[[Job], Result]


def processes() -> int:
    """How many torchrun began, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is; 0 is the one that writes."""
    return int(os.environ.get("RANK", 0))


class Together:
    """Rank 0 of all processes; `run` is a `Runner`.

    What a job raises ends the study, as a `UsageError`: the other processes would wait
    for this one's gradients.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __enter__(self) -> Together:
        dist.init_process_group("gloo")
        self._amid = False
        return self

    def __exit__(self, *_: object) -> None:
        if not self._amid:
            _broadcast(None)
        dist.destroy_process_group()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        for job in jobs:
            _broadcast(job)
            self._amid = True
            result = _done(self._work, job)
            self._amid = False
            yield job, result


def follow(work: Work) -> None:
    """Does the jobs of rank 0 with it, until it ends."""
    dist.init_process_group("gloo")
    try:
        while (job := _broadcast(None)) is not None:
            _done(work, job)
    finally:
        dist.destroy_process_group()


def replicated(model: nn.Module) -> nn.Module:
    """A model whose gradients are the means over all processes."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model)


def share(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's rows of a batch, which may be none."""
    if not dist.is_initialized():
        return batch
    x, y = batch
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    return x[mine], y[mine]


def weight(rows: int, of: int) -> float:
    """What the mean over a share counts, for the mean over shares to be the batch's.

    Raises `UsageError` where there are more processes than rows.
    """
    count = dist.get_world_size() if dist.is_initialized() else 1
    if count > of:
        raise UsageError(f"{count} processes cannot share a batch of {of}")
    return rows * count / of


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def _broadcast(job: Job | None) -> Job | None:
    """What rank 0 says; what others give does not count."""
    told = [job]
    dist.broadcast_object_list(told)
    return told[0]


def _done(work: Work, job: Job) -> Result:
    try:
        return work(job)
    except Exception as error:
        line = f"{type(error).__name__}: {error}".strip()
        raise UsageError(f"{job.name} failed on rank {rank()}: {line}") from error
