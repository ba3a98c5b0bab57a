"""Jobs on a Ray cluster.

In: jobs, a function that does one, and the cluster's address. Out: each with its result or
its failure, as they come. The jobs of a node that is lost begin again on another. Whatever
has come here is done: results are small, and Ray hands small ones to the process that asked,
so that none is left on a node. Nodes need einc; the data go with the jobs.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from typing import Any

from einc.errors import UsageError
from einc.scale import tasks
from einc.scale.job import Job, Result
from einc.scale.tasks import Source
from einc.scale.workers import Failure, tried

RETRIES = 3
"""How often a job begins again whose node or process was lost."""
REACH = 10
"""Seconds for the cluster's address to answer."""

Work = Callable[[Job, bytes], Result]
"""Does a job with the data of its task."""


class Cluster:
    """A connection to a cluster, for jobs of `threads` threads each.

    `run` is a `Runner`; at most `most` jobs are with the cluster at a time, or as many as
    its nodes have room for. Entering the context raises `UsageError` without Ray, where
    the address does not answer, and where no node has so many cores. Leaving it
    ends the jobs that are running.
    """

    def __init__(
        self, work: Work, address: str, threads: int, most: int | None = None
    ) -> None:
        self._work, self._address = work, address
        self._threads, self._most = threads, most
        self._data: dict[Source, Any] = {}

    def __enter__(self) -> Cluster:
        self._ray = _ray()
        with ExitStack() as stack:
            # Ray tells of lost nodes on stdout, which is for results.
            stack.enter_context(redirect_stdout(sys.stderr))
            stack.callback(self._ray.shutdown)
            _connect(self._ray, self._address)
            most = max(self._cores(), default=0)
            if most < self._threads:
                raise UsageError(
                    f"no node of the cluster has {self._threads} cores for the threads "
                    f"of a job, but {most} at most: lower --threads"
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._data.clear()

    @property
    def places(self) -> int:
        """How many jobs are done at a time, one at least."""
        room = sum(cores // self._threads for cores in self._cores())
        return max(1, room if self._most is None else min(room, self._most))

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Failure]]:
        remote = self._ray.remote(
            num_cpus=self._threads, max_retries=RETRIES, retry_exceptions=False
        )(_do)
        waiting = iter(jobs)
        running: dict[Any, Job] = {}
        while True:
            while len(running) < self.places:
                job = next(waiting, None)
                if job is None:
                    break
                data = self._shared(job.source)
                running[remote.remote(self._work, job, data)] = job
            if not running:
                return
            for ready in self._ray.wait(list(running))[0]:
                yield running.pop(ready), self._outcome(ready)

    def _shared(self, source: Source) -> Any:
        """The data of a task in the cluster's memory, put there once."""
        if source not in self._data:
            self._data[source] = self._ray.put(tasks.read(source))
        return self._data[source]

    def _outcome(self, ready: Any) -> Result | Failure:
        try:
            found: Result | Failure = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            kind, told = type(error).__name__, str(error).strip()
            return Failure(f"{kind}: {told.partition(chr(10))[0]}", told)
        return found

    def _cores(self) -> list[int]:
        """Those of each node that is alive."""
        return [
            int(node["Resources"].get("CPU", 0))
            for node in self._ray.nodes()
            if node["Alive"]
        ]


def _do(work: Work, job: Job, data: bytes) -> Result | Failure:
    return tried(lambda job: work(job, data), job)


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by Ray when it is imported
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray: pip install 'einc[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"cannot reach a Ray cluster at `{address}`: {reason}"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), REACH).close()
