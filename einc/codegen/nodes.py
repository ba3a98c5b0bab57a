"""The generated nn.Module as data, before it is text.

`Module` has parameters and the statements of `contract`, the map from (tokens, in)
to (tokens, out). Shapes are literal; -1 stands for what holds the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from einc.analysis.scaling import Scale
from einc.codegen.choices import Dtype


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
class Contiguous:
    """The same, its last dimension the fastest in memory."""

    value: Value


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
class Space:
    """The head of a buffer in a shape, in which -1 stands for what holds the tokens.

    `rows` is what that dimension has for each token.
    """

    buffer: str
    shape: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Product:
    """Of two matrices, of two batches of them ("bmm"), or elementwise; or a sum.

    "expanded", the left one is a matrix and multiplies each of a batch. The product is
    written to `out`, where that is given. Where `bias` is, the module's bias is added to
    it, broadcast from that shape.
    """

    kind: Literal["matmul", "bmm", "expanded", "multiply", "add"]
    left: Value
    right: Value
    out: Space | None = None
    bias: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GroupedProduct:
    """(b, n, s) times (experts, b, s, c), or its grouped half (n, s) times each (s, c).

    Rows of one expert stand together, `rows` of them for each of its tokens.
    """

    left: Value
    right: Value
    rows: int


@dataclass(frozen=True)
class ExpertWeight:
    """The weight of one expert, or in a grouped form of the expert of each token."""

    name: str
    of_each_token: bool = False


@dataclass(frozen=True)
class ExpertsCall:
    """What an `Experts` of this name makes of (n, width_in): (n, width_out)."""

    experts: str
    source: Local | Attribute
    weights: tuple[Local | Attribute, ...]


View = Reshape | Permute | Contiguous | Sum | Pad | Cut
"""What has one tensor, `value`, and multiplies nothing."""


@dataclass(frozen=True)
class ChunksCall:
    """What the module's `products` make of x, (n, in), and weights: (n, out).

    With the module's bias, where it is `biased`.
    """

    source: Local
    weights: tuple[Local | Attribute, ...]
    biased: bool


Value = (
    Local
    | Attribute
    | Normalized
    | View
    | Product
    | GroupedProduct
    | ExpertWeight
    | ExpertsCall
    | ChunksCall
)


@dataclass(frozen=True)
class Assign:
    """`target = value`, with its layout; `comment` goes on lines before it.

    Each line of it is a comment of its own.
    """

    target: str
    value: Value
    layout: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Accumulate:
    """`gradient += value`, a matrix product in place."""

    gradient: Local | ExpertWeight
    value: Value


@dataclass(frozen=True)
class Weight:
    """A tensor that experts use, as an argument of their functions.

    `layout` is that of one expert's; where `per_expert`, they are stacked.
    """

    name: str
    layout: str
    per_expert: bool


@dataclass(frozen=True)
class Experts:
    """What each expert computes for its tokens, forward and backward, in chunks.

    The statements are over the rows of one expert: `forward` leads to `result`,
    (n, width_out) with the gates in; `again` is what backward computes again, from
    `scaled` rows, and `backward` leads to `gradient` of the rows and
    `gate_gradient`. `grouped` leads to `grouped_result` for all experts at once, or is None where no
    grouped product takes the sizes. `macs` and `macs_backward` are the multiply-adds
    of the matrix products for one token at one expert.
    """

    name: str
    count: int
    width_in: int
    width_out: int
    weights: tuple[Weight, ...]
    chunk: int
    forward: tuple[Assign, ...]
    result: Value
    again: tuple[Assign, ...]
    backward: tuple[Assign | Accumulate, ...]
    gradient: Value
    gate_gradient: Value
    grouped: tuple[Assign, ...] | None
    grouped_result: Value
    macs: int
    macs_backward: int


@dataclass(frozen=True)
class Guarded:
    """A statement for the gradients of the arguments `first` to `last` of `Chunks`.

    They are counted from 0, which is x. What no gradient is asked for is skipped.
    """

    first: int
    last: int
    statement: Assign


@dataclass(frozen=True)
class Chunks:
    """What is computed for `size` tokens at a time, forward and backward.

    `forward` leads from the `arguments`, x and weights, to `result`, of which the first dimension is the
    tokens' and the others together the features; `kept` of it are what backward reads,
    unless it computes them `again`. `backward` leads from the `incoming` gradient of the
    result to the gradients of the arguments, of those that are `wanted`, under `names`.
    """

    size: int
    arguments: tuple[str, ...]
    forward: tuple[Assign, ...]
    result: Value
    kept: tuple[str, ...]
    again: tuple[Assign, ...]
    wanted: str
    incoming: str
    names: tuple[str, ...]
    backward: tuple[Guarded, ...]

    @property
    def biased(self) -> bool:
        """Whether `forward` adds the bias, which otherwise is left for its result."""
        return any(adds_bias(statement.value) for statement in self.forward)


@dataclass(frozen=True)
class Router:
    """How many experts a module has, and how many a token takes."""

    experts: int
    top: int


@dataclass(frozen=True)
class Fused:
    """Two contractions of x as one call of a kernel.

    `arguments` are what it takes: x as (n, g, a) and the `weights` as (g, a, f, r) and
    (f, g, r, e); `result` is (n, out_features) from its y, (n, f, e). `blocks` are, by
    bytes of a value, how much of n, g, a and f a program takes forward and backward.
    """

    equation: str
    weights: tuple[Value, ...]
    arguments: tuple[Assign, ...]
    layout: str
    result: Value
    blocks: Mapping[int, tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class Native:
    """Products of x with one of the `weights` each as one call of a kernel in C.

    `source` is what this structure has of it for `dtype`, `equation` an einsum whose
    operands have these `shapes`, x and y for one token; `multiplies` are the
    multiply-adds of each product for a token. The call takes `x`, of at least `least`
    tokens, without gradients and with them; `result` is what is left of its y.
    """

    dtype: Dtype
    source: str
    text: str
    equation: str
    shapes: tuple[tuple[int, ...], ...]
    multiplies: tuple[int, ...]
    least: tuple[int, int]
    x: Value
    weights: tuple[Value, ...]
    result: Value


@dataclass(frozen=True)
class Module:
    """One class of a generated file; `body` ends with y assigned.

    With the bias, where it is `biased`: then `contract` takes one.
    """

    name: str
    title: str
    d_in: int
    d_out: int
    figures: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    body: tuple[Assign, ...]
    router: Router | None = None
    experts: tuple[Experts, ...] = ()
    chunks: Chunks | None = None
    fused: Fused | None = None
    native: Native | None = None

    @property
    def biased(self) -> bool:
        """Whether `body` adds the bias."""
        return any(adds_bias(statement.value) for statement in self.body)

    @property
    def statements(self) -> tuple[Assign, ...]:
        """All of the forward."""
        return (*self.body, *(self.chunks.forward if self.chunks else ()))


def adds_bias(value: Value) -> bool:
    """Whether the module's bias is in a value."""
    if isinstance(value, Product):
        return value.bias is not None
    return isinstance(value, ChunksCall) and value.biased
