"""Prediction of the next pixel in scikit-learn's handwritten digits.

1,797 pictures of 8 x 8 pixels with 17 levels of grey, row by row after a symbol for the
start. Every fifth is for validation. They are few: a long run learns them by heart, and
its validation loss rises.
"""

from __future__ import annotations

import torch

from einc.errors import UsageError
from einc.scale.sequences import Sequences

LEVELS, PIXELS = 17, 64
BATCH, EVERY = 32, 5


def read() -> bytes:
    """The pictures, a byte a pixel. Raises `UsageError` without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "the task `pixels` needs scikit-learn: pip install 'einc[scale]'"
        ) from None
    found: bytes = load_digits().images.astype("uint8").tobytes()
    return found


def load(data: bytes) -> Sequences:
    """The task on pictures of `read`."""
    pictures = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, PIXELS)
    start = torch.full((len(pictures), 1), LEVELS, dtype=torch.uint8)
    rows = torch.cat([start, pictures], 1)
    held_out = torch.arange(len(rows)) % EVERY == EVERY - 1
    return Sequences(
        rows[~held_out].flatten(),
        rows[held_out].flatten(),
        LEVELS + 1,
        PIXELS,
        BATCH,
        PIXELS + 1,
    )
