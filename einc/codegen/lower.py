"""A plan to a module: each contraction to matmul, bmm or `*` on reshaped views.

In: a `Binding`, its `Plan` and `Profile`. Out: a `Module`. A contraction that sums
an index becomes one matrix product, batched over the indices that both operands
keep; one that sums nothing becomes `*`. Indices of size 1 are left out, and what a
tensor has in no other is summed first. Names and shapes of the parameters follow
from the structure and the sizes alone; a product that wants another layout views
or permutes them here.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from einc import syntax
from einc.analysis.counts import step_macs
from einc.analysis.profile import Profile, number
from einc.analysis.scaling import scales
from einc.codegen.nodes import (
    Assign,
    Attribute,
    Cut,
    Local,
    Module,
    Pad,
    Parameter,
    Permute,
    Product,
    Reshape,
    Sum,
    Value,
)
from einc.errors import NO_ROUTED_CODE, InternalError, UsageError
from einc.plan import Contraction, Leaf, Node, TermPlan
from einc.sizes import Binding
from einc.structure import Axis


class Tokens(enum.Enum):
    """The dimension that all batch dimensions of x are flattened into."""

    TOKENS = "n"


TOKENS = Tokens.TOKENS
Dim = Axis | Tokens
Groups = tuple[tuple[Dim, ...], ...]
"""A layout: each dimension is a group of axes, slowest first."""


@dataclass(frozen=True)
class Tensor:
    """A value and its layout."""

    value: Value
    groups: Groups

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(dim for group in self.groups for dim in group)


def lower(profile: Profile, class_name: str) -> Module:
    """The module that computes a structure in the order of `profile.plan`."""
    if profile.figures is None:
        raise UsageError("code needs features: give --in and --out")
    binding, structure = profile.figures.binding, profile.structure
    if structure.route is not None:
        faults = structure.diagnostics()
        route = structure.route
        faults.add(NO_ROUTED_CODE, route.span, name=route.index)
        faults.stop_on_errors()
    (term,) = profile.plan.terms
    lowering = _Lowering(binding, term, profile.plan.tokens or 1)
    lowering.run()
    sizes = scales(binding)
    arguments = ", ".join(f"{k} = {v}" for k, v in structure.arguments.items())
    return Module(
        name=class_name,
        title=f"{structure.name}({arguments})" if arguments else structure.name,
        d_in=binding.d_in,
        d_out=binding.d_out,
        figures=_figures(profile),
        parameters=tuple(
            Parameter(
                f.name,
                tuple(a.name for a in f.axes),
                binding.shape(f.axes),
                sizes[f.name],
            )
            for f in structure.factors
        ),
        body=tuple(lowering.body),
        result="y",
        repr=structure.name,
    )


class _Lowering:
    def __init__(self, binding: Binding, term: TermPlan, tokens: int) -> None:
        self.binding = binding
        self.term = term
        self.tokens = tokens
        self.body: list[Assign] = []
        ((self.padded_in, self.padded_out),) = binding.padded

    def run(self) -> None:
        """Writes `self.body`, which ends in an assignment to y."""
        x: Value = Local("x")
        extra = self.padded_in - self.binding.d_in
        if extra:
            comment = f"{extra} zeros, up to {self.padded_in} features"
            self.body.append(Assign("x", Pad(x, extra), comment=comment))
        result = self._node(self.term.root)
        output = self._big(self.term.network.term.output)
        y = self._regroup(result, ((TOKENS,), output))
        if self.padded_out != self.binding.d_out:
            y = Tensor(Cut(y.value, self.binding.d_out), y.groups)
        last = self.body[-1] if self.body else None
        if y.value != Local("y"):
            comment = "" if last is not None and last.target == "y" else self._split()
            self.body.append(Assign("y", y.value, comment=comment))

    def _split(self) -> str:
        return syntax.unparse(self.term.network.term.equation)

    def _node(self, node: Node) -> Tensor:
        if isinstance(node, Leaf):
            return self._leaf(node)
        left, right = self._node(node.left), self._node(node.right)
        if node.right.holds_x:
            left, right = right, left
        kept = self._big(node.kept)
        summed = [d for d in left.dims if d in right.dims and d not in kept]
        comment = self._comment(node)
        if any(d is not TOKENS for d in summed):
            return self._matrix(node, left, right, comment)
        return self._elementwise(node, left, right, comment)

    def _leaf(self, leaf: Leaf) -> Tensor:
        """A tensor as it stands, what it alone has summed away."""
        tensor: Tensor
        if leaf.holds_x:
            tensor = Tensor(Local("x"), ((TOKENS,), self._big(leaf.axes)))
        else:
            each = tuple(self._big([axis]) for axis in leaf.axes)
            tensor = Tensor(Attribute(leaf.name), each)
        private = self._big(leaf.private)
        if not private:
            return tensor
        runs = groupby(tensor.dims, lambda d: d if d is TOKENS else d in private)
        groups = tuple(tuple(run) for _, run in runs)
        tensor = self._regroup(tensor, groups)
        dims = tuple(i for i, group in enumerate(groups) if group[0] in private)
        rest = tuple(group for group in groups if group[0] not in private)
        return Tensor(Sum(tensor.value, dims), rest)

    # Contractions

    def _matrix(
        self, node: Contraction, left: Tensor, right: Tensor, comment: str
    ) -> Tensor:
        kept = set(self._big(node.kept)) | {TOKENS}
        both = [d for d in left.dims if d in right.dims]
        batch = tuple(d for d in both if d in kept)
        summed = tuple(d for d in both if d not in kept)
        rows = tuple(d for d in left.dims if d not in both)
        columns = tuple(d for d in right.dims if d not in both)
        if node is self.term.root:
            # The last weight is permuted rather than the output.
            output = self._big(node.kept)
            wanted = self._big(self.term.network.term.output)
            if set(columns) <= set(output):
                columns = tuple(d for d in wanted if d in columns)
        prefix = (batch,) if batch else ()
        a = self._regroup(left, (*prefix, rows, summed))
        b = self._regroup(right, (*prefix, summed, columns))
        groups = (*prefix, rows, columns)
        return self._product(node, "bmm" if batch else "matmul", a, b, groups, comment)

    def _elementwise(
        self, node: Contraction, left: Tensor, right: Tensor, comment: str
    ) -> Tensor:
        dims = (*left.dims, *(d for d in right.dims if d not in left.dims))
        a = self._regroup(left, _broadcast(dims, left.dims))
        b = self._regroup(right, _broadcast(dims, right.dims))
        groups = tuple((d,) for d in dims)
        return self._product(node, "multiply", a, b, groups, comment)

    def _product(
        self,
        node: Contraction,
        kind: Literal["matmul", "bmm", "multiply"],
        a: Tensor,
        b: Tensor,
        groups: Groups,
        comment: str,
    ) -> Tensor:
        """`node = a * b`, after a line for each of the two that is not as it was."""
        named: list[Value] = []
        for tensor in (a, b):
            root = _root(tensor.value)
            if tensor.value != root:
                layout = _layout(tensor.groups)
                self.body.append(Assign(root.name, tensor.value, layout, comment))
                root, comment = Local(root.name), ""
            named.append(root)
        product = Product(kind, *named)
        self.body.append(Assign(node.name, product, _layout(groups), comment))
        return Tensor(Local(node.name), groups)

    def _comment(self, node: Contraction) -> str:
        """What a contraction computes, and what it costs."""
        operands = " * ".join(
            f"{n.name}[{_names(n.axes if isinstance(n, Leaf) else n.kept)}]"
            for n in (node.left, node.right)
        )
        is_root = node is self.term.root
        kept = self.term.network.term.output if is_root else node.kept
        macs = step_macs(self.binding, self.term, node, self.tokens)
        cost = f"{number(macs):,} multiply-adds a token"
        if not node.holds_x:
            cost = f"{int(macs * self.tokens):,} multiply-adds a call"
        return f"{node.name}[{_names(kept)}] = {operands}: {cost}"

    # Layouts

    def _big(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """The axes of size above 1: the others are nothing to a layout."""
        return tuple(a for a in axes if self.binding.size(a) > 1)

    def _extent(self, group: tuple[Dim, ...]) -> int:
        if TOKENS in group:
            return -1
        return math.prod(self.binding.size(d) for d in group if d is not TOKENS)

    def _regroup(self, tensor: Tensor, groups: Groups) -> Tensor:
        """The same tensor in another layout: reshape, permute, reshape, as needed."""
        wanted = tuple(dim for group in groups for dim in group)
        if sorted(map(str, wanted)) != sorted(map(str, tensor.dims)):
            raise InternalError(f"a layout of {wanted} from {tensor.dims}")
        if groups == tensor.groups:
            return tensor
        if wanted != tensor.dims:
            pieces = _pieces(tensor.groups, groups)
            ordered = sorted(pieces, key=lambda piece: wanted.index(piece[0]))
            flat = self._reshape(tensor, pieces)
            order = tuple(pieces.index(piece) for piece in ordered)
            tensor = Tensor(Permute(flat.value, order), tuple(ordered))
        return self._reshape(tensor, groups)

    def _reshape(self, tensor: Tensor, groups: Groups) -> Tensor:
        if groups == tensor.groups:
            return tensor
        shape = tuple(self._extent(group) for group in groups)
        return Tensor(Reshape(tensor.value, shape), groups)


def _broadcast(dims: tuple[Dim, ...], own: tuple[Dim, ...]) -> Groups:
    """The layout of a tensor with dims `own` against `dims`: size 1 elsewhere."""
    return tuple((d,) if d in own else () for d in dims)


def _pieces(groups: Groups, wanted: Groups) -> Groups:
    """The groups, cut where what follows in them does not follow in `wanted`."""
    place = {d: (g, i) for g, group in enumerate(wanted) for i, d in enumerate(group)}
    pieces: list[tuple[Dim, ...]] = []
    for group in groups:
        for i, dim in enumerate(group):
            number, position = place[dim]
            if i and place[group[i - 1]] == (number, position - 1):
                pieces[-1] += (dim,)
            else:
                pieces.append((dim,))
    return tuple(pieces)


def _root(value: Value) -> Local | Attribute:
    """What a chain of views starts from."""
    while not isinstance(value, Local | Attribute):
        if isinstance(value, Product):
            raise InternalError("a product without a name")
        value = value.value
    return value


def _names(axes: Iterable[Axis]) -> str:
    return ", ".join(a.name for a in axes)


def _layout(groups: Groups) -> str:
    """A layout for a comment: dimensions by comma, axes within one by `*`."""
    names = [
        "*".join(d.value if isinstance(d, Tokens) else d.name for d in group) or "1"
        for group in groups
    ]
    return ", ".join(names)


def _figures(profile: Profile) -> tuple[str, ...]:
    """The header's figures, a line each."""
    figures = profile.figures
    assert figures is not None
    binding, work = figures.binding, figures.work
    sizes = ", ".join(f"{name} = {size}" for name, size in binding.sizes.items())
    ((padded_in, padded_out),) = binding.padded
    lines = [f"{binding.d_in} -> {binding.d_out} features" + f": {sizes}" * bool(sizes)]
    if binding.is_padded:
        lines.append(f"padded to {padded_in} -> {padded_out} features")
    lines.append(
        f"{figures.parameters.total:,} parameters ({figures.parameter_share:.2%} of "
        "dense), without the bias"
    )
    flops = number(2 * work.matrix)
    training = number(6 * work.matrix)
    lines.append(
        f"{flops:,} FLOPs a token forward ({figures.flop_share:.2%} of dense), "
        f"{training:,} with backward"
    )
    if work.elementwise:
        lines.append(f"{number(work.elementwise):,} elementwise FLOPs a token beside")
    plan = profile.plan
    lines.append(f"order: {plan.kind}, planned for {plan.tokens:,} tokens a call")
    return tuple(lines)
