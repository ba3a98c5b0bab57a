"""The fused kernel in a generated file: what is around it, and where it is called.

In: the `Fused` of modules. Out: text. What it calls is in `triton_runtime`. Triton
itself is imported by the generated file alone, and where there is none, or no GPU, the
plain operations after the call compute the same.
"""

from __future__ import annotations

import hashlib

from einc.codegen import kernel_runtime, triton_runtime
from einc.codegen.lines import assign, expression
from einc.codegen.nodes import Assign, Attribute, Fused, Local
from einc.codegen.writer import Writer


def helpers(out: Writer) -> None:
    """What all classes of a file share: the kernel, its operator, when it is used."""
    blocks = (
        triton_runtime.KERNEL,
        triton_runtime.OPERATOR,
        kernel_runtime.CHECKS,
        triton_runtime.USE,
    )
    # Another version of einc may write another kernel.
    digest = hashlib.sha256("".join(blocks).encode()).hexdigest()[:12]
    for block in blocks:
        out.line()
        out.line()
        out.lines_of(block.replace("DIGEST", digest))


def attributes(out: Writer, fused: Fused) -> None:
    """The blocks of the kernel, as literals that may be tuned by hand."""
    out.line()
    out.comment(
        "How much of n, g, a and f a program of the kernel takes, forward and backward, "
        "by bytes of a value."
    )
    with out.block("BLOCKS: ClassVar = {"):
        for itemsize, (forward, backward) in fused.blocks.items():
            out.line(f"{itemsize}: ({[*forward]}, {[*backward]}),")
    out.line("}")


def call(out: Writer, fused: Fused, biased: bool) -> None:
    """The start of `contract`: the kernel, where it takes the tensors."""
    taken = ["self.BLOCKS", "x", *map(expression, fused.weights)]
    out.call("if _is_fused(", taken, "):")
    with out.indented():
        out.comment(f"{fused.equation}, in one kernel")
        arguments = ["self.BLOCKS"]
        arguments += [_argument(out, argument) for argument in fused.arguments]
        line = f"y = _fused({', '.join(arguments)})  # {fused.layout}"
        if out.fits(line):
            out.line(line)
        else:
            out.comment(f"y: {fused.layout}")
            out.call("y = _fused(", arguments)
        assign(out, Assign("y", fused.result))
        bias = "y if bias is None else y + bias.to(y.dtype)" if biased else "y"
        out.line(f"return {bias}")


def _argument(out: Writer, argument: Assign) -> str:
    """What the kernel takes, by a name of its own where it is a view."""
    if isinstance(argument.value, Local | Attribute):
        return expression(argument.value)
    assign(out, argument)
    return argument.target
