"""One training run as a value, and the file of what came of it.

In: a `Job`, which says all that its numbers depend on. Out: `DIR/jobs/NAME.json`, written
whole when the job is done, or `NAME.failed.json` with what went wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from einc.errors import UsageError
from einc.scale.contestants import Contestant, safe
from einc.scale.tasks import Source

SCHEMA = "einc.scale-job/1"
FOLDER = "jobs"

Stage = Literal["time", "tune", "run"]
"""To know how long a step takes, to find the learning rate, and what is reported."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A contestant at one width, trained for `steps` at the rate `lr`.

    `lr` is that of dense layers at `base_width`; width muP does the rest. `seed` gives
    the first weights and the batches, other ones in each stage.
    """

    contestant: Contestant
    width: int
    seed: int
    stage: Stage
    lr: float
    steps: int
    base_width: int
    depth: int
    auxiliary: float
    threads: int
    source: Source
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Readable, safe as the name of a file, and its own within a study."""
        parts = [self.contestant.name, str(self.width)]
        parts.append(str(self.seed) if self.stage == "run" else self.stage)
        if self.stage == "tune":
            parts.append(f"{self.lr:.3g}")
        return safe("-".join(parts))

    @property
    def digest(self) -> str:
        """Of all that its numbers depend on: files of other jobs have another."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def read(folder: Path, job: Job) -> Result | None:
    """The result of a job that is done.

    Raises `UsageError` for a damaged file, and for that of another job.
    """
    path = folder / FOLDER / f"{job.name}.json"
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != SCHEMA or found["digest"] != job.digest:
            raise ValueError
        _check(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        raise UsageError(f"`{path}` is not the result of its job; remove it") from None
    return dict(found)


def _check(found: Mapping[str, Any]) -> None:
    """Raises LookupError, TypeError or ValueError where studies would stumble."""
    if found["status"] not in ("finished", "diverged"):
        raise ValueError
    losses = [float(loss) for loss in found["log"]["loss"]]
    if found["status"] == "finished" and not losses:
        raise ValueError
    for name in ("seconds", "seconds_per_step", "seconds_per_loss"):
        if not 0 <= found[name] < math.inf:
            raise ValueError


def write(folder: Path, job: Job, result: Result) -> None:
    """Keeps a result. Raises `UsageError` where it cannot be written."""
    document = {
        "schema": SCHEMA,
        "contestant": job.contestant.name,
        "width": job.width,
        "seed": job.seed,
        "stage": job.stage,
        "lr": job.lr,
        "digest": job.digest,
        **result,
    }
    failed = _failed(folder, job)
    put(folder / FOLDER / f"{job.name}.json", document)
    failed.unlink(missing_ok=True)


def write_failure(folder: Path, job: Job, error: str, story: str) -> None:
    """Keeps what went wrong; the job is tried again when the study goes on."""
    document = {"schema": SCHEMA, "job": job.name, "error": error, "story": story}
    put(_failed(folder, job), document)


def _failed(folder: Path, job: Job) -> Path:
    return folder / FOLDER / f"{job.name}.failed.json"


def put(path: Path, document: dict[str, Any]) -> None:
    """Writes JSON under a new name and then in place: whole or not at all."""
    new = path.with_suffix(".new")
    try:
        new.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        os.replace(new, path)
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from None
