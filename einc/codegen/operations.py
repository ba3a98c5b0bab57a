"""Statements of generated code to the operations that torch does for them.

In: any tuple of statements and the arrays that its names stand for; or a whole `Module`,
or nn.Linear, and a number of tokens. Out: what a `Recorder` counted, forward and with
backward. What routed structures do is approximate: tokens are taken to be spread evenly
over experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from einc.codegen.nodes import (
    Accumulate,
    Assign,
    Attribute,
    Chunks,
    ChunksCall,
    Contiguous,
    Cut,
    Experts,
    ExpertsCall,
    ExpertWeight,
    Local,
    Module,
    Normalized,
    Pad,
    Permute,
    Product,
    Reshape,
    Sum,
    Value,
)
from einc.codegen.recorder import Counted, Elementwise, Recorder, View
from einc.codegen.strided import Copy, Strided
from einc.errors import InternalError

ROUTING = 12
"""Small operations that sort tokens by expert."""
CHUNK = 8
"""Small operations of a chunk of an expert's rows, beside those that are written out."""


@dataclass(frozen=True)
class Work:
    """The operations of a forward; and those of one with its backward.

    Autograd keeps `nodes` of it, of which `functions` are written in Python.
    """

    forward: Counted
    training: Counted
    nodes: int
    functions: int = 0


def linear(d_in: int, d_out: int, tokens: int) -> Work:
    """nn.Linear's, with bias."""
    weight = Strided.contiguous(d_out, d_in)
    walk = Walk({"weight": weight}, {"x": Strided.contiguous(tokens, d_in)})
    matrix = Permute(Attribute("weight"), (1, 0))
    walk.run([Assign("y", Product("matmul", Local("x"), matrix, bias=(d_out,)))])
    recorder = walk.recorder
    backward = recorder.backward(walk.names["y"])
    forward = recorder.counted
    return Work(forward, forward + backward, len(recorder.tape))


def work(module: Module, tokens: int, in_chunks: bool = True) -> Work:
    """A generated module's, with bias.

    Its chunks are as written, unless it is not `in_chunks`, as on a GPU.
    """
    chunks = module.chunks
    if chunks is not None and not in_chunks:
        chunks = replace(chunks, size=tokens)
    x = Strided.contiguous(tokens, module.d_in)
    walk = Walk(
        {p.name: Strided.contiguous(*p.shape) for p in module.parameters},
        {"x": x},
        {one.name: one for one in module.experts},
        module.router.top if module.router else 1,
        chunks,
    )
    recorder = walk.recorder
    walk.names["x"] = recorder.reshape(x, x.shape)
    if module.router is not None:
        _route(recorder, walk.names["x"], module.router.experts)
    walk.run(module.body)
    y = walk.names["y"]
    if not module.biased:
        y = recorder.add(y, Strided.contiguous(module.d_out))
    y = recorder.reshape(y, y.shape)
    forward = recorder.counted
    nodes = len(recorder.tape)
    training = forward + walk.kept + recorder.backward(y)
    return Work(forward, training, nodes, int(chunks is not None))


def _route(recorder: Recorder, x: Strided, experts: int) -> None:
    """Logits and gates; backward's share goes with that of the experts."""
    recorder.product(x, Strided.contiguous(experts, x.shape[1]).transposed)
    recorder.does(*[Elementwise(2 * x.shape[0] * experts)] * 3)


class Walk:
    """Statements, one after the other; `names` are the arrays of their variables.

    `kept` is what a forward takes more where a backward follows.
    """

    def __init__(
        self,
        parameters: Mapping[str, Strided],
        names: Mapping[str, Strided],
        experts: Mapping[str, Experts] | None = None,
        top: int = 1,
        chunks: Chunks | None = None,
    ) -> None:
        self.recorder = Recorder()
        self.kept = Counted()
        self.parameters = parameters
        self.names = dict(names)
        self.experts = experts or {}
        self.top = top
        self.chunks = chunks

    def run(self, statements: Iterable[Assign | Accumulate]) -> None:
        for statement in statements:
            is_new = isinstance(statement, Assign)
            found = self.value(statement.value, is_new)
            if isinstance(statement, Assign):
                self.names[statement.target] = found
            elif not isinstance(statement.value, Product):
                self.recorder.does(Elementwise(3 * found.size))

    def value(self, value: Value, fresh: bool = True) -> Strided:
        """The array that a value is; what it takes is counted."""
        do = self.recorder
        match value:
            case Local():
                return self.names[value.name]
            case Attribute():
                return self.parameters[value.name]
            case ExpertWeight():
                stacked = self.names[value.name]
                do.does(View())
                return Strided(stacked.shape[1:], stacked.strides[1:])
            case Normalized():
                return do.normalized(self.parameters[value.name])
            case Reshape():
                return do.reshape(self.value(value.value), value.shape)
            case Permute():
                return do.permute(self.value(value.value), value.order)
            case Contiguous():
                return do.contiguous(self.value(value.value))
            case Sum():
                return do.sum(self.value(value.value), value.dims)
            case Pad():
                return do.pad(self.value(value.value), value.amount)
            case Cut():
                return do.cut(self.value(value.value), value.size)
            case Product():
                left, right = self.value(value.left), self.value(value.right)
                return self._product(value, left, right, fresh and value.out is None)
            case ExpertsCall():
                return self._experts(value)
            case ChunksCall():
                return self._chunks(value)
            case _:
                raise InternalError(f"{type(value).__name__} has no operations")

    def _product(
        self, value: Product, left: Strided, right: Strided, fresh: bool
    ) -> Strided:
        if value.bias is not None:
            return self.recorder.biased(
                self._product(replace(value, bias=None), left, right, fresh)
            )
        match value.kind:
            case "matmul" | "bmm":
                return self.recorder.product(left, right, fresh)
            case "expanded":
                return self.recorder.expanded(left, right)
            case "multiply":
                return self.recorder.multiply(left, right, fresh)
            case "add":
                return self.recorder.add(left, right)
            case _:
                assert_never(value.kind)

    # Chunks of tokens

    def _chunks(self, call: ChunksCall) -> Strided:
        """All chunks, as long as they are on average, each written into the whole."""
        chunks, x = self.chunks, self.value(call.source)
        assert chunks is not None
        count = math.ceil(x.shape[0] / chunks.size)
        rows = math.ceil(x.shape[0] / count)
        weights = tuple(self.value(weight) for weight in call.weights)
        arrays = (Strided((rows, *x.shape[1:]), x.strides), *weights)
        forward = Walk({}, dict(zip(chunks.arguments, arrays, strict=True)))
        forward.run(chunks.forward)
        result = forward.value(chunks.result)
        # Where the bias is still to be added, it is while this is written.
        forward.recorder.does(result.copy())
        self.recorder.counted.repeat(forward.recorder.counted, count)
        kept = {name: forward.names[name] for name in chunks.kept}
        for array in kept.values():
            self.kept.fresh[array.size] += count - 1

        def pull(gradient: Strided) -> tuple[Strided, ...]:
            if call.biased:
                self.recorder.sum_rows(gradient)
            names = dict(zip(chunks.arguments, arrays, strict=True)) | kept
            shape = (rows, *gradient.shape[1:])
            names[chunks.incoming] = Strided(shape, gradient.strides)
            backward = Walk({}, names)
            backward.run(chunks.again)
            backward.run(guarded.statement for guarded in chunks.backward)
            found = [backward.names[name] for name in chunks.names]
            backward.recorder.does(found[0].copy())
            self.recorder.counted.repeat(backward.recorder.counted, count)
            for array in found[1:]:
                self.recorder.does(*[Elementwise(3 * array.size)] * (count - 1))
            return self.recorder.takes(*x.shape), *found[1:]

        width = result.size // result.shape[0]
        whole = self.recorder.takes(x.shape[0], width)
        return self.recorder.record(whole, (x, *weights), pull)

    # Experts

    def _experts(self, call: ExpertsCall) -> Strided:
        """All chunks of all experts, each with as many rows as on average."""
        experts, x = self.experts[call.experts], self.value(call.source)
        pairs = x.shape[0] * self.top
        busy = min(experts.count, pairs)
        chunks = busy * math.ceil(pairs / busy / experts.chunk)
        rows = math.ceil(pairs / chunks)
        weights = tuple(self.value(weight) for weight in call.weights)
        stacked = {
            weight.name: Strided.contiguous(*array.shape)
            for weight, array in zip(experts.weights, weights, strict=True)
        }

        def once() -> None:
            """What is done once a call: weights are stacked, and tokens sorted."""
            for array in weights:
                if array.view((-1,)) is None:
                    self.recorder.copied(array)
            self.recorder.does(*[Elementwise(2 * pairs)] * ROUTING)

        def pull(gradient: Strided) -> tuple[Strided, ...]:
            once()
            zeros = tuple(self.recorder.takes(*a.shape) for a in (x, *weights))
            self.recorder.does(*(Elementwise(array.size) for array in zeros))
            backward = _backward_of_rows(experts, stacked, rows)
            self.recorder.counted.repeat(backward, chunks)
            return zeros

        once()
        total = self.recorder.takes(x.shape[0], experts.width_out)
        self.recorder.does(Elementwise(total.size))
        forward = _forward_of_rows(experts, stacked, rows)
        self.recorder.counted.repeat(forward, chunks)
        return self.recorder.record(total, (x, *weights), pull)


def _forward_of_rows(
    experts: Experts, stacked: Mapping[str, Strided], rows: int
) -> Counted:
    walk = _rows_of(experts, stacked, rows)
    walk.run(experts.forward)
    walk.value(experts.result)
    _added(walk.recorder, rows * experts.width_out)
    return walk.recorder.counted


def _backward_of_rows(
    experts: Experts, stacked: Mapping[str, Strided], rows: int
) -> Counted:
    walk = _rows_of(experts, stacked, rows)
    read = Strided.contiguous(rows, experts.width_out)
    walk.names |= {"grad_rows": read, "scaled": walk.names["rows"]}
    walk.names |= {f"grad_{name}": array for name, array in stacked.items()}
    walk.recorder.does(read.copy(), Elementwise(2 * rows * experts.width_in))
    walk.run((*experts.again, *experts.backward))
    walk.value(experts.gate_gradient)
    walk.value(experts.gradient)
    _added(walk.recorder, rows * experts.width_in)
    return walk.recorder.counted


def _rows_of(experts: Experts, stacked: Mapping[str, Strided], rows: int) -> Walk:
    """Before the statements of a chunk: its rows are gathered."""
    gathered = Strided.contiguous(rows, experts.width_in)
    gate = Strided.contiguous(rows, 1)
    walk = Walk({}, {**stacked, "rows": gathered, "gate": gate})
    walk.recorder.does(Copy(gathered.size, 1, 1), *[View()] * CHUNK)
    return walk


def _added(recorder: Recorder, elements: int) -> None:
    """Rows that are added where their tokens are."""
    recorder.does(Elementwise(3 * elements))
