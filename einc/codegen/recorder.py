"""What torch does for operations on arrays, and for their backward, counted.

In: `Strided` arrays. Out: `Operation`s with their sizes, each with how often it is done.
It follows torch's rules: what is a view and what a copy, in which layouts the products of
backward are, what autograd sums. What takes how long is not known here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from einc.codegen.strided import Copy, Strided


@dataclass(frozen=True)
class MatrixProduct:
    """`batch` products of m x k and k x n.

    `layouts` has "n" or "t" for either operand: its last dimension is the fastest in
    memory, or the one before. `interleaved` are operands whose matrices do not lie one
    after the other, as the copies that would put them so. Where `is_apart`, an operand
    had neither layout, and was copied before.
    """

    batch: int
    m: int
    k: int
    n: int
    layouts: str
    interleaved: tuple[Copy, ...] = ()
    is_apart: bool = False


@dataclass(frozen=True)
class Elementwise:
    """So many elements read and written."""

    moved: int


@dataclass(frozen=True)
class View:
    """Another look at a tensor."""


Operation = MatrixProduct | Copy | Elementwise | View
Pull = Callable[[Strided], tuple[Strided, ...]]
"""The gradients of inputs, from that of the result."""


@dataclass
class Counted:
    """Operations, and tensors in new memory by their elements; how often each is."""

    operations: Counter[Operation] = field(default_factory=Counter)
    fresh: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.operations + other.operations, self.fresh + other.fresh)

    def repeat(self, other: Counted, times: int) -> None:
        """Adds the operations of `other`, `times` each, in memory that is reused."""
        for operation, count in other.operations.items():
            self.operations[operation] += count * times
        self.fresh += other.fresh


@dataclass(frozen=True)
class Recorded:
    """A result with its inputs, and how gradients go through."""

    result: Strided
    inputs: tuple[Strided, ...]
    pull: Pull


class Recorder:
    """Does operations: counts them in `counted`, and puts them on the `tape`."""

    def __init__(self) -> None:
        self.counted = Counted()
        self.tape: list[Recorded] = []

    def does(self, *operations: Operation) -> None:
        self.counted.operations.update(operations)

    def takes(self, *shape: int) -> Strided:
        """New memory."""
        result = Strided.contiguous(*shape)
        self.counted.fresh[result.size] += 1
        return result

    def record(
        self, result: Strided, inputs: tuple[Strided, ...], pull: Pull
    ) -> Strided:
        """An operation that was counted, as autograd keeps it; returns `result`."""
        self.tape.append(Recorded(result, inputs, pull))
        return result

    def backward(self, result: Strided) -> Counted:
        """What autograd does from `result` back, with a gradient that is contiguous."""
        forward, self.counted = self.counted, Counted()
        gradients = {result: Strided.contiguous(*result.shape)}
        for one in reversed(self.tape):
            incoming = gradients.pop(one.result, None)
            if incoming is None:
                continue
            for tensor, gradient in zip(one.inputs, one.pull(incoming), strict=True):
                if tensor in gradients:
                    gradient = self._elementwise(tensor.shape, 2 * tensor.size)
                gradients[tensor] = gradient
        backward, self.counted = self.counted, forward
        return backward

    # Views, and copies where there is none

    def permute(self, tensor: Strided, order: Sequence[int]) -> Strided:
        self.does(View())
        inverse = tuple(order.index(i) for i in range(len(order)))
        result = tensor.permute(order)
        return self.record(result, (tensor,), lambda g: (g.permute(inverse),))

    def reshape(self, tensor: Strided, shape: Sequence[int]) -> Strided:
        result = self._reshaped(tensor, shape)
        return self.record(
            result, (tensor,), lambda g: (self._reshaped(g, tensor.shape),)
        )

    def _reshaped(self, tensor: Strided, shape: Sequence[int]) -> Strided:
        found = tensor.view(shape)
        if found is None:
            found = self.copied(tensor).view(shape)
            assert found is not None, "what is contiguous has all views"
        else:
            self.does(View())
        return found

    def copied(self, tensor: Strided) -> Strided:
        """A contiguous copy, of which no gradient is asked."""
        self.does(tensor.copy())
        return self.takes(*tensor.shape)

    def contiguous(self, tensor: Strided) -> Strided:
        if tensor.strides == Strided.contiguous(*tensor.shape).strides:
            return tensor
        return self.record(self.copied(tensor), (tensor,), lambda g: (g,))

    def pad(self, tensor: Strided, amount: int) -> Strided:
        """Zeros behind the last dimension."""
        *first, last = tensor.shape
        result = self._elementwise((*first, last + amount))
        self.does(tensor.copy())

        def pull(gradient: Strided) -> tuple[Strided]:
            return (self.copied(Strided(tensor.shape, gradient.strides)),)

        return self.record(result, (tensor,), pull)

    def cut(self, tensor: Strided, size: int) -> Strided:
        """The first of the last dimension."""
        self.does(View())

        def pull(gradient: Strided) -> tuple[Strided]:
            self.does(gradient.copy())
            return (self._elementwise(tensor.shape),)

        result = Strided((*tensor.shape[:-1], size), tensor.strides)
        return self.record(result, (tensor,), pull)

    # Products

    def product(self, left: Strided, right: Strided, fresh: bool = True) -> Strided:
        """Of two matrices or batches of them, into memory that is there or `fresh`."""
        result = self._product(left, right, fresh)
        alone = len(left.shape) == 2

        def pull(gradient: Strided) -> tuple[Strided, Strided]:
            # Gradients of single matrices lie as these do.
            if alone and _layout(left) == "t":
                of_left = self._product(right, gradient.transposed).transposed
            else:
                of_left = self._product(gradient, right.transposed)
            if alone and _layout(right) == "t":
                of_right = self._product(gradient.transposed, left).transposed
            else:
                of_right = self._product(left.transposed, gradient)
            return of_left, of_right

        return self.record(result, (left, right), pull)

    def expanded(self, matrix: Strided, batch: Strided) -> Strided:
        """A matrix with each of a batch: its gradient is one of each, which are summed."""
        self.does(View())
        shape, strides = matrix.shape, matrix.strides
        left = Strided((batch.shape[0], *shape), (0, *strides))
        result = self.product(left, batch)
        product = self.tape.pop()

        def pull(gradient: Strided) -> tuple[Strided, ...]:
            of_each, of_batch = product.pull(gradient)
            return self._summed_to(of_each, matrix), of_batch

        return self.record(result, (matrix, batch), pull)

    def biased(self, result: Strided) -> Strided:
        """The product that was recorded last began from a bias, broadcast to its shape."""
        self.does(Elementwise(result.size))
        product = self.tape.pop()

        def pull(gradient: Strided) -> tuple[Strided, ...]:
            self.sum_rows(gradient)
            return product.pull(gradient)

        return self.record(result, product.inputs, pull)

    def sum_rows(self, gradient: Strided) -> None:
        """The gradient of a bias."""
        self._elementwise(gradient.shape[1:], gradient.size)

    def _product(self, left: Strided, right: Strided, fresh: bool = True) -> Strided:
        *batch, m, k = left.shape
        n = right.shape[-1]
        layouts, interleaved, is_apart = "", [], False
        for operand in (left, right):
            layout = _layout(operand)
            if layout is None:
                is_apart = True
                self.copied(operand)
            elif _is_interleaved(operand):
                interleaved.append(operand.copy())
            layouts += layout or "n"
        sizes = math.prod(batch), m, k, n
        self.does(MatrixProduct(*sizes, layouts, tuple(interleaved), is_apart))
        shape = (*batch, m, n)
        return self.takes(*shape) if fresh else Strided.contiguous(*shape)

    def multiply(self, left: Strided, right: Strided, fresh: bool = True) -> Strided:
        """Elementwise, each broadcast over what the other alone has."""
        pairs = zip(left.shape, right.shape, strict=True)
        shape = tuple(max(pair) for pair in pairs)

        def pull(gradient: Strided) -> tuple[Strided, ...]:
            return tuple(
                self._summed_to(self._elementwise(shape, gradient.size + b.size), a)
                for a, b in ((left, right), (right, left))
            )

        result = self._elementwise(shape, left.size + right.size, fresh)
        return self.record(result, (left, right), pull)

    def add(self, left: Strided, right: Strided) -> Strided:
        """Elementwise; `right` may be broadcast over the first dimension."""
        result = self._elementwise(left.shape, left.size + right.size)

        def pull(gradient: Strided) -> tuple[Strided, Strided]:
            return gradient, self._summed_to(gradient, right)

        return self.record(result, (left, right), pull)

    def _summed_to(self, tensor: Strided, like: Strided) -> Strided:
        if tensor.shape == like.shape:
            return tensor
        return self._elementwise(like.shape, tensor.size)

    def sum(self, tensor: Strided, dims: Sequence[int]) -> Strided:
        """Over some dimensions."""
        kept = [i for i in range(len(tensor.shape)) if i not in dims]
        result = self._elementwise(tuple(tensor.shape[i] for i in kept), tensor.size)

        def pull(gradient: Strided) -> tuple[Strided]:
            self.does(View())
            strides = dict(zip(kept, gradient.strides, strict=True))
            each = tuple(strides.get(i, 0) for i in range(len(tensor.shape)))
            return (Strided(tensor.shape, each),)

        return self.record(result, (tensor,), pull)

    def normalized(self, weight: Strided) -> Strided:
        """A factor over its RMS: read for it, then multiplied; the rest are numbers."""

        def passes(count: int) -> Strided:
            for _ in range(count):
                self.does(Elementwise(weight.size), *[Elementwise(2)] * 4)
                result = self._elementwise(weight.shape, weight.size)
            return result

        return self.record(passes(1), (weight,), lambda g: (passes(2),))

    def _elementwise(
        self, shape: tuple[int, ...], read: int = 0, fresh: bool = True
    ) -> Strided:
        """A tensor that is written, from so many elements that are read."""
        self.does(Elementwise(math.prod(shape) + read))
        return self.takes(*shape) if fresh else Strided.contiguous(*shape)


def _layout(operand: Strided) -> str | None:
    """Of matrices: "n" or "t", or None where neither dimension is contiguous."""
    (rows, columns), (down, along) = operand.shape[-2:], operand.strides[-2:]
    if (along == 1 or columns == 1) and (down >= columns or rows == 1):
        return "n"
    if (down == 1 or rows == 1) and (along >= rows or columns == 1):
        return "t"
    return None


def _is_interleaved(operand: Strided) -> bool:
    """Whether a matrix of a batch begins before the one before it has ended."""
    if len(operand.shape) == 2 or operand.shape[0] == 1:
        return False
    step = operand.strides[0]
    pairs = zip(operand.shape[1:], operand.strides[1:], strict=True)
    return any(0 < step < stride for size, stride in pairs if size > 1)
