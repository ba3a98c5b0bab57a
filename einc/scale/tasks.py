"""The tasks by name: what a study trains on.

In: a `Source`, which says what is to be read. Out: a `Task`, the data in memory with the
model and the loss that go with it. Nothing is downloaded; the same source gives the same
tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import nn

from einc.errors import UsageError
from einc.scale import pixels, regression, text
from einc.scale.contestants import Contestant

KINDS = ("regression", "text", "pixels")

Batch = tuple[torch.Tensor, torch.Tensor]


class Task(Protocol):
    """Data in memory. A step trains on `tokens` tokens, in sequences of `context`."""

    @property
    def tokens(self) -> int: ...

    @property
    def context(self) -> int: ...

    def model(self, contestant: Contestant, width: int, depth: int) -> nn.Module:
        """A model with fresh weights, drawn from torch's generator."""
        ...

    def batch(self, generator: torch.Generator) -> Batch:
        """What one step trains on."""
        ...

    def validation(self) -> Sequence[Batch]:
        """What the validation loss is measured on, nothing of it ever in a `batch`."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch."""
        ...


@dataclass(frozen=True)
class Source:
    """What a task is made of: its kind, a file for `text`, and the data's digest.

    Without a file `text` is the source text of Python's standard library.
    """

    kind: str
    file: str = ""
    sha256: str = ""

    @property
    def has_attention(self) -> bool:
        return self.kind != "regression"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Source:
        return cls(value["kind"], value["file"], value["sha256"])

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def sealed(source: Source) -> Source:
    """With the digest of what is there now. Raises `UsageError` as `load` does."""
    return replace(source, sha256=hashlib.sha256(read(source)).hexdigest())


@lru_cache(maxsize=2)
def load(source: Source, data: bytes | None = None) -> Task:
    """The task, made once a process, of `data` where another process has read them.

    Raises `UsageError` where the data cannot be read, or are not what they were when
    the source was sealed.
    """
    if data is None:
        data = read(source)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise UsageError(
            f"the data of the task `{source.kind}` are not what the study began with"
        )
    if source.kind == "regression":
        return regression.load()
    return text.load(data) if source.kind == "text" else pixels.load(data)


def read(source: Source) -> bytes:
    """What the task is made of. Raises `UsageError` where it cannot be read."""
    match source.kind:
        case "text":
            return text.read(source.file)
        case "pixels":
            return pixels.read()
        case _:
            return b""  # drawn, not read
