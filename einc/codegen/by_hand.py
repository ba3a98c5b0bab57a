"""A backward by hand as Python: the helpers of a file, the functions of a module.

In: `Chunks`. Out: lines. What is the same in all files is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from einc.codegen.lines import assign, expression
from einc.codegen.nodes import Chunks, Guarded
from einc.codegen.writer import Writer

HELPERS = '''\
class _InChunks(torch.autograd.Function):
    """A module's `products` over chunks of tokens, and its `gradients` backward.

    Chunks stay in a CPU's cache, and the gradients are written for the layouts that
    they find: autograd's own would copy more. Where gradients are differentiated
    again, and under torch.func, plain operations do the same.
    """

    @staticmethod
    def forward(module, keeps, bias, x, *weights):
        """(n, in) to (n, out), and behind it what backward reads of each chunk."""
        y, saved = None, []
        for rows in _chunks(module, x):
            part, left, *kept = module.products(bias, x[rows], *weights)
            saved += kept if keeps else []
            if y is None:  # no view, which could not be changed in place
                y = part.new_empty(len(x), part.shape[1:].numel())
            here = y[rows].view(part.shape)
            if left is None:
                here.copy_(part)
            else:
                torch.add(part, left.reshape(part.shape[1:]), out=here)
        return y, *saved

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.module, _, _, x, *weights = inputs
        ctx.count, ctx.extra = 1 + len(weights), len(output) - 1
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *weights, *output[1:])
        ctx.save_for_forward(x, *weights)

    @staticmethod
    def backward(ctx, dy, *_):
        if dy is None:
            return (None,) * (3 + ctx.count)
        tensors = ctx.saved_tensors
        (x, *weights), saved = tensors[: ctx.count], tensors[ctx.count :]
        module, wanted = ctx.module, ctx.needs_input_grad[3:]
        dbias = dy.sum(0) if ctx.needs_input_grad[2] else None
        is_nested = torch._C._are_functorch_transforms_active()
        if torch.is_grad_enabled() or is_nested:  # they will be differentiated again
            plain = partial(_plain, module, None)
            return None, None, dbias, *torch.func.vjp(plain, x, *weights)[1](dy)
        chunks = _chunks(module, x)
        each = len(saved) // len(chunks)
        dx, totals = None, [None] * len(weights)
        for i, rows in enumerate(chunks):
            kept = saved[each * i : each * (i + 1)]
            part, *parts = module.gradients(wanted, dy[rows], x[rows], *weights, *kept)
            if part is not None:
                dx = part.new_empty(len(x), *part.shape[1:]) if dx is None else dx
                dx[rows] = part
            for k, part in enumerate(parts):
                if part is not None and totals[k] is None:  # of few digits, in more
                    totals[k] = part.to(torch.promote_types(part.dtype, torch.float32))
                elif part is not None:
                    totals[k].add_(part)
        totals = [t if t is None else t.to(x.dtype) for t in totals]
        return None, None, dbias, dx if dx is None else dx.reshape(x.shape), *totals

    @staticmethod
    def vmap(info, in_dims, module, _, *inputs):
        return (torch.vmap(partial(_plain, module), in_dims[2:])(*inputs),), (0,)

    @staticmethod
    def jvp(ctx, _, __, of_bias, *tangents):
        inputs = ctx.saved_tensors
        parts = [
            _plain(ctx.module, None, *inputs[:i], tangent, *inputs[i + 1 :])
            for i, tangent in enumerate(tangents)
            if tangent is not None
        ]
        if of_bias is not None:
            parts.append(of_bias.expand(len(inputs[0]), -1))
        return sum(parts[1:], parts[0]), *[None] * ctx.extra


def _chunks(module, x):
    """Slices of the tokens: one chunk is best where there are no caches to fill."""
    size = module.chunk if x.device.type == "cpu" else max(len(x), 1)
    return [slice(i, i + size) for i in range(0, max(len(x), 1), size)]


def _plain(module, bias, x, *weights):
    """(n, in) to (n, out) in plain operations, all tokens at once."""
    y, left, *_ = module.products(bias, x, *weights)
    y = y.reshape(x.shape[0], y.shape[1:].numel()).contiguous()
    return y if left is None else y + left.to(y.dtype)


def _in_chunks(module, bias, *tensors):
    """The same with a backward by hand, for more than a chunk.

    Of one chunk it is not worth what it takes, torch.compile finds as good a one, a
    trace would have as many chunks as its example, and gradients of complex numbers
    have conjugates that it has not.
    """
    x, keeps = tensors[0], torch.is_grad_enabled()
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if is_traced or x.is_complex() or len(x) <= module.chunk:
        return _plain(module, bias, *tensors)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tensors = [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]
        bias = bias if bias is None else bias.to(tensors[0].dtype)
    return _InChunks.apply(module, keeps, bias, *tensors)[0]
'''


def helpers(out: Writer) -> None:
    """What all modules of a file use, after the imports."""
    out.line()
    out.line()
    out.lines_of(HELPERS)


def attributes(out: Writer, chunks: Chunks) -> None:
    out.line(f"chunk = {chunks.size}  # tokens on a CPU")


def methods(out: Writer, chunks: Chunks) -> None:
    """`products` and `gradients` of a module."""
    out.line("@staticmethod")
    result = "tuple[torch.Tensor | None, ...]"
    out.call("def products(", ["bias", *chunks.arguments], f") -> {result}:")
    with out.indented():
        out.line('"""(n, in), weights and a bias to (n, ...), the features.')
        out.line()
        rest = "and what backward reads" if chunks.kept else "and nothing more"
        out.line(f"Beside them the bias, where it is still to be added, {rest}.")
        out.line('"""')
        for statement in chunks.forward:
            assign(out, statement)
        left = "None" if chunks.biased else "bias"
        out.line(f"return {', '.join([expression(chunks.result), left, *chunks.kept])}")
    out.line()
    out.line("@staticmethod")
    arguments = [chunks.wanted, chunks.incoming, *chunks.arguments, *chunks.kept]
    out.call("def gradients(", arguments, f") -> {result}:")
    with out.indented():
        out.line('"""Of x and the weights, those that are wanted, from that of y."""')
        _unknown(out, chunks.names)
        for statement in chunks.again:
            assign(out, statement)
        last = len(chunks.arguments) - 1
        for (first, to), group in groupby(chunks.backward, _guard):
            if (first, to) == (0, last):
                _statements(out, group)
            else:
                with out.block(f"if {_condition(chunks.wanted, first, to)}:"):
                    _statements(out, group)
        found = f"return {', '.join(chunks.names)}"
        if out.fits(found):
            out.line(found)
        else:
            out.literal("return (", chunks.names, ")")


def _unknown(out: Writer, names: Sequence[str]) -> None:
    """All gradients as None, until they are found."""
    line = f"{' = '.join(names)} = None"
    for text in [line] if out.fits(line) else [f"{name} = None" for name in names]:
        out.line(text)


def _guard(statement: Guarded) -> tuple[int, int]:
    return statement.first, statement.last


def _statements(out: Writer, group: Iterable[Guarded]) -> None:
    for guarded in group:
        assign(out, guarded.statement)


def _condition(wanted: str, first: int, last: int) -> str:
    if first == last:
        return f"{wanted}[{first}]"
    # Not `any`, which may be a factor's name.
    return f"True in {wanted}[{'' if first == 0 else first}:{last + 1}]"
