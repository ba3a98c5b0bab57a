"""The C of a chain of products: `forward` and `backward`, a function a product.

In: a `Chain`. Out: text to be put behind the tiles of `c_runtime`. Nothing of a spec
is in it but sizes, and names in comments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from einc.codegen.chain import Chain, Product, Side
from einc.codegen.layout import Dim, layout_text
from einc.codegen.loops import Loop, Loops
from einc.codegen.writer import Writer

CACHE = 1 << 18
"""Bytes of what the products take and give: they stay in a core's own cache."""
SPILLED = 1 << 22
"""Bytes of the same where the weights fill that cache."""
BLOCKS = (12, 48)
"""The least and the most tokens that go through all products at a time."""

LARGE = 1 << 15
"""Values of a weight that are worth threads to copy."""

Sizes = Mapping[Dim, int]


def c_source(chain: Chain) -> str:
    """`forward` and `backward` of a chain in C."""
    out = Writer()
    for i, product in enumerate(chain.products):
        taken, given = chain.sides[i : i + 2]
        dtaken, dgiven = chain.back[i : i + 2]
        weight = product.weight.name
        pair = (dgiven, taken) if product.turned else (taken, dgiven)
        _product(out, f"forward_{i}", product.forward, weight, taken, given)
        _product(out, f"backward_{i}", product.backward, weight, dgiven, dtaken)
        _gradient(out, f"gradient_{i}", product.gradient, weight, *pair)
        _weights(
            out, i, product, {axis: chain.binding.size(axis) for axis in product.axes}
        )
    _forward(out, chain)
    out.line()
    _backward(out, chain)
    return out.text


def _product(
    out: Writer, name: str, loops: Loops, weight: str, taken: Side, given: Side
) -> None:
    weight = f"{weight}{_dims(loops.free)}"
    out.line(f"/* {_dims(given.axes)} = {_dims(taken.axes)} * {weight}, by token */")
    added = " || ".join(f"i{k}" for k in loops.added) or "0"
    _function(out, name, loops, added)


def _gradient(
    out: Writer, name: str, loops: Loops, weight: str, left: Side, right: Side
) -> None:
    result = f"d{weight}{_dims(loops.free)}"
    out.line(f"/* {result} += {_dims(left.axes)} * {_dims(right.axes)}, over tokens */")
    _function(out, name, loops, "1")


def _dims(dims: Iterable[Dim]) -> str:
    return f"[{layout_text(tuple((dim,) for dim in dims))}]"


def _function(out: Writer, name: str, loops: Loops, added: str) -> None:
    """Loops around `multiply`, for n tokens."""
    out.line(f"static void {name}(")
    out.line("    long n, const float *left, const float *right, float *out)")
    out.line("{")
    depth = out.indent
    for k, loop in enumerate(loops.outer):
        out.indent += "    "
        comment = f"/* {layout_text((loop.dims,))} */"
        out.line(f"for (long i{k} = 0; i{k} < {loop.size}; i{k}++) {comment}")
    out.indent += "    "
    out.line("multiply((Product){")
    with out.indented():
        _fields(out, loops, added)
    out.line("});")
    out.indent = depth
    out.line("}")
    out.line()


def _fields(out: Writer, loops: Loops, added: str) -> None:
    rows, summed, columns, lanes = parts = (
        loops.rows,
        loops.summed,
        loops.columns,
        loops.lanes,
    )
    for field, loop in zip(("rows", "sum", "columns", "lanes"), parts, strict=True):
        size = "n" if loop.of_tokens else str(loop.size)
        comment = f" /* {layout_text((loop.dims,))} */" * bool(loop.dims)
        out.line(f".{field} = {size},{comment}")
    roles = (
        ("left", (("row", rows), ("sum", summed), ("lane", lanes))),
        ("right", (("sum", summed), ("column", columns), ("lane", lanes))),
        ("out", (("row", rows), ("column", columns), ("lane", lanes))),
    )
    for place, (name, steps) in enumerate(roles):
        out.line(f".{name} = {_start(name, loops.outer, place)},")
        fields = [f".{name}_{role} = {loop.steps[place]}" for role, loop in steps]
        out.line(f"{', '.join(fields)},")
    out.line(f".add = {added},")


def _start(name: str, outer: Sequence[Loop], place: int) -> str:
    steps = [loop.steps[place] for loop in outer]
    return " + ".join([name, *(f"{s} * i{k}" for k, s in enumerate(steps) if s)])


def _weights(out: Writer, i: int, product: Product, sizes: Sizes) -> None:
    """What puts a weight into the orders of the loops, and its gradient out of them."""
    name, natural = product.weight.name, product.axes
    for kind in ("forward", "backward"):
        free = _loops(product, kind).free
        if free == natural:
            continue
        out.line(f"/* {name}{_dims(natural)} to {_dims(free)} */")
        out.line(f"static void {kind}_weight_{i}(")
        out.line("    long threads, const float *from, float *to)")
        with _braces(out), _each_value(out, free, sizes):
            place = _place(free, free, sizes)
            out.line(f"to[{place}] = from[{_place(natural, free, sizes)}];")
        out.line()
    free = product.gradient.free
    out.line(f"/* d{name}{_dims(natural)} from the sums of all parts, {_dims(free)} */")
    out.line(f"static void add_up_{i}(")
    out.line("    long threads, long parts, long size, const float *sums, float *to)")
    with _braces(out), _each_value(out, free, sizes), _braces(out):
        out.line(f"const float *own = sums + {_place(free, free, sizes)};")
        out.line("float sum = 0;")
        out.line("for (long part = 0; part < parts; part++)")
        out.line("    sum += own[part * size];")
        out.line(f"to[{_place(natural, free, sizes)}] = sum;")
    out.line()


@contextmanager
def _each_value(out: Writer, dims: Sequence[Dim], sizes: Sizes) -> Iterator[None]:
    """Loops over a weight, in threads where it is large."""
    if math.prod(sizes[dim] for dim in dims) >= LARGE:
        out.line("#pragma omp parallel for num_threads(threads)")
    depth = out.indent
    for k, dim in enumerate(dims):
        out.line(f"for (long i{k} = 0; i{k} < {sizes[dim]}; i{k}++)")
        out.indent += "    "
    yield
    out.indent = depth


def _place(lies: Sequence[Dim], loops: Sequence[Dim], sizes: Sizes) -> str:
    """Where a value is in a weight that lies so, in loops over `loops`."""
    step, parts = 1, []
    for dim in reversed(lies):
        parts.append(f"i{loops.index(dim)} * {step}")
        step *= sizes[dim]
    return " + ".join(reversed(parts))


class _Space:
    """Places in the memory that a function is given, in values from its start.

    All threads share the weights as the loops have them; each has `own` places behind
    those, for its part of the tokens.
    """

    def __init__(self) -> None:
        self.weights: dict[str, int] = {}
        self.own: dict[str, int] = {}
        self.shared = self.part = 0

    def take_weights(self, products: Iterable[Product], kind: str, name: str) -> None:
        """For those that lie in another order than the loops go."""
        for i, product in enumerate(products):
            if _loops(product, kind).free != product.axes:
                self.weights[f"{name}{i}"] = self.shared
                self.shared += _whole_lines(product.size)

    def take(self, name: str, size: int) -> None:
        self.own[name] = self.part
        self.part += _whole_lines(size)


def _loops(product: Product, kind: str) -> Loops:
    return product.forward if kind == "forward" else product.backward


def _whole_lines(size: int) -> int:
    """Values up to the end of a line of a cache."""
    return -(-size // 16) * 16


def _size_of(out: Writer, name: str, space: _Space) -> None:
    """How much memory a function is to be given."""
    out.line(
        f"/* Values of space for {name}: what all share, and what each part has. */"
    )
    out.line(f"long space_{name}(long n, long threads)")
    with _braces(out):
        out.line(f"return {space.shared} + parts_of(n, threads) * {space.part};")
    out.line()


def _ordered(
    out: Writer, products: Iterable[Product], kind: str, name: str, space: _Space
) -> None:
    """Pointers to the weights as the loops have them."""
    for i, _ in enumerate(products):
        place = space.weights.get(f"{name}{i}")
        if place is None:
            out.line(f"const float *{name}{i} = weights[{i}];")
        else:
            out.line(f"float *{name}{i} = space + {place};")
            out.line(f"{kind}_weight_{i}(threads, weights[{i}], {name}{i});")


def _forward(out: Writer, chain: Chain) -> None:
    *taken, y = chain.sides
    last = len(taken) - 1
    buffers = {f"z{i}": side for i, side in enumerate(taken)}
    block = _block(chain, buffers)
    space = _Space()
    space.take_weights(chain.products, "forward", "w")
    for name, side in buffers.items():
        space.take(name, block * side.row)
    _size_of(out, "forward", space)
    out.line("void forward(")
    out.line("    long n, long threads, const float *x, const float *const *weights,")
    out.line("    const float *bias, float *y, float *space)")
    with _braces(out):
        out.line(f"use_large_pages(y, n * {y.row});")
        out.line("use_large_pages(space, space_forward(n, threads));")
        _ordered(out, chain.products, "forward", "w", space)
        with _each_block(out, block, space):
            _copy(out, "x", "z0", taken[0])
            for i in range(last):
                out.line(f"forward_{i}(m, z{i}, w{i}, z{i + 1});")
            out.line(f"forward_{last}(m, z{last}, w{last}, y + at * {y.row});")
            out.line("for (long i = at; bias && i < at + m; i++)")
            out.line(f"    for (long j = 0; j < {y.row}; j++)")
            out.line(f"        y[i * {y.row} + j] += bias[j];")


def _backward(out: Writer, chain: Chain) -> None:
    *taken, _ = chain.sides
    dx, *given = chain.back
    products, last = chain.products, len(taken) - 1
    buffers = {f"z{i}": side for i, side in enumerate(taken)}
    buffers |= {f"dz{i}": side for i, side in enumerate(given, start=1)}
    block = _block(chain, buffers)
    space = _Space()
    space.take_weights(products[:-1], "forward", "w")
    space.take_weights(products, "backward", "v")
    for i, size in enumerate(chain.sizes):
        space.take(f"sums{i}", size)
    sums = space.part
    for name, side in buffers.items():
        space.take(name, block * side.row)
    _size_of(out, "backward", space)
    out.line("void backward(")
    out.line("    long n, long threads, const float *x, const float *const *weights,")
    out.line("    const float *dy, float *dx, float *const *gradients, float *space)")
    with _braces(out):
        out.line("if (dx)")
        out.line(f"    use_large_pages(dx, n * {dx.row});")
        out.line("use_large_pages(space, space_backward(n, threads));")
        _ordered(out, products[:-1], "forward", "w", space)
        _ordered(out, products, "backward", "v", space)
        zeros = f"memset(sums0, 0, {sums} * sizeof(float));"
        with _each_block(out, block, space, zeros):
            _copy(out, "x", "z0", taken[0])
            _copy(out, "dy", f"dz{last + 1}", given[-1])
            out.line(f"if ({_any(range(1, last + 1))})")
            with _braces(out):
                for i in range(last):
                    out.line(f"forward_{i}(m, z{i}, w{i}, z{i + 1});")
            out.line(f"if (dx || {_any(range(last))})")
            with _braces(out):
                for i in range(last, 0, -1):
                    out.line(f"backward_{i}(m, dz{i + 1}, v{i}, dz{i});")
            out.line("if (dx)")
            out.line(f"    backward_0(m, dz1, v0, dx + at * {dx.row});")
            for i, product in enumerate(products):
                pair = (f"z{i}", f"dz{i + 1}")
                left, right = pair[::-1] if product.turned else pair
                out.line(f"if (gradients[{i}])")
                out.line(f"    gradient_{i}(m, {left}, {right}, sums{i});")
        for i in range(last + 1):
            first = f"space + {space.shared + space.own[f'sums{i}']}"
            out.line(f"if (gradients[{i}])")
            out.line(
                f"    add_up_{i}(threads, parts, {space.part}, {first}, gradients[{i}]);"
            )


def _any(gradients: Iterable[int]) -> str:
    return " || ".join(f"gradients[{i}]" for i in gradients)


@contextmanager
def _braces(out: Writer) -> Iterator[None]:
    out.line("{")
    with out.indented():
        yield
    out.line("}")


@contextmanager
def _each_block(
    out: Writer, block: int, space: _Space, before: str = ""
) -> Iterator[None]:
    """What is written meanwhile for each block of tokens, m from `at` on, in threads.

    Each of these has a part of the tokens, and does what is `before` first.
    """
    out.line("const long parts = parts_of(n, threads);")
    out.line("#pragma omp parallel for num_threads(parts) schedule(static, 1)")
    out.line("for (long part = 0; part < parts; part++)")
    with _braces(out):
        out.line(f"float *own = space + {space.shared} + part * {space.part};")
        for name, place in space.own.items():
            out.line(f"float *const {name} = own + {place};")
        if before:
            out.line(before)
        out.line("const long end = n * (part + 1) / parts;")
        out.line(f"for (long at = n * part / parts; at < end; at += {block})")
        with _braces(out):
            out.line(f"const long m = end - at < {block} ? end - at : {block};")
            yield


def _copy(out: Writer, name: str, to: str, side: Side) -> None:
    features = side.row - side.padding
    out.line(f"copy(m, {features}, {name} + at * {features}, {to}, {side.row});")


def _block(chain: Chain, buffers: Mapping[str, Side]) -> int:
    """Tokens that go through all products at a time, whole tiles of rows.

    As many as fit, or as many as have the size of the weights, which each block reads,
    as was measured to be best.
    """
    least, most = BLOCKS
    row = sum(side.row for side in buffers.values())
    fitting = min(max(CACHE, 4 * sum(chain.sizes)), SPILLED) // (4 * row)
    return min(max(fitting // least * least, least), most)
