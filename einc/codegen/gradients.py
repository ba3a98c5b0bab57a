"""The backward of a chain of matrix products, in layouts of its own.

In: the forward `Products` of one term, with the operands of each. Out: `Gradients`, with
the statements that lead from the gradient of the result to those of x and the weights.
Autograd would compute the same products in the layouts of the forward, with the
copies that these then need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product as every
from typing import Protocol

from einc.codegen.choices import Dtype
from einc.codegen.layout import (
    TOKENS,
    Copy,
    Dim,
    Groups,
    Layouts,
    Operands,
    Tensor,
    dims_of,
    layout_text,
)
from einc.codegen.nodes import (
    Assign,
    Contiguous,
    Guarded,
    Local,
    Product,
    Value,
)
from einc.codegen.statements import (
    Dims,
    Orientation,
    Statements,
    fresh,
    root_of,
)
from einc.plan import Contraction, Key, Plan
from einc.sizes import Binding

Guard = tuple[int, int]
"""The first and the last of the arguments for whose gradients a statement is."""
MOST_ORIENTED = 3
"""Gradients of which all orientations are tried, all together; others are turned."""


class Products(Protocol):
    """What is read of a forward: tensors by key, and each product's operands."""

    binding: Binding
    plan: Plan
    dtype: Dtype
    tokens: int
    layouts: Layouts
    copies: list[Copy]
    known: dict[Key, Tensor]
    operands: dict[Key, tuple[Tensor, Tensor]]
    body: list[Assign]
    result: Tensor | None


def is_chain(plan: Plan) -> bool:
    """Whether x goes through matrix products alone, two or more, one after the other.

    Each with a weight of its own, which no other product of x reads.
    """
    if len(plan.terms) != 1 or plan.terms[0].expert_steps:
        return False
    steps = _of_x(plan)
    weights = [step.x_first[1] for step in steps]
    read = [leaf.name for leaf in plan.terms[0].leaves]
    x = next(leaf for leaf in plan.terms[0].leaves if leaf.holds_x)
    return (
        len(steps) > 1
        and not x.private
        and len({weight.key for weight in weights}) == len(weights)
        and len(set(read)) == len(read)
    )


def _of_x(plan: Plan) -> list[Contraction]:
    return [step for _, step in plan.steps if step.holds_x]


@dataclass(frozen=True)
class _Step:
    """A product of the forward: its data, also as it is kept, and its weight as an operand.

    `source` is the name of the data before they are copied.
    """

    data: Tensor
    weight: Tensor
    source: str

    @property
    def columns(self) -> set[Dim]:
        """What the product has from its weight alone."""
        return set(self.weight.dims) - set(self.data.dims)

    @property
    def orientations(self) -> tuple[Orientation, ...]:
        """Those in which the gradient of its data may be computed."""
        is_batch = len(self.weight.groups) == 3
        return ("plain", "turned") if is_batch else ("plain", "turned", "expanded")

    def parted(self, gradient: Tensor, as_data: bool) -> tuple[Groups, Dims, Dims]:
        """The dimensions of its result: in data and weight, in data, and in the weight.

        In the order in which they lie in `gradient`, so that it is copied least; or,
        `as_data`, in that of the data.
        """
        data, weight, lies = self.data.dims, self.weight.dims, gradient.lies
        shared = lies
        if as_data:
            shared = tuple(d for d in self.data.lies if d in lies)
        both = tuple(d for d in shared if d in data and d in weight)
        rows = tuple(d for d in shared if d in data and d not in weight)
        columns = tuple(d for d in lies if d not in data)
        return (both,) if both else (), rows, columns


def all_gradients(forward: Products) -> Iterator[Gradients]:
    """The gradients in all orientations that are tried; none where `*` is among them."""
    steps: list[_Step] = []
    for step in _of_x(forward.plan):
        left, right = forward.operands[step.key]
        if not _sums(step, left, right):
            return
        data = forward.known[step.x_first[0].key]
        weight, operand = (right, left) if TOKENS in left.dims else (left, right)
        source = root_of(data.value)
        # What the forward copied for itself is kept as it lies then.
        if steps and operand.lies != data.lies:
            data = operand
        plain = replace(data, value=root_of(data.value))
        steps.append(_Step(plain, weight, source.name))
    rest = max(len(steps) - MOST_ORIENTED, 0)
    choices: list[tuple[Orientation, ...]] = [("turned",)] * rest
    choices += [step.orientations for step in steps[rest:]]
    for as_data, ordered in every((False, True), repeat=2):
        for oriented in every(*choices):
            yield Gradients(forward, steps, oriented, ordered, as_data)


def _sums(step: Contraction, left: Tensor, right: Tensor) -> bool:
    return any(d in right.dims and d not in step.kept for d in left.dims)


class Gradients(Statements):
    """The statements of `gradients`, for the arguments x and weights.

    The gradients of the products' data are computed as `oriented` says. Where they are
    `ordered`, what the product before sums comes first in them: the weight may be copied
    for that, and the gradient need not be. `as_data`, gradients are brought into the
    order of the data rather than the other way round.
    """

    def __init__(
        self,
        forward: Products,
        steps: Sequence[_Step],
        oriented: Sequence[Orientation],
        ordered: bool,
        as_data: bool,
    ) -> None:
        super().__init__(forward.layouts, forward.tokens, forward.dtype)
        values = [steps[0].data.value, *(step.weight.value for step in steps)]
        self.arguments = tuple(root_of(value).name for value in values)
        self.as_data = as_data
        self.kept = tuple(step.data for step in steps[1:])
        self.used = {assign.target for assign in forward.body} | set(self.arguments)
        self.wanted = self._new("wanted")
        self.incoming = self._new("dy")
        self.names = tuple(self._new(f"d{name}") for name in self.arguments)
        self.body: list[Guarded] = []
        self.views: dict[Value, Local] = {}
        self.guards: dict[str, Guard] = {}
        self.letters = {root_of(s.data.value).name: s.source for s in steps}
        self.operands: dict[tuple[Value, Groups], Tensor] = {}
        self.copied: dict[tuple[Value, Dims], Tensor] = {}
        output = self.layouts.big(forward.plan.terms[0].network.term.output)
        gradient = Tensor(Local(self.incoming), ((TOKENS,), output))
        for place in reversed(range(len(steps))):
            self._weight(steps[place], place, gradient)
            gradient = self._data(
                steps[place],
                place,
                gradient,
                oriented[place],
                steps[place - 1].columns if place and ordered else set(),
            )
        features = tuple(d for d in steps[0].data.dims if d is not TOKENS)
        wanted: Groups = ((TOKENS,), features)
        found = self.layouts.arrange(gradient, wanted)
        if found.groups[0] != (TOKENS,):
            found = self.regroup(gradient, wanted)
        # Of each chunk, into the whole.
        self.copies.append(Copy.of(found.lies, wanted))
        if found != gradient:
            self._assign(self.names[0], found, (0, 0))
        self._guard_copies()

    def operand(self, tensor: Tensor, groups: Groups) -> Tensor:
        """What two products read in the same layout is copied once."""
        key = (tensor.value, groups)
        if key not in self.operands:
            self.operands[key] = super().operand(tensor, groups)
        return self.operands[key]

    def copy(self, tensor: Tensor, groups: Groups) -> Tensor:
        """The same of what they read as matrices and as transposed ones."""
        key = (tensor.value, dims_of(groups))
        if key not in self.copied:
            made = super().copy(tensor, groups)
            self.copied[key] = replace(made, value=self._named(made))
        return self.regroup(self.copied[key], groups)

    def _new(self, name: str) -> str:
        """The name, or with a number where something has it."""
        found = fresh(name, self.used) if name in self.used else name
        self.used.add(found)
        return found

    def _weight(self, step: _Step, place: int, gradient: Tensor) -> None:
        """The gradient of a weight: data and gradient, summed over the tokens."""
        data, weight = step.data, step.weight
        batch, rows, columns = step.parted(gradient, self.as_data)
        summed = tuple(d for d in data.lies if d not in gradient.dims)
        # The last dimension of the weight as an operand is the last one here.
        if set(weight.groups[-1]) <= step.columns:
            operands = self.matrix(data, gradient, batch, summed, rows, columns)
        else:
            operands = self.matrix(gradient, data, batch, columns, rows, summed)
        name, guard = self.names[place + 1], (place + 1, place + 1)
        found = self._multiply(name, operands, guard)
        regrouped = self.regroup(found, weight.groups)
        if regrouped.value != found.value:
            self._assign(name, regrouped, guard)

    def _data(
        self,
        step: _Step,
        place: int,
        gradient: Tensor,
        orientation: Orientation,
        before: set[Dim],
    ) -> Tensor:
        """The gradient of a step's data, in which `before` comes first."""
        data = step.data
        name = self.arguments[place + 1]
        weight = replace(step.weight, value=Local(name))
        batch, rows, columns = step.parted(gradient, self.as_data)
        left = tuple(d for d in data.lies if d not in gradient.dims)
        left = tuple(sorted(left, key=lambda d: d not in before))
        operands = self.oriented_matrix(
            orientation, gradient, weight, batch, rows, columns, left
        )
        target = self._new(f"d{step.source}") if place else self.names[0]
        self.guards[target] = (0, place)
        return self._multiply(target, operands, (0, place))

    def _multiply(self, target: str, operands: Operands, guard: Guard) -> Tensor:
        """`target = a * b`, after a line for each of the two that is not as it was."""
        left, right = self._named(operands.left), self._named(operands.right)
        product = Product(operands.kind, left, right)
        self._assign(target, Tensor(product, operands.groups), guard)
        return Tensor(Local(target), operands.groups)

    def _named(self, tensor: Tensor) -> Value:
        """A name for a view; each is made once, where what it is a view of is made."""
        root = root_of(tensor.value)
        if tensor.value == root:
            return root
        if tensor.value not in self.views:
            letters = self.letters.get(root.name, root.name)
            name = fresh(letters, self.used)
            self.used.add(name)
            guard = self.guards.get(root.name, (0, len(self.arguments) - 1))
            self.guards[name], self.letters[name] = guard, letters
            self._assign(name, tensor, guard)
            self.views[tensor.value] = Local(name)
        return self.views[tensor.value]

    def _guard_copies(self) -> None:
        """What is copied is copied for those gradients alone that read it."""
        read: dict[str, list[Guard]] = {}
        for place in reversed(range(len(self.body))):
            guarded = self.body[place]
            value = guarded.statement.value
            readers = read.get(guarded.statement.target)
            if isinstance(value, Contiguous) and readers:
                first, last = min(a for a, _ in readers), max(b for _, b in readers)
                guarded = replace(guarded, first=first, last=last)
                self.body[place] = guarded
            parts = (
                (value.left, value.right) if isinstance(value, Product) else (value,)
            )
            for part in parts:
                guard = (guarded.first, guarded.last)
                read.setdefault(root_of(part).name, []).append(guard)

    def _assign(self, target: str, tensor: Tensor, guard: Guard) -> None:
        statement = Assign(target, tensor.value, layout_text(tensor.groups))
        self.body.append(Guarded(*guard, statement))
