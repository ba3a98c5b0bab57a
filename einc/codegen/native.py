"""The native kernel in a generated file: what is around its C, and where it is called.

In: the `Chain` of a structure, and modules that have it as `Native`. Out: text. What is
the same in all files is in `c_runtime` and `native_runtime`.
"""

from __future__ import annotations

import hashlib
import math
from string import ascii_letters

from einc.codegen import c_runtime, kernel_runtime, native_runtime
from einc.codegen.c_source import c_source
from einc.codegen.chain import Chain
from einc.codegen.layout import Layouts
from einc.codegen.lines import assign, expression
from einc.codegen.nodes import Assign, Cut, Local, Module, Native, Pad, Value
from einc.codegen.writer import Writer

LEAST = 256
"""Tokens of a call: for fewer, plain operations take less, as was measured."""
FOR_WEIGHTS = 8
"""How many values of tokens make up for one of a weight, of which each thread has a
gradient of its own.
"""


def native(chain: Chain) -> Native:
    """What a module has of the kernel."""
    binding, products = chain.binding, chain.products
    layouts = Layouts(binding)
    (term,) = binding.structure.terms
    letters = dict(zip(term.axes, ascii_letters[1:], strict=False))
    tensors = [term.input, *(product.weight.axes for product in products), term.output]
    first, *others, last = ("".join(letters[a] for a in axes) for axes in tensors)
    padded_in, padded_out = binding.padded[0]
    x: Value = Local("x")
    if padded_in != binding.d_in:
        x = Pad(x, padded_in - binding.d_in)
    y: Value = Local("y")
    if padded_out != binding.d_out:
        y = Cut(y, binding.d_out)
    return Native(
        source=c_source(chain),
        text=binding.structure.equations[0],
        equation=f"a{','.join([first, *others])}->a{last}",
        shapes=tuple(tuple(binding.shape(axes)) for axes in tensors),
        multiplies=tuple(_multiplies(chain, i) for i in range(len(products))),
        least=_least(chain),
        x=x,
        weights=tuple(layouts.factor(product.weight).value for product in products),
        result=y,
    )


def _least(chain: Chain) -> tuple[int, int]:
    """Tokens of a call that is worth the kernel, without gradients and with them."""
    features = sum(
        side.row - side.padding for side in (chain.sides[0], chain.sides[-1])
    )
    tokens = FOR_WEIGHTS * sum(chain.sizes) // features
    return LEAST, max(LEAST, 1 << (tokens - 1).bit_length() if tokens else 0)


def _multiplies(chain: Chain, i: int) -> int:
    """The multiply-adds of a product for a token."""
    product = chain.products[i]
    axes = {*chain.sides[i].axes, *chain.sides[i + 1].axes, *product.weight.axes}
    return math.prod(chain.binding.shape(tuple(axes)))


def helpers(out: Writer) -> None:
    """What all classes of a file share: the tiles, and what compiles and calls."""
    # Another version of einc may write another kernel.
    text = "".join((c_runtime.TILES, native_runtime.KERNEL))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    out.line()
    _c_text(out, "TILES", c_runtime.TILES)
    for block in (kernel_runtime.CHECKS, native_runtime.KERNEL):
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
        out.line(f"TILES + {_name(module)},")
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
