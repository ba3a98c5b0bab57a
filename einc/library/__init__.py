"""The structures that einc ships, each a .ein file in this folder.

In: a name. Out: its `Source`, or its `Structure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

from einc import parser
from einc.resolve import resolve
from einc.source import Source
from einc.structure import Structure

NAMES = (
    "dense",
    "low_rank",
    "kronecker",
    "tensor_train",
    "tensor_train3",
    "tensor_train4",
    "block_diagonal",
    "monarch",
    "btt",
    "butterfly3",
    "blast",
    "tucker",
    "cp",
    "low_rank_plus_block",
    "multi_level_low_rank",
    "skip_low_rank",
    "einsum2",
    "dense_moe",
    "low_rank_moe",
    "kronecker_moe",
    "btt_moe",
)
"""In the order in which one would read them."""


@cache
def source(name: str) -> Source:
    """The text of a library structure. `name` is one of `NAMES`."""
    path = Path(__file__).with_name(f"{name}.ein")
    return Source.of(f"<library>/{name}.ein", path.read_text(encoding="utf-8"))


def structure(name: str, arguments: Mapping[str, Fraction] | None = None) -> Structure:
    """A library structure with `arguments` in place of its defaults."""
    text = source(name)
    (definition,) = parser.parse(text).definitions
    return resolve(definition, text, arguments)
