"""What each expert of a routed structure computes, lowered for tokens in groups.

In: the steps of a term over which its routed index is open. Out: an `Experts`. The
tokens of one expert pass through the products that an unrouted structure would have,
with that expert's weights: the routed index is in no layout.

Between two products the tokens stand innermost (weight times activations), so that
no product needs a copy of what the one before it wrote; in the last they stand
outermost again. Backward is written out in the same layouts, each product of forward
once over either operand, and what lies between is computed again instead of kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from einc.codegen.layout import TOKENS, Dim, Groups, Layouts, Tensor, layout_text
from einc.codegen.nodes import (
    Accumulate,
    Assign,
    Experts,
    ExpertWeight,
    GroupedProduct,
    Local,
    Permute,
    Product,
    Reshape,
    Space,
    Sum,
    Value,
    Weight,
)
from einc.plan import Contraction, TermPlan
from einc.sizes import Binding
from einc.structure import Axis

CHUNK_ELEMENTS = 1 << 19
"""Of the widest tensor of a chunk: about what stays in the caches, by trial."""

ALIGNMENT = 8
"""Grouped products want rows of multiples of 16 bytes: 8 elements of bfloat16."""

ARGUMENTS = frozenset(
    """
    x gates chosen grad n k r places tokens gate rows scaled chunk total torch nn math
    len expert order ends incoming left right
    """.split()
)
"""What the experts' functions call their own."""


@dataclass(frozen=True)
class Step:
    """One product: `batch` is in activations and weight and stays, `summed` goes.

    `new` is in the weight alone. Without `summed` the product is elementwise.
    """

    name: str
    weight: str
    per_expert: bool
    batch: tuple[Axis, ...]
    summed: tuple[Axis, ...]
    new: tuple[Axis, ...]
    own: tuple[Axis, ...]
    is_last: bool

    @property
    def layout(self) -> Groups:
        """The weight's: as it is multiplied, the routed index left out.

        Of its two sides that first which is stored first: products take either.
        """
        if not self.summed:
            return tuple((a,) for a in self.own)
        pair = (self.summed, self.new)
        if self.new and self.own.index(self.new[0]) < self.own.index(self.summed[0]):
            pair = (self.new, self.summed)
        return self.prefixed(*pair)

    @property
    def tensor(self) -> Tensor:
        """The weight of one expert."""
        name = self.weight
        value = ExpertWeight(name) if self.per_expert else Local(name)
        return Tensor(value, self.layout)

    def prefixed(self, *groups: tuple[Dim, ...]) -> Groups:
        """A layout of a matrix product, with the batch before it where there is one."""
        return (self.batch, *groups) if self.batch else groups

    def rest(self, dims: Sequence[Dim]) -> tuple[Dim, ...]:
        """What activations have and the weight has not, in their order."""
        return tuple(d for d in dims if d not in self.own)


class ExpertsLowering:
    """The lowering of `term.expert_steps`.

    What goes in is (tokens, `incoming`) and comes out (tokens, `outgoing`).
    """

    def __init__(self, binding: Binding, term: TermPlan) -> None:
        self.binding = binding
        self.layouts = Layouts(binding)
        self.routed = binding.structure.routed
        contractions = term.expert_steps
        last = contractions[-1]
        self.incoming = self._axes(contractions[0].x_first[0].kept)
        output = term.network.term.output if last is term.root else last.kept
        self.outgoing = self._axes(output)
        self.steps: list[Step] = []
        taken = set(ARGUMENTS) | {step.name for step in contractions}
        active = self.incoming
        for contraction in contractions:
            step = self._step(contraction, active, taken, contraction is last)
            self.steps.append(step)
            active = self._axes(contraction.kept)

    def _axes(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        return self.layouts.big(a for a in axes if a.name != self.routed)

    def _step(
        self,
        contraction: Contraction,
        active: tuple[Axis, ...],
        taken: set[str],
        is_last: bool,
    ) -> Step:
        node = contraction.x_first[1]
        own, kept = self._axes(node.kept), self._axes(contraction.kept)
        order = self.outgoing if is_last else own
        name = node.name
        while name in taken or name.startswith(("grad_", "each_", "space_")):
            name = f"w_{name}"
        taken.add(name)
        return Step(
            contraction.name,
            name,
            any(axis.name == self.routed for axis in node.kept),
            tuple(a for a in active if a in own and a in kept),
            tuple(a for a in active if a in own and a not in kept),
            tuple(a for a in order if a in own and a not in active),
            own,
            is_last,
        )

    def lower(self, name: str) -> Experts:
        """The functions of the experts, called `name`."""
        rows = Tensor(Local("rows"), ((TOKENS,), self.incoming))
        scaled = Tensor(Local("scaled"), rows.groups)
        forward: list[Assign] = []
        result = self._forward(rows, forward)[-1]
        again: list[Assign] = []
        activations = self._forward(scaled, again, again=True)
        backward: list[Assign | Accumulate] = []
        incoming = self._backward(activations, backward)
        grouped: list[Assign] = []
        grouped_result = self._grouped(rows, grouped)
        macs = [
            self._macs(step, a) for step, a in zip(self.steps, activations, strict=True)
        ]
        widths = [self._elements(self.incoming), self._elements(self.outgoing)]
        widths += [self._elements(a.dims) for a in activations]
        return Experts(
            name,
            self._count,
            widths[0],
            widths[1],
            tuple(
                Weight(s.weight, layout_text(s.layout), s.per_expert)
                for s in self.steps
            ),
            self._chunk(max(widths)),
            tuple(forward),
            self._gated(result, "rows", self.outgoing),
            tuple(again),
            tuple(backward),
            self._gated(incoming, "scaled", self.incoming),
            self._gate_gradient(rows, incoming),
            tuple(grouped) if self._is_aligned else None,
            self.layouts.regroup(grouped_result, ((TOKENS,), self.outgoing)).value,
            sum(macs),
            2 * sum(macs) + sum(macs[:-1]),
        )

    @property
    def _count(self) -> int:
        assert self.routed is not None
        return self.binding.sizes[self.routed]

    @property
    def _is_aligned(self) -> bool:
        """Whether there are grouped products, and they take all the weights."""
        sizes = [
            self._elements(dims)
            for step in self.steps
            if step.per_expert and step.summed
            for dims in (step.summed, step.new)
        ]
        return bool(sizes) and all(size % ALIGNMENT == 0 for size in sizes)

    def _chunk(self, width: int) -> int:
        """The rows of a chunk: a power of two from 64 to 1024."""
        rows = round(math.log2(CHUNK_ELEMENTS / width))
        return 1 << min(max(rows, 6), 10)

    def _elements(self, dims: Sequence[Dim]) -> int:
        return math.prod(self.binding.size(d) for d in dims if d is not TOKENS)

    def _macs(self, step: Step, activations: Tensor) -> int:
        if not step.summed:
            return 0
        return self._elements(activations.dims) * self._elements(step.new)

    # Products

    def _times(self, left: Tensor, right: Tensor, groups: Groups, name: str) -> Product:
        """A matrix product that writes to the space of `name`."""
        return Product(
            _kind(groups), left.value, right.value, self._space(name, groups)
        )

    def _space(self, name: str, groups: Groups) -> Space:
        shape = tuple(self.layouts.extent(group) for group in groups)
        (tokens,) = (group for group in groups if TOKENS in group)
        return Space(f"space_{name}", shape, self._elements(tokens))

    def _multiply(self, left: Tensor, right: Tensor, name: str) -> Tensor:
        operands = self.layouts.elementwise(left, right)
        space = self._space(name, operands.groups)
        a, b = operands.left.value, operands.right.value
        return Tensor(Product("multiply", a, b, space), operands.groups)

    def _summed(self, tensor: Tensor, kept: Sequence[Dim]) -> Tensor:
        """An elementwise product, summed over what is not in `kept`."""
        dims = tuple(i for i, (d,) in enumerate(tensor.groups) if d not in kept)
        if not dims:
            return tensor
        groups = tuple(group for group in tensor.groups if group[0] in kept)
        return Tensor(Sum(tensor.value, dims), groups)

    # Forward

    def _forward(
        self, rows: Tensor, body: list[Assign], again: bool = False
    ) -> list[Tensor]:
        """What goes into each step, and what comes out of the last unless `again`."""
        tensors = [rows]
        regroup = self.layouts.regroup
        for step in self.steps[:-1] if again else self.steps:
            active, weight = tensors[-1], step.tensor
            if not step.summed:
                product = self._multiply(active, weight, step.name)
                value, groups = product.value, product.groups
            else:
                rest = step.rest(active.dims)
                if step.is_last:
                    left = regroup(active, step.prefixed(rest, step.summed))
                    right = regroup(weight, step.prefixed(step.summed, step.new))
                    groups = step.prefixed(rest, step.new)
                else:
                    left = regroup(weight, step.prefixed(step.new, step.summed))
                    right = regroup(active, step.prefixed(step.summed, rest))
                    groups = step.prefixed(step.new, rest)
                value = self._times(left, right, groups, step.name)
            body.append(Assign(step.name, value, layout_text(groups)))
            tensors.append(Tensor(Local(step.name), groups))
        return tensors

    def _gated(self, tensor: Tensor, name: str, axes: tuple[Axis, ...]) -> Value:
        """(n, axes) times the gates, whatever the layout of the tensor."""
        tensor = self._token_rows(tensor, axes)
        ones = (1,) * (len(tensor.groups) - 1)
        gate = Reshape(Local("gate"), (-1, *ones)) if len(ones) > 1 else Local("gate")
        space = self._space(name, tensor.groups)
        value = Product("multiply", tensor.value, gate, space)
        return self.layouts.reshape(
            Tensor(value, tensor.groups), ((TOKENS,), axes)
        ).value

    def _token_rows(self, tensor: Tensor, axes: tuple[Axis, ...]) -> Tensor:
        """A view with the tokens outermost, in pieces, of two dimensions or more."""
        tensor = self.layouts.arrange(tensor, ((TOKENS,), axes))
        if tensor.groups[0] != (TOKENS,):
            apart = tuple((d,) for d in tensor.dims)
            tensor = self.layouts.reshape(tensor, apart)
        if len(tensor.groups) == 1:
            tensor = self.layouts.reshape(tensor, ((TOKENS,), ()))
        return tensor

    # Backward

    def _backward(
        self, activations: list[Tensor], body: list[Assign | Accumulate]
    ) -> Tensor:
        """The gradient of the rows, without gates: in the activations they are in."""
        gradient = Tensor(Local("grad_rows"), ((TOKENS,), self.outgoing))
        for i, step in reversed(list(enumerate(self.steps))):
            active = activations[i]
            name = f"grad_{step.weight}"
            into = ExpertWeight(name) if step.per_expert else Local(name)
            if step.summed:
                value = self._weight_gradient(step, active, gradient)
            else:
                each = f"grad_each_{step.weight}"
                product = self._multiply(gradient, active, each)
                text = layout_text(product.groups)
                body.append(Assign(each, product.value, text))
                product = self._summed(Tensor(Local(each), product.groups), step.own)
                value = self.layouts.regroup(product, step.layout).value
            body.append(Accumulate(into, value))
            name = f"grad_{self.steps[i - 1].name}" if i else "grad_incoming"
            tensor = self._active_gradient(step, active, gradient, name, i == 0)
            body.append(Assign(name, tensor.value, layout_text(tensor.groups)))
            gradient = Tensor(Local(name), tensor.groups)
        return gradient

    def _weight_gradient(self, step: Step, active: Tensor, gradient: Tensor) -> Value:
        regroup = self.layouts.regroup
        rest = step.rest(active.dims)
        first, second = step.layout[-2:]
        sides: dict[tuple[Dim, ...], Tensor]
        sides = {step.summed: active, step.new: gradient}
        left = regroup(sides[first], step.prefixed(first, rest))
        right = regroup(sides[second], step.prefixed(rest, second))
        return Product(_kind(left.groups), left.value, right.value)

    def _active_gradient(
        self, step: Step, active: Tensor, gradient: Tensor, name: str, is_first: bool
    ) -> Tensor:
        """Tokens innermost, or outermost in the first step: these are rows of x."""
        regroup = self.layouts.regroup
        if not step.summed:
            return self._summed(
                self._multiply(gradient, step.tensor, name), active.dims
            )
        rest = step.rest(gradient.dims)
        if is_first:
            left = regroup(gradient, step.prefixed(rest, step.new))
            right = regroup(step.tensor, step.prefixed(step.new, step.summed))
            groups = step.prefixed(rest, step.summed)
        else:
            left = regroup(step.tensor, step.prefixed(step.summed, step.new))
            right = regroup(gradient, step.prefixed(step.new, rest))
            groups = step.prefixed(step.summed, rest)
        return Tensor(self._times(left, right, groups, name), groups)

    def _gate_gradient(self, rows: Tensor, gradient: Tensor) -> Value:
        """A number for each row: the map is linear, so it is the rows' own product."""
        gradient = self._token_rows(gradient, self.incoming)
        rows = self.layouts.reshape(rows, gradient.groups)
        space = self._space("rows", gradient.groups)
        product = Product("multiply", gradient.value, rows.value, space)
        return Sum(product, tuple(range(1, len(gradient.groups))))

    # All experts at once

    def _grouped(self, rows: Tensor, body: list[Assign]) -> Tensor:
        """All experts at once, the rows of each together, with grouped products."""
        active, regroup = rows, self.layouts.regroup
        for step in self.steps:
            weight = Local(step.weight)
            value: Value
            if not step.summed:
                value, layout = weight, step.layout
                if step.per_expert:
                    value, layout = (
                        ExpertWeight(step.weight, True),
                        ((TOKENS,), *layout),
                    )
                operands = self.layouts.elementwise(active, Tensor(value, layout))
                groups = operands.groups
                a, b = operands.left.value, operands.right.value
                value = Product("multiply", a, b)
            else:
                rest = step.rest(active.dims)
                rest = (TOKENS, *(d for d in rest if d is not TOKENS))
                groups = step.prefixed(rest, step.new)
                left = regroup(active, step.prefixed(rest, step.summed))
                if step.per_expert:
                    value = self._grouped_product(step, left, rest)
                else:
                    right = regroup(step.tensor, step.prefixed(step.summed, step.new))
                    value = Product(_kind(groups), left.value, right.value)
            body.append(Assign(step.name, value, layout_text(groups)))
            active = Tensor(Local(step.name), groups)
        return active

    def _grouped_product(
        self, step: Step, left: Tensor, rest: tuple[Dim, ...]
    ) -> GroupedProduct:
        right: Value = Local(step.weight)
        if step.layout[-1] == step.summed:
            order = (0, 1, 3, 2) if step.batch else (0, 2, 1)
            right = Permute(right, order)
        return GroupedProduct(left.value, right, self._elements(rest))


def _kind(groups: Groups) -> Literal["matmul", "bmm"]:
    """The product of tensors in such layouts."""
    return "bmm" if len(groups) == 3 else "matmul"
