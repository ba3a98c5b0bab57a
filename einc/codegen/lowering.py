"""A plan to statements: each contraction to matmul, bmm or `*` on reshaped views.

In: a `Binding` and its `Plan`. Out: a `Lowering` for each choice of the products'
orientations, with its statements and what their copies cost. A contraction that sums
an index becomes one matrix product, batched over the indices that both operands
keep; one that sums nothing becomes `*`. Indices of size 1 are left out, and what a
tensor has in no other is summed first. A product that wants another layout of a
parameter views or permutes it here. What experts compute is one call here, and lowered
in `experts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

from einc.analysis.counts import step_macs
from einc.analysis.profile import number
from einc.analysis.scaling import scales
from einc.codegen.choices import Dtype
from einc.codegen.experts import ExpertsLowering
from einc.codegen.layout import (
    TOKENS,
    Copy,
    Dim,
    Groups,
    Layouts,
    Operands,
    Tensor,
    layout_text,
    names_of,
    with_root,
)
from einc.codegen.nodes import (
    Assign,
    Attribute,
    Contiguous,
    Cut,
    Experts,
    ExpertsCall,
    Local,
    Normalized,
    Pad,
    Permute,
    Product,
    Reshape,
    Sum,
    Value,
)
from einc.codegen.orientations import orientations
from einc.codegen.statements import Orientation, Statements, fresh, root_of
from einc.plan import Contraction, Key, Leaf, Node, Plan, TermPlan
from einc.sizes import Binding


def lowerings(
    binding: Binding, plan: Plan, dtype: Dtype, by_hand: bool, expand: bool = True
) -> list[Lowering]:
    """In all orientations that are tried, those with the cheapest copies first.

    Of equals those first that write their result; `by_hand` for a backward that reads the
    tensors in between. Weights are expanded if they may be.
    """
    frame = Frame(binding, plan, dtype, by_hand)
    found = [
        Lowering(frame, oriented) for oriented in orientations(binding, plan, expand)
    ]
    return sorted(found, key=lambda each: (each.cost, not each.writes_result))


class Frame:
    """What all lowerings of a plan have in common."""

    def __init__(
        self, binding: Binding, plan: Plan, dtype: Dtype, by_hand: bool
    ) -> None:
        self.layouts = Layouts(binding)
        self.plan = plan
        self.dtype = dtype
        self.by_hand = by_hand
        self.scales = scales(binding)
        tokens = plan.tokens or 1
        self.comments = {
            step.key: _comment(binding, term, step, tokens) for term, step in plan.steps
        }
        self.next = {
            operand.key: step
            for _, step in plan.steps
            for operand in (step.left, step.right)
        }
        self.reads = _reads(plan)
        if by_hand:
            # Backward reads them once more, as they are.
            self.reads.update({"x", *(step.name for _, step in plan.steps)})


class Lowering(Statements):
    """The statements of `contract`, written term by term into `body`.

    A product of x and a weight is computed as tokens x weight, or as `oriented` says.
    Where it is turned, as weight x tokens, the tokens are the fastest dimension of
    the result, and what the next product wants may be a view of it. Where it is
    expanded, nothing but what is summed changes its place.
    """

    def __init__(self, frame: Frame, oriented: Mapping[Key, Orientation]) -> None:
        plan = frame.plan
        super().__init__(frame.layouts, plan.tokens or 1, frame.dtype)
        self.frame = frame
        self.plan = plan
        self.oriented = oriented
        self.body: list[Assign] = []
        self.experts: list[Experts] = []
        self.known: dict[Key, Tensor] = {}
        self.operands: dict[Key, tuple[Tensor, Tensor]] = {}
        self.products: dict[Value, Groups] = {}
        self.result: Tensor | None = None
        self.writes_result = False
        self.inputs = {self.binding.d_in: Local("x")}
        self._run()

    def _run(self) -> None:
        """Writes `self.body`, which ends in an assignment to y."""
        for name in self.binding.structure.normalized:
            normal = Normalized(name, self.frame.scales[name].std)
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
        if len(values) == 1 and not self.experts:
            self._add_bias()

    def _add_bias(self) -> None:
        """The bias into the last product, if that has the features as y has them.

        What is routed adds it in place, and where y is cut or summed it is a pass.
        """
        (term,), ((_, padded_out),) = self.plan.terms, self.binding.padded
        groups = self.known[term.root.key].groups
        features = tuple(d for group in groups for d in group if d is not TOKENS)
        whole = padded_out == self.binding.d_out
        ordered = features == self.layouts.big(term.network.term.output)
        if not (whole and ordered and (TOKENS,) in groups):
            return
        shape = tuple(1 if g == (TOKENS,) else self.layouts.extent(g) for g in groups)
        rows = groups[0] == (TOKENS,)
        for place, statement in enumerate(self.body):
            product = statement.value
            if statement.target != term.root.name or not isinstance(product, Product):
                continue
            if product.kind in ("bmm", "expanded") or (
                product.kind == "matmul" and rows
            ):
                biased = replace(product, bias=shape)
                self.body[place] = replace(statement, value=biased)

    def _term(self, term: TermPlan, padded: tuple[int, int]) -> Value:
        """The value of one term: (n, out_features)."""
        result = self._node(term, term.root, padded[0])
        output = self.layouts.big(term.network.term.output)
        before = len(self.copies)
        found = self.regroup(result, ((TOKENS,), output))
        arranged = self.layouts.arrange(result, ((TOKENS,), output))
        self.result = arranged if arranged.groups[0] == (TOKENS,) else found
        y: Value = found.value
        if found.lies != found.dims:
            self.copies.append(Copy.of(found.lies, found.groups))
            y = Contiguous(y)
        self.writes_result = len(self.copies) > before
        if self.frame.by_hand and not self.writes_result:
            # Of each chunk, into the whole.
            self.copies.append(Copy.of(found.lies, found.groups))
        if padded[1] != self.binding.d_out:
            y = Cut(y, self.binding.d_out)
        root = root_of(y)
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
            groups: Groups = ((TOKENS,), self.layouts.big(leaf.axes))
            tensor = Tensor(self._input(padded_in), groups)
        else:
            tensor = self.layouts.factor(leaf)
        private = self.layouts.big(leaf.private)
        if not private:
            return tensor
        runs = groupby(tensor.dims, lambda d: d if d is TOKENS else d in private)
        groups = tuple(tuple(run) for _, run in runs)
        tensor = self.regroup(tensor, groups)
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
        return self._fresh(letter) if self.frame.reads[read] > 1 else root.name

    def _fresh(self, letter: str) -> str:
        """A local name that nothing has yet."""
        used = {assign.target for assign in self.body}
        used |= {step.name for _, step in self.plan.steps}
        used |= {factor.name for factor in self.binding.structure.factors}
        return fresh(letter, used)

    # Contractions

    def _contraction(self, term: TermPlan, node: Contraction, padded_in: int) -> Tensor:
        if term.expert_steps and node == term.expert_steps[-1]:
            return self._experts(term, padded_in)
        left = self._node(term, node.left, padded_in)
        right = self._node(term, node.right, padded_in)
        if node.right.holds_x:
            left, right = right, left
        kept = self.layouts.big(node.kept)
        summed = [d for d in left.dims if d in right.dims and d not in kept]
        if any(d is not TOKENS for d in summed):
            return self._matrix(term, node, left, right)
        return self._product(node, self.layouts.elementwise(left, right))

    def _matrix(
        self, term: TermPlan, node: Contraction, left: Tensor, right: Tensor
    ) -> Tensor:
        kept = {TOKENS, *self.layouts.big(node.kept)}
        both = [d for d in left.dims if d in right.dims]
        batch = tuple(d for d in both if d in kept)
        summed = tuple(d for d in both if d not in kept)
        rows = tuple(d for d in left.dims if d not in both)
        columns = tuple(d for d in right.dims if d not in both)
        if node is term.root:
            # The last weight is permuted rather than the output.
            columns = tuple(d for d in term.network.term.output if d in columns)
        prefix = (batch,) if batch else ()
        orientation = self.oriented.get(node.key, "plain")
        if orientation == "turned":
            # First what the next product sums: together with what it sums of these.
            columns = self._sums_first(node, columns)
        operands = self.oriented_matrix(
            orientation, left, right, prefix, rows, summed, columns
        )
        return self._product(node, operands)

    def _sums_first(
        self, node: Contraction, columns: tuple[Dim, ...]
    ) -> tuple[Dim, ...]:
        after = self.frame.next.get(node.key)
        if after is None:
            return columns
        return tuple(sorted(columns, key=lambda axis: axis in after.kept))

    def _experts(self, term: TermPlan, padded_in: int) -> Tensor:
        """All of `term.expert_steps`, as one call."""
        lowering = ExpertsLowering(self.binding, term)
        number = f"_{len(self.experts) + 1}" * bool(self.experts)
        experts = lowering.lower(f"{self.binding.d_in}x{self.binding.d_out}{number}")
        self.experts.append(experts)
        contractions = term.expert_steps
        source = self._node(term, contractions[0].x_first[0], padded_in)
        source = self.regroup(source, ((TOKENS,), lowering.incoming))
        taken: list[Value] = []
        rows = self._local(source, taken)
        weights = []
        for contraction, step in zip(contractions, lowering.steps, strict=True):
            weight = self._node(term, contraction.x_first[1], padded_in)
            layout = step.layout
            if step.per_expert:
                axes = contraction.x_first[1].kept
                routed = [a for a in axes if a.name == self.binding.structure.routed]
                layout = (self.layouts.big(routed), *layout)
            weight = self.regroup(weight, layout)
            weights.append(self._local(weight, taken))
        comment = "\n".join(self.frame.comments[step.key] for step in contractions)
        node = contractions[-1]
        call = ExpertsCall(experts.name, rows, tuple(weights))
        groups: Groups = ((TOKENS,), lowering.outgoing)
        self.body.append(Assign(node.name, call, layout_text(groups), comment))
        return Tensor(Local(node.name), groups)

    def _local(self, tensor: Tensor, taken: list[Value]) -> Local | Attribute:
        """A name for a tensor, after a line for it where it is not as it was."""
        root = root_of(tensor.value)
        if tensor.value != root:
            name = self._name(root, root.name[0])
            if Local(name) in taken:
                name = self._fresh(root.name[0])
            self.body.append(Assign(name, tensor.value, layout_text(tensor.groups)))
            root = Local(name)
        taken.append(root)
        return root

    def _product(self, node: Contraction, operands: Operands) -> Tensor:
        """`node = a * b`, after a line for each of the two that is not as it was."""
        named: list[Value] = []
        comment = self.frame.comments[node.key]
        for tensor in (operands.left, operands.right):
            tensor = self._flattened(tensor)
            root = root_of(tensor.value)
            if tensor.value != root:
                name = self._name(root, root.name[0])
                if Local(name) in named:
                    name = self._fresh(root.name[0])  # a factor times itself
                layout = layout_text(tensor.groups)
                self.body.append(Assign(name, tensor.value, layout, comment))
                root, comment = Local(name), ""
            named.append(root)
        left, right = named
        product = Product(operands.kind, left, right)
        self.body.append(
            Assign(node.name, product, layout_text(operands.groups), comment)
        )
        self.products[Local(node.name)] = operands.groups
        self.operands[node.key] = (
            replace(operands.left, value=left),
            replace(operands.right, value=right),
        )
        return Tensor(Local(node.name), operands.groups)

    def _flattened(self, tensor: Tensor) -> Tensor:
        """The same view of a product of x, by way of all of it in one dimension.

        Autograd's gradient of a product that was permuted lies permuted, and the next
        two products would copy each of its matrices. Flat, it is copied once.
        """
        if self.dtype != "float32" or TOKENS not in tensor.dims:
            return tensor
        match tensor.value:
            case Permute(value) | Contiguous(Permute(value)) if value in self.products:
                shape = tuple(map(self.layouts.extent, self.products[value]))
                flat = Reshape(Reshape(value, (-1,)), shape)
                return replace(tensor, value=with_root(tensor.value, flat))
            case _:
                return tensor


def _comment(binding: Binding, term: TermPlan, node: Contraction, tokens: int) -> str:
    """What a contraction computes, and what it costs."""
    operands = " * ".join(
        f"{n.name}[{names_of(n.axes if isinstance(n, Leaf) else n.kept)}]"
        for n in (node.left, node.right)
    )
    kept = term.network.term.output if node is term.root else node.kept
    macs = step_macs(binding, term, node, tokens)
    cost = f"{number(macs):,} multiply-adds a token"
    if not node.holds_x:
        cost = f"{int(macs * tokens):,} multiply-adds a call"
    return f"{node.name}[{names_of(kept)}] = {operands}: {cost}"


def _reads(plan: Plan) -> Counter[str]:
    """How often what has a name is read: by contractions, and as a term's result."""
    nodes = [operand for _, step in plan.steps for operand in (step.left, step.right)]
    return Counter(node.name for node in [*nodes, *(t.root for t in plan.terms)])
