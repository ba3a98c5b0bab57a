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
from einc.errors import NO_ROUTED_CODE, InternalError, UsageError
from einc.plan import Contraction, Key, Leaf, Node, Plan, TermPlan
from einc.sizes import Binding
from einc.structure import Axis


class Tokens(enum.Enum):
    """The dimension that all batch dimensions of x are flattened into."""

    TOKENS = "n"


TOKENS = Tokens.TOKENS
Dim = Axis | Tokens
Groups = tuple[tuple[Dim, ...], ...]
Kind = Literal["matmul", "bmm", "multiply"]


@dataclass(frozen=True)
class Tensor:
    """A value and its layout: each dimension is a group of axes, slowest first."""

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
        result="y",
        repr=structure.name,
    )


class _Lowering:
    def __init__(self, binding: Binding, plan: Plan, sizes: dict[str, Scale]) -> None:
        self.binding = binding
        self.plan = plan
        self.scales = sizes
        self.tokens = plan.tokens or 1
        self.body: list[Assign] = []
        self.known: dict[Key, Tensor] = {}
        self.uses = _uses(plan)

    def run(self) -> None:
        """Writes `self.body`, which ends in an assignment to y."""
        for name in self.binding.structure.normalized:
            value = Normalized(name, self.scales[name].std)
            self.body.append(Assign(f"normal_{name}", value))
        results = [
            self._term(term, padded)
            for term, padded in zip(self.plan.terms, self.binding.padded, strict=True)
        ]
        for i, result in enumerate(results[1:]):
            left = results[0] if i == 0 else Local("y")
            self.body.append(Assign("y", Product("add", left, result)))
        if len(results) == 1 and results[0] != Local("y"):
            self.body.append(Assign("y", results[0], comment=self._unnamed()))

    def _unnamed(self) -> str:
        """The equation, where no contraction has said what y is."""
        if any(assign.target == "y" for assign in self.body):
            return ""
        return self.binding.structure.equations[0]

    def _term(self, term: TermPlan, padded: tuple[int, int]) -> Value:
        """The value of one term: (n, out_features)."""
        result = self._node(term, term.root, padded)
        output = self._big(term.network.term.output)
        y = self._regroup(result, ((TOKENS,), output)).value
        if padded[1] != self.binding.d_out:
            y = Cut(y, self.binding.d_out)
        if len(self.plan.terms) > 1 and not isinstance(y, Local):
            root = _root(y)
            if isinstance(root, Local) and self.uses[term.root.key] == 1:
                name = root.name if root.name != "x" else self._fresh("y")
                self.body.append(Assign(name, y))
                return Local(name)
        return y

    def _fresh(self, letter: str) -> str:
        """A local name that nothing has yet."""
        used = {assign.target for assign in self.body} | {
            step.name for _, step in self.plan.steps
        }
        numbers = range(1, len(used) + 2)
        return next(n for i in numbers if (n := f"{letter}{i}") not in used)

    def _node(self, term: TermPlan, node: Node, padded: tuple[int, int]) -> Tensor:
        key = (node.key, padded[0]) if node.holds_x else node.key
        if key not in self.known:
            if isinstance(node, Leaf):
                self.known[key] = self._leaf(node, padded[0])
            else:
                self.known[key] = self._contraction(term, node, padded)
        return self.known[key]

    def _contraction(
        self, term: TermPlan, node: Contraction, padded: tuple[int, int]
    ) -> Tensor:
        left_node, right_node = node.left, node.right
        if right_node.holds_x:
            left_node, right_node = right_node, left_node
        left = self._node(term, left_node, padded)
        right = self._node(term, right_node, padded)
        kept = self._big(node.kept)
        summed = [d for d in left.dims if d in right.dims and d not in kept]
        a, b, kind, groups = (
            self._matrix(term, node, left, right)
            if any(d is not TOKENS for d in summed)
            else self._elementwise(left, right)
        )
        comment = self._comment(term, node)
        first = a.value
        root = _root(left.value)
        if first != root and isinstance(root, Local) and left_node.holds_x:
            name = root.name
            if self._is_shared(left_node):
                name = self._fresh(root.name[0])
            self.body.append(Assign(name, first, _layout(a.groups), comment))
            first, comment = Local(name), ""
        value = Product(kind, first, b.value)
        self.body.append(Assign(node.name, value, _layout(groups), comment))
        return Tensor(Local(node.name), groups)

    def _is_shared(self, node: Node) -> bool:
        """Whether a local is read again, so that its name must keep its value."""
        if isinstance(node, Leaf):
            return sum(n for key, n in self.uses.items() if key[0] == "x") > 1
        return self.uses[node.key] > 1

    def _leaf(self, leaf: Leaf, padded_in: int) -> Tensor:
        """A tensor as it stands, what it alone has summed away."""
        tensor: Tensor
        if leaf.holds_x:
            groups = ((TOKENS,), self._big(leaf.axes))
            tensor = Tensor(self._input(padded_in), groups)
        else:
            each = tuple(self._big([axis]) for axis in leaf.axes)
            normalized = leaf.name in self.binding.structure.normalized
            name = f"normal_{leaf.name}" if normalized else leaf.name
            tensor = Tensor(Local(name) if normalized else Attribute(name), each)
        private = self._big(leaf.private)
        if not private:
            return tensor
        tensor = self._regroup(tensor, tuple((d,) for d in tensor.dims))
        dims = tuple(i for i, d in enumerate(tensor.dims) if d in private)
        rest = tuple(g for g in tensor.groups if g[0] not in private)
        return Tensor(Sum(tensor.value, dims), rest)

    def _input(self, padded_in: int) -> Local:
        """x, with zeros behind it where a term needs them."""
        extra = padded_in - self.binding.d_in
        if not extra:
            return Local("x")
        name = "x" if len(self.plan.terms) == 1 else f"x_{padded_in}"
        if all(assign.target != name for assign in self.body):
            comment = f"{extra} zeros, up to {padded_in} features"
            self.body.append(Assign(name, Pad(Local("x"), extra), comment=comment))
        return Local(name)

    # Contractions

    def _matrix(
        self, term: TermPlan, node: Contraction, left: Tensor, right: Tensor
    ) -> tuple[Tensor, Tensor, Kind, Groups]:
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
        return a, b, "bmm" if batch else "matmul", (*prefix, rows, columns)

    def _elementwise(
        self, left: Tensor, right: Tensor
    ) -> tuple[Tensor, Tensor, Kind, Groups]:
        dims = (*left.dims, *(d for d in right.dims if d not in left.dims))
        a = self._regroup(left, _broadcast(dims, left.dims))
        b = self._regroup(right, _broadcast(dims, right.dims))
        return a, b, "multiply", tuple((d,) for d in dims)

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
            single = tuple((dim,) for dim in tensor.dims)
            flat = self._reshape(tensor, single)
            order = tuple(tensor.dims.index(dim) for dim in wanted)
            tensor = Tensor(Permute(flat.value, order), tuple((dim,) for dim in wanted))
        return self._reshape(tensor, groups)

    def _reshape(self, tensor: Tensor, groups: Groups) -> Tensor:
        if groups == tensor.groups:
            return tensor
        shape = tuple(self._extent(group) for group in groups)
        return Tensor(Reshape(tensor.value, shape), groups)


def _uses(plan: Plan) -> Counter[Key]:
    """How often each tensor is read: by distinct contractions, and as a result."""
    uses: Counter[Key] = Counter()
    for _, step in plan.steps:
        uses.update([step.left.key, step.right.key])
    uses.update(term.root.key for term in plan.terms)
    return uses


def _broadcast(
    dims: tuple[Dim, ...], own: tuple[Dim, ...]
) -> Groups:
    """The layout of a tensor with dims `own` against `dims`: size 1 elsewhere."""
    groups = tuple((d,) if d in own else () for d in dims)
    return groups


def _root(value: Value) -> Value:
    while not isinstance(value, Local | Attribute | Normalized | Product):
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
    lines = [f"{binding.d_in} -> {binding.d_out} features: {sizes}"]
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
