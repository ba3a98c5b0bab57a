"""The native kernel in a generated file: what is around its C, and where it is called.

In: a `Profile`, and modules that have its kernel as `Native`. Out: text. What is the same
in all files is in `c_common`, in `c_float32` or `c_pairs` and `c_bfloat16`, and in `runtime`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from string import ascii_letters
from typing import NamedTuple

from einc.analysis.profile import Profile
from einc.codegen import kernel_runtime
from einc.codegen.choices import Dtype
from einc.codegen.layout import Layouts
from einc.codegen.lines import assign, expression
from einc.codegen.native import runtime
from einc.codegen.native.c_bfloat16 import BFLOAT16
from einc.codegen.native.c_common import COMMON
from einc.codegen.native.c_float32 import FLOAT32
from einc.codegen.native.c_loops import LoopSteps
from einc.codegen.native.c_matrices import MatrixSteps
from einc.codegen.native.c_pairs import PAIRS
from einc.codegen.native.c_source import Steps, c_source
from einc.codegen.native.chain import Chain, native_chain
from einc.codegen.native.looped import looped
from einc.codegen.native.matrices import in_matrices
from einc.codegen.nodes import (
    Assign,
    Cut,
    Local,
    Module,
    Native,
    Pad,
    Value,
)
from einc.codegen.writer import Writer

SHARED: dict[Dtype, str] = {"float32": FLOAT32, "bfloat16": PAIRS + BFLOAT16}
"""The C that kernels for a dtype share, behind what all have."""


class Worth(NamedTuple):
    """Tokens of a call that are worth the kernel, without gradients and with them.

    `for_weights` of tokens' values make up for one of a weight, of which each thread has
    a gradient of its own.
    """

    forward: int
    training: int
    for_weights: float


WORTH: dict[Dtype, tuple[Worth, Worth]] = {
    "float32": (Worth(256, 256, 8), Worth(1, 128, 2)),
    "bfloat16": (Worth(16, 16, 1.5), Worth(1, 1, 0.5)),
}
"""With up to two products, and with more, between which plain operations copy: as was
measured beside these.
"""
FITTING = 1 << 20
"""Bytes that a core's cache has room for. In bfloat16 all calls are worth the kernel where
the weights have no more, and with gradients where these in float32 have no more.
"""
LARGE_MATRIX = 1 << 14
"""Values of one that plain operations multiply in bfloat16 as well as in float32, where
tokens are the rows that it is multiplied with.
"""


def native_kernel(profile: Profile, dtype: Dtype) -> Native | None:
    """What a module has of the kernel for a dtype, or None where there is none."""
    chain = native_chain(profile)
    if chain is None:
        return None
    binding = chain.binding
    layouts = Layouts(binding)
    (term,) = binding.structure.terms
    letters = dict(zip(term.axes, ascii_letters[1:], strict=False))
    tensors = [term.input, *(weight.axes for weight in chain.weights), term.output]
    first, *others, last = ("".join(letters[a] for a in axes) for axes in tensors)
    padded_in, padded_out = binding.padded[0]
    x: Value = Local("x")
    if padded_in != binding.d_in:
        x = Pad(x, padded_in - binding.d_in)
    y: Value = Local("y")
    if padded_out != binding.d_out:
        y = Cut(y, binding.d_out)
    return Native(
        dtype=dtype,
        source=c_source(chain, _steps(chain, dtype)),
        text=binding.structure.equations[0],
        equation=f"a{','.join([first, *others])}->a{last}",
        shapes=tuple(tuple(binding.shape(axes)) for axes in tensors),
        multiplies=tuple(_multiplies(chain, i) for i in range(len(chain.weights))),
        least=_least(chain, dtype),
        x=x,
        weights=tuple(layouts.factor(weight).value for weight in chain.weights),
        result=y,
    )


def _steps(chain: Chain, dtype: Dtype) -> Steps:
    if dtype == "float32":
        return LoopSteps(chain, looped(chain))
    return MatrixSteps(chain, in_matrices(chain))


def _least(chain: Chain, dtype: Dtype) -> tuple[int, int]:
    """Tokens of a call that is worth the kernel, without gradients and with them."""
    if dtype == "bfloat16" and _has_large_matrix(chain):
        dtype = "float32"
    values, is_long = sum(chain.counts), len(chain.weights) > 2
    forward, training, for_weights = WORTH[dtype][is_long]
    features = chain.features(0) + chain.features(-1)
    nearest = round(math.log2(for_weights * values / features))
    training = max(training, 1 << max(nearest, 0))
    if dtype == "bfloat16":
        forward = 1 if 2 * values <= FITTING else forward
        training = 1 if 4 * values <= FITTING else training
    return forward, training


def _has_large_matrix(chain: Chain) -> bool:
    return max(in_matrices(chain).of_tokens(chain.sizes), default=0) > LARGE_MATRIX


def _multiplies(chain: Chain, i: int) -> int:
    """The multiply-adds of a product for a token."""
    axes = {*chain.tensors[i], *chain.tensors[i + 1], *chain.holds[i]}
    return math.prod(chain.binding.shape(tuple(axes)))


def helpers(out: Writer, kernels: Iterable[Native]) -> None:
    """What all classes of a file share: tiles for each dtype, and what compiles and calls."""
    # Another version of einc may write another kernel.
    text = "".join((COMMON, *SHARED.values(), runtime.KERNEL))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    for dtype in dict.fromkeys(kernel.dtype for kernel in kernels):
        out.line()
        _c_text(out, dtype.upper(), COMMON + SHARED[dtype])
    for block in (kernel_runtime.CHECKS, runtime.KERNEL):
        out.line()
        out.line()
        out.lines_of(block.replace("DIGEST", digest))


def _c_text(out: Writer, name: str, text: str) -> None:
    out.line(f'{name} = r"""')
    out.lines_of(text.strip())
    out.line('"""')


def source_of(out: Writer, module: Module) -> None:
    """The C of a class, before it."""
    assert module.native is not None
    out.line()
    out.line()
    _c_text(out, _name(module), module.native.source)


def _name(module: Module) -> str:
    return f"{module.name.upper()}_C"


def attributes(out: Writer, module: Module) -> None:
    """The kernel, compiled when it is first called."""
    kernel = module.native
    assert kernel is not None
    out.line()
    with out.block("KERNEL: ClassVar = _Kernel("):
        out.line(f"torch.{kernel.dtype},")
        out.line(f"{kernel.dtype.upper()} + {_name(module)},")
        out.line(f'"{kernel.equation}",')
        out.literal("(", [f"{shape}" for shape in kernel.shapes], "),")
        out.line(f"{kernel.multiplies},")
        out.line(f"least={kernel.least},  # tokens, without gradients and with them")
    out.line(")")


def call(out: Writer, module: Module) -> None:
    """The start of `contract`: the kernel, where it takes the tensors."""
    kernel = module.native
    assert kernel is not None
    bias = "bias" if module.biased else "None"
    taken = [bias, "x", *map(expression, kernel.weights)]
    out.call("if self.KERNEL.takes(", taken, "):")
    with out.indented():
        out.comment(f"{kernel.text}, in one kernel")
        if not isinstance(kernel.x, Local):
            assign(out, Assign("x", kernel.x))
        if isinstance(kernel.result, Local):
            out.call("return self.KERNEL(", taken)
        else:
            out.call("y = self.KERNEL(", taken)
            out.line(f"return {expression(kernel.result)}")
