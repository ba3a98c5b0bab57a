"""Jobs in processes of this machine, several at a time.

In: jobs, and a function that does one. Out: each with its result or its failure, as they
come. Another runner has the same face: `Runner`. A process that dies takes
one job with it and is replaced.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from types import FrameType
from typing import Any

from einc.scale.job import Job, Result

ENDING = 10
"""Seconds for a process to end that has let go of its connection."""


@dataclass(frozen=True)
class Failure:
    """What a job raised: one line, and the whole story."""

    error: str
    story: str = ""


Work = Callable[[Job], Result]
Runner = Callable[[Iterable[Job]], Iterator[tuple[Job, Result | Failure]]]
"""Does jobs in any order, and goes on after a failure."""


def tried(work: Work, job: Job) -> Result | Failure:
    """The result of a job, or what it raised."""
    try:
        return work(job)
    except Exception as error:
        line = f"{type(error).__name__}: {error}".strip()
        return Failure(line, traceback.format_exc())


class Pool:
    """`count` processes at most, begun as jobs come and kept for more.

    `run` is a `Runner`. Leaving the context ends the processes at once, with what they
    are at.
    """

    def __init__(self, work: Work, count: int) -> None:
        self._work, self._count = work, count
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Job]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.end()
        self._idle.clear()
        self._busy.clear()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Failure]]:
        waiting = deque(jobs)
        while waiting or self._busy:
            while waiting and len(self._busy) < self._count:
                worker = self._idle.pop() if self._idle else _Worker(self._work)
                job = waiting.popleft()
                worker.give(job)
                self._busy[worker.connection] = worker, job
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                worker, job = self._busy.pop(ready)
                outcome = worker.take()
                if outcome is None:
                    yield job, Failure(f"its process ended: {worker.told()}")
                else:
                    self._idle.append(worker)
                    yield job, outcome


@dataclass
class _Worker:
    """A process that does one job after the other."""

    work: Work
    connection: Connection = field(init=False)

    def __post_init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self.work), daemon=True
        )
        with _deaf():
            self._process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        with suppress(OSError):  # it is dead: `take` finds that out
            self.connection.send(job)

    def take(self) -> Result | Failure | None:
        """What became of the job; None where the process is dead."""
        try:
            found: Result | Failure = self.connection.recv()
        except (EOFError, OSError):
            return None
        return found

    def end(self) -> None:
        """Ends the process, whatever it is at."""
        self._process.terminate()
        self._process.join()
        self.connection.close()

    def told(self) -> str:
        """How a process ended that did so by itself."""
        self._process.join(ENDING)
        self.end()
        code = self._process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"status {code}"


def _end_with_parent() -> None:
    """However that ends: nobody is left to take a result."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin here do not hear Ctrl-C: who began them ends them."""
    before: Callable[[int, FrameType | None], Any] | int | None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, work: Work) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        outcome = tried(work, job)
        try:
            connection.send(outcome)
        except OSError:  # nobody is left to take it
            return
