"""Character-level language modelling on any text.

In: the bytes of a text, UTF-8. Out: `Sequences` of its characters. Of twenty blocks one
is for validation, so that both parts are of the same kind; training sees nothing of it.
Characters that the training text has, but for rare ones, are symbols; the others share
one.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import torch

from einc.errors import UsageError
from einc.scale.sequences import Sequences

CONTEXT, BATCH = 128, 16
BLOCK, EVERY = 16_384, 20
RARE = 1e-5
"""Up to which share of the training text a character has no symbol of its own."""
MOST_SYMBOLS = 256
CHARACTERS = 0x110000
LEAST_CHARACTERS = 20_000
MAX_BYTES = 1 << 26

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
"""Folders of the standard library's that are no source text of its own."""


def read(path: str) -> bytes:
    """A file's bytes; without a path the sources of Python's standard library.

    Raises `UsageError` for what cannot be read or is too large.
    """
    if not path:
        return b"".join(found.read_bytes() for found in library())
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read `{path}`: {reason}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"`{path}` has over {MAX_BYTES >> 20} MiB")
    return data


def library() -> list[Path]:
    """The files of Python's standard library, its tests left out, in one order."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(
        path
        for path in root.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(root).parts)
    )


def load(data: bytes) -> Sequences:
    """The task on a text. Raises `UsageError` where it is no UTF-8 or too short."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the text is no UTF-8: {error.reason}") from None
    if len(text) < LEAST_CHARACTERS:
        raise UsageError(
            f"the text has {len(text):,} characters, and {LEAST_CHARACTERS:,} are needed"
        )
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    block = min(BLOCK, len(characters) // EVERY)
    held_out = np.arange(len(characters)) // block % EVERY == EVERY - 1
    training, validation = characters[~held_out], characters[held_out]
    if len(np.unique(training)) < 2:
        raise UsageError(
            "the text is of one character, of which nothing can be learned"
        )
    table = numbers(training)
    return Sequences(
        torch.from_numpy(table[training]),
        torch.from_numpy(table[validation]),
        int(table.max()) + 1,
        CONTEXT,
        BATCH,
    )


def numbers(training: np.ndarray) -> np.ndarray:
    """The number of every character there can be, by its code point.

    From 1 on for those that `training` has often enough; 0 for all others.
    """
    counts = np.bincount(training, minlength=CHARACTERS)
    often = np.argsort(-counts, kind="stable")[: MOST_SYMBOLS - 1]
    often = np.sort(often[counts[often] > RARE * len(training)])
    table = np.zeros(CHARACTERS, np.uint8)
    table[often] = np.arange(1, len(often) + 1)
    return table
