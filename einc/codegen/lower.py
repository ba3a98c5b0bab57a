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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from einc.analysis.counts import step_macs
from einc.analysis.profile import Profile, number
from einc.analysis.scaling import Scale, scales
from einc.codegen.nodes import (
    Assign,
    Attribute,
    Cut,
    Local,
    Module,
    Normalized,
    Pad,
    Parameter,
    Permute,
    Product,
    Reshape,
    Sum,
    Value,
)
from einc.errors import NO_ROUTED_CODE, InternalError
from einc.plan import Contraction, Key, Leaf, Node, Plan, TermPlan
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
        raise InternalError("code of what was analysed without features")
    binding, structure = profile.figures.binding, profile.structure
    if structure.route is not None:
        faults = structure.diagnostics()
        route = structure.route
        faults.add(NO_ROUTED_CODE, route.span, name=route.index)
        faults.stop_on_errors()
    sizes = scales(binding)
    lowering = _Lowering(binding, profile.plan, sizes)
    lowering.run()
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
                f.name in structure.normalized,
            )
            for f in structure.factors
        ),
        body=tuple(lowering.body),
    )


class _Lowering:
    """The statements of `contract`, written term by term into `body`."""

    def __init__(self, binding: Binding, plan: Plan, sizes: dict[str, Scale]) -> None:
        self.binding = binding
        self.plan = plan
        self.scales = sizes
        self.tokens = plan.tokens or 1
        self.body: list[Assign] = []
        self.known: dict[Key, Tensor] = {}
        self.inputs = {binding.d_in: Local("x")}
        self.reads = _reads(plan)

    def run(self) -> None:
        """Writes `self.body`, which ends in an assignment to y."""
        for name in self.binding.structure.normalized:
            normal = Normalized(name, self.scales[name].std)
            self.body.append(Assign(name, normal))
        padded = self.binding.padded
        values = [
            self._term(t, p) for t, p in zip(self.plan.terms, padded, strict=True)
        ]
        total = values[0]
        for value in values[1:]:
            total = Product("add", total, value)
        if total != Local("y"):
            named = any(assign.target == "y" for assign in self.body)
            comment = "" if named else self.binding.structure.equations[0]
            comment = comment if len(values) == 1 else ""
            self.body.append(Assign("y", total, comment=comment))

    def _term(self, term: TermPlan, padded: tuple[int, int]) -> Value:
        """The value of one term: (n, out_features)."""
        result = self._node(term, term.root, padded[0])
        output = self._big(term.network.term.output)
        y = self._regroup(result, ((TOKENS,), output)).value
        if padded[1] != self.binding.d_out:
            y = Cut(y, self.binding.d_out)
        root = _root(y)
        if len(self.plan.terms) == 1 or y == root:
            return y
        name = self._name(root, "y")
        self.body.append(Assign(name, y))
        return Local(name)

    def _node(self, term: TermPlan, node: Node, padded_in: int) -> Tensor:
        if node.key not in self.known:
            if isinstance(node, Leaf):
                self.known[node.key] = self._leaf(node, padded_in)
            else:
                self.known[node.key] = self._contraction(term, node, padded_in)
        return self.known[node.key]

    def _leaf(self, leaf: Leaf, padded_in: int) -> Tensor:
        """A tensor as it stands, what it alone has summed away."""
        tensor: Tensor
        if leaf.holds_x:
            groups: Groups = ((TOKENS,), self._big(leaf.axes))
            tensor = Tensor(self._input(padded_in), groups)
        else:
            each = tuple(self._big([axis]) for axis in leaf.axes)
            normalized = leaf.name in self.binding.structure.normalized
            value = Local(leaf.name) if normalized else Attribute(leaf.name)
            tensor = Tensor(value, each)
        private = self._big(leaf.private)
        if not private:
            return tensor
        runs = groupby(tensor.dims, lambda d: d if d is TOKENS else d in private)
        groups = tuple(tuple(run) for _, run in runs)
        tensor = self._regroup(tensor, groups)
        dims = tuple(i for i, group in enumerate(groups) if group[0] in private)
        rest = tuple(group for group in groups if group[0] not in private)
        return Tensor(Sum(tensor.value, dims), rest)

    def _input(self, padded_in: int) -> Local:
        """x, with zeros behind it where a term needs them."""
        if padded_in not in self.inputs:
            extra = padded_in - self.binding.d_in
            local = Local(self._name(Local("x"), "x"))
            comment = f"{extra} zeros, up to {padded_in} features"
            self.body.append(Assign(local.name, Pad(Local("x"), extra), "", comment))
            self.inputs[padded_in] = local
        return self.inputs[padded_in]

    # Names

    def _name(self, root: Local | Attribute, letter: str) -> str:
        """A name for a view of `root`: the same, unless that is read again."""
        if isinstance(root, Attribute):
            return root.name
        # x is read under the names of its paddings, too.
        read = "x" if root in self.inputs.values() else root.name
        return self._fresh(letter) if self.reads[read] > 1 else root.name

    def _fresh(self, letter: str) -> str:
        """A local name that nothing has yet."""
        used = {assign.target for assign in self.body}
        used |= {step.name for _, step in self.plan.steps}
        used |= {factor.name for factor in self.binding.structure.factors}
        numbers = range(1, len(used) + 2)
        return next(n for i in numbers if (n := f"{letter}{i}") not in used)

    # Contractions

    def _contraction(self, term: TermPlan, node: Contraction, padded_in: int) -> Tensor:
        left = self._node(term, node.left, padded_in)
        right = self._node(term, node.right, padded_in)
        if node.right.holds_x:
            left, right = right, left
        kept = self._big(node.kept)
        summed = [d for d in left.dims if d in right.dims and d not in kept]
        if any(d is not TOKENS for d in summed):
            return self._matrix(term, node, left, right)
        return self._elementwise(term, node, left, right)

    def _matrix(
        self, term: TermPlan, node: Contraction, left: Tensor, right: Tensor
    ) -> Tensor:
        kept = set(self._big(node.kept)) | {TOKENS}
        both = [d for d in left.dims if d in right.dims]
        batch = tuple(d for d in both if d in kept)
        summed = tuple(d for d in both if d not in kept)
        rows = tuple(d for d in left.dims if d not in both)
        columns = tuple(d for d in right.dims if d not in both)
        if node is term.root:
            # The last weight is permuted rather than the output.
            columns = tuple(d for d in term.network.term.output if d in columns)
        prefix = (batch,) if batch else ()
        a = self._regroup(left, (*prefix, rows, summed))
        b = self._regroup(right, (*prefix, summed, columns))
        groups = (*prefix, rows, columns)
        return self._product(term, node, "bmm" if batch else "matmul", a, b, groups)

    def _elementwise(
        self, term: TermPlan, node: Contraction, left: Tensor, right: Tensor
    ) -> Tensor:
        dims = (*left.dims, *(d for d in right.dims if d not in left.dims))
        a = self._regroup(left, _broadcast(dims, left.dims))
        b = self._regroup(right, _broadcast(dims, right.dims))
        groups = tuple((d,) for d in dims)
        return self._product(term, node, "multiply", a, b, groups)

    def _product(
        self,
        term: TermPlan,
        node: Contraction,
        kind: Literal["matmul", "bmm", "multiply"],
        a: Tensor,
        b: Tensor,
        groups: Groups,
    ) -> Tensor:
        """`node = a * b`, after a line for each of the two that is not as it was."""
        named: list[Value] = []
        comment = self._comment(term, node)
        for tensor in (a, b):
            root = _root(tensor.value)
            if tensor.value != root:
                name = self._name(root, root.name[0])
                if Local(name) in named:
                    name = self._fresh(root.name[0])  # a factor times itself
                layout = _layout(tensor.groups)
                self.body.append(Assign(name, tensor.value, layout, comment))
                root, comment = Local(name), ""
            named.append(root)
        product = Product(kind, *named)
        self.body.append(Assign(node.name, product, _layout(groups), comment))
        return Tensor(Local(node.name), groups)

    def _comment(self, term: TermPlan, node: Contraction) -> str:
        """What a contraction computes, and what it costs."""
        operands = " * ".join(
            f"{n.name}[{_names(n.axes if isinstance(n, Leaf) else n.kept)}]"
            for n in (node.left, node.right)
        )
        kept = term.network.term.output if node is term.root else node.kept
        macs = step_macs(self.binding, term, node, self.tokens)
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
        if Counter(wanted) != Counter(tensor.dims):
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


def _reads(plan: Plan) -> Counter[str]:
    """How often what has a name is read: by contractions, and as a term's result."""
    nodes = [operand for _, step in plan.steps for operand in (step.left, step.right)]
    return Counter(node.name for node in [*nodes, *(t.root for t in plan.terms)])


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
        if isinstance(value, Product | Normalized):
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
    padded_in, padded_out = (max(pair) for pair in zip(*binding.padded, strict=True))
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
