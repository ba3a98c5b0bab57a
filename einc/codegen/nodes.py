"""The generated nn.Module as data, before it is text.

`Module` has parameters and the statements of `contract`, the map from (tokens, in)
to (tokens, out). Shapes are literal; -1 stands for what holds the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from einc.analysis.scaling import Scale


@dataclass(frozen=True)
class Parameter:
    """A factor: its shape is that of its indices in the order written.

    A normalized one has a scalar beside it, NAME_scale.
    """

    name: str
    indices: tuple[str, ...]
    shape: tuple[int, ...]
    scale: Scale
    normalized: bool


@dataclass(frozen=True)
class Local:
    """A local variable."""

    name: str


@dataclass(frozen=True)
class Attribute:
    """A parameter of the module."""

    name: str


@dataclass(frozen=True)
class Normalized:
    """A parameter over max(1, its RMS / std), times its scalar."""

    name: str
    std: float


@dataclass(frozen=True)
class Reshape:
    value: Value
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permute:
    value: Value
    order: tuple[int, ...]


@dataclass(frozen=True)
class Sum:
    value: Value
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Pad:
    """Zeros after the last `amount` features."""

    value: Value
    amount: int


@dataclass(frozen=True)
class Cut:
    """The first `size` features."""

    value: Value
    size: int


@dataclass(frozen=True)
class Product:
    """Of two matrices, of two batches of them ("bmm"), or elementwise; or a sum."""

    kind: Literal["matmul", "bmm", "multiply", "add"]
    left: Value
    right: Value


Value = Local | Attribute | Normalized | Reshape | Permute | Sum | Pad | Cut | Product


@dataclass(frozen=True)
class Assign:
    """`target = value`, with its layout; `comment` goes on lines before it."""

    target: str
    value: Value
    layout: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Module:
    """One class of a generated file; `body` ends with y assigned."""

    name: str
    title: str
    d_in: int
    d_out: int
    figures: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[Assign, ...]
