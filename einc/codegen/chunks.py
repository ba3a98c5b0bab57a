"""Forward and backward by hand as two functions over chunks of tokens.

In: the lowering of a chain and its `Gradients`. Out: the statements that are left for
`contract`, which prepare the weights, and `Chunks`, with all that reads tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from einc.codegen.choices import Dtype
from einc.codegen.gradients import Gradients, Products
from einc.codegen.layout import TOKENS, dims_of
from einc.codegen.nodes import (
    Assign,
    Attribute,
    Chunks,
    ChunksCall,
    Cut,
    Local,
    Pad,
    Product,
    Value,
    View,
)
from einc.codegen.statements import Dims, root_of
from einc.sizes import Binding

CACHE = 1 << 23
"""Bytes of a chunk's tensors: a cache holds most of them, and malloc keeps them all."""
KEPT: dict[Dtype, int] = {"float32": 1 << 19, "bfloat16": 1 << 22}
"""Values that a chunk keeps for backward: of more, autograd's backward is the slower one.

In bfloat16 shorter chunks lose more than that gains.
"""
LEAST = 64
"""Tokens of a chunk: in fewer, what a call costs outweighs the cache."""
BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
"""Of a value."""


def in_chunks(
    forward: Products, gradients: Gradients, recompute: bool
) -> tuple[tuple[Assign, ...], Chunks]:
    """The body of `contract`, which ends in y assigned, and what it calls."""
    arguments = gradients.arguments
    outside, inside = _parted(forward.body, arguments[0])
    assert forward.result is not None
    kept = tuple(root_of(tensor.value).name for tensor in gradients.kept)
    chunks = Chunks(
        size=_size(forward, gradients),
        arguments=arguments,
        forward=inside,
        result=forward.result.value,
        kept=() if recompute else kept,
        again=_needed(inside, kept) if recompute else (),
        wanted=gradients.wanted,
        incoming=gradients.incoming,
        names=gradients.names,
        backward=tuple(gradients.body),
    )
    local = {assign.target for assign in outside}
    weights = tuple(
        Local(name) if name in local else Attribute(name) for name in arguments[1:]
    )
    binding = forward.binding
    ((_, padded_out),) = binding.padded
    whole = padded_out == binding.d_out
    y: Value = ChunksCall(Local(arguments[0]), weights, biased=whole)
    if not whole:
        y = Cut(y, binding.d_out)
    return (*outside, Assign("y", y)), chunks


def _parted(
    body: Iterable[Assign], x: str
) -> tuple[tuple[Assign, ...], tuple[Assign, ...]]:
    """What reads no tokens, and what does up to the last product.

    What a product computes is told beside it and not at its weight.
    """
    outside: list[Assign] = []
    inside: list[Assign] = []
    of_tokens = {x}
    comment = ""
    last = 0
    for assign in body:
        if isinstance(assign.value, Pad) or not _reads(assign.value) & of_tokens:
            waits = not isinstance(assign.value, Pad | Product)
            comment = (assign.comment or comment) if waits else comment
            outside.append(replace(assign, comment="") if waits else assign)
            continue
        of_tokens.add(assign.target)
        inside.append(replace(assign, comment=assign.comment or comment))
        comment = ""
        if isinstance(assign.value, Product):
            last = len(inside)
    return tuple(outside), tuple(map(_with_locals, inside[:last]))


def _with_locals(assign: Assign) -> Assign:
    """Without attributes: they are arguments."""
    value = assign.value
    if not isinstance(value, Product):
        return assign
    left, right = (
        Local(v.name) if isinstance(v, Attribute) else v
        for v in (value.left, value.right)
    )
    return replace(assign, value=replace(value, left=left, right=right))


def _reads(value: Value) -> set[str]:
    """The local variables in a value."""
    match value:
        case Local():
            return {value.name}
        case Product():
            return _reads(value.left) | _reads(value.right)
        case _ if isinstance(value, View):
            return _reads(value.value)
        case _:
            return set()


def _needed(body: tuple[Assign, ...], names: Iterable[str]) -> tuple[Assign, ...]:
    """The statements that lead to `names`."""
    needed, found = set(names), []
    for assign in reversed(body):
        if assign.target in needed:
            needed |= _reads(assign.value)
            found.append(assign)
    return tuple(reversed(found))


def _size(forward: Products, gradients: Gradients) -> int:
    """A power of two of tokens, of which x, the intermediates, y and copies fit a cache.

    Or as many as take twice the memory of the weights: each chunk has gradients of those.
    """
    binding, each = forward.binding, BYTES[forward.dtype]
    copies = [dims_of(copy.groups) for copy in forward.copies]
    kept = _values(binding, [tensor.dims for tensor in gradients.kept])
    held = sum(binding.padded[0]) + kept + _values(binding, copies)
    factors = binding.structure.factors
    weights = sum(math.prod(binding.shape(factor.axes)) for factor in factors)
    fitting = min(CACHE // (each * held), KEPT[forward.dtype] // kept)
    return 1 << (max(fitting, 2 * weights // held, LEAST).bit_length() - 1)


def _values(binding: Binding, tensors: Iterable[Dims]) -> int:
    """Of a token, in those tensors that have tokens."""
    return sum(
        math.prod(binding.size(d) for d in dims if d is not TOKENS)
        for dims in tensors
        if TOKENS in dims
    )
