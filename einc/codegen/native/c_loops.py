"""The steps of a chain in loops, for float32: what `c_source` calls for a block.

In: a `Chain`. Out: C that calls the tiles of `c_float32`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from einc.codegen.layout import layout_text
from einc.codegen.native.c_source import (
    SHARED,
    SINGLE,
    braces,
    dims_text,
    each_value,
    place,
)
from einc.codegen.native.chain import Chain, Sizes
from einc.codegen.native.looped import Looped, Product, Side
from einc.codegen.native.loops import Loop, Loops
from einc.codegen.writer import Writer


class LoopSteps:
    """Steps in float32. What a product takes is `z{i}`, and later its gradient is.

    `dz` is the gradient of what the last one gives.
    """

    value_bytes = 4
    blocks = (12, 48)
    end = ""
    zeroed = False
    at_once = False

    def __init__(self, chain: Chain, lowered: Looped) -> None:
        self.lowered, self.sizes = lowered, chain.sizes
        self.last = len(chain.weights) - 1

    def functions(self, out: Writer) -> None:
        for kind, lanes in sorted({_multiply(loops) for loops in self._loops()}):
            _multiplies(out, kind, lanes)
        sides, back = self.lowered.sides, self.lowered.back
        for i, product in enumerate(self.lowered.products):
            taken, given = sides[i : i + 2]
            dtaken, dgiven = back[i : i + 2]
            weight = product.weight.name
            pair = (dgiven, taken) if product.turned else (taken, dgiven)
            _product(out, f"forward_{i}", product.forward, weight, taken, given)
            _product(out, f"backward_{i}", product.backward, weight, dgiven, dtaken)
            _gradient(out, f"gradient_{i}", product.gradient, weight, *pair)
            _weights(out, i, product, self.sizes)

    def _loops(self) -> Iterator[Loops]:
        for product in self.lowered.products:
            yield from (product.forward, product.backward, product.gradient)

    def weights(self, kind: str) -> list[int]:
        return [
            0 if _loops(product, kind).free == product.axes else product.size
            for product in self.lowered.products
        ]

    def sums(self) -> list[int]:
        return [product.size for product in self.lowered.products]

    def room(self, backward: bool) -> dict[str, int]:
        return {}

    def buffers(self, backward: bool) -> dict[str, int]:
        rows = [side.row for side in self.lowered.sides[:-1]]
        if not backward:
            return {f"z{i}": row for i, row in enumerate(rows)}
        _, *between, last = [side.row for side in self.lowered.back]
        rows[1:] = map(max, rows[1:], between)
        return {f"z{i}": row for i, row in enumerate(rows)} | {"dz": last}

    def enter(self, out: Writer, backward: bool) -> None:
        _copy(out, "x", "z0", self.lowered.sides[0])
        if backward:
            _copy(out, "dy", "dz", self.lowered.back[-1])

    def forward(self, out: Writer, i: int) -> None:
        y = f"y + at * {self.lowered.sides[-1].row}"
        to = y if i == self.last else f"z{i + 1}"
        out.line(f"forward_{i}(m, z{i}, w{i}, {to});")

    def backward(self, out: Writer, i: int) -> None:
        to = f"z{i}" if i else f"dx + at * {self.lowered.back[0].row}"
        out.line(f"backward_{i}(m, {self._given(i)}, v{i}, {to});")

    def gradient(self, out: Writer, i: int) -> None:
        pair = (f"z{i}", self._given(i))
        left, right = pair[::-1] if self.lowered.products[i].turned else pair
        out.line(f"gradient_{i}(m, {left}, {right}, sums{i});")

    def _given(self, i: int) -> str:
        """The gradient of what product i gives."""
        return "dz" if i == self.last else f"z{i + 1}"


def _multiply(loops: Loops) -> tuple[str, int]:
    """How vectors go through a product, and through how many lanes."""
    left, right, result = loops.lanes.steps
    beside = loops.columns.size == 1 and not left and right and result
    return "beside" if beside else "across", loops.lanes.size


def _multiplies(out: Writer, kind: str, lanes: int) -> None:
    """All of a product, with vectors of those lengths alone that so many lanes fill.

    A compiler would leave out the others, but take four times as long for all of it.
    """
    out.line(f"INLINE void {kind}_all_{lanes}(Product p)")
    with braces(out):
        out.line("long lane = 0;")
        for length, left in (
            (16, lanes),
            (8, lanes % 16),
            (4, lanes % 8),
            (1, lanes % 4),
        ):
            some = left >= length
            if not some and (length == 1 or lanes < length):
                continue
            # Of the longest that there are, all that fit; of others what is left.
            call = f"lane = {kind}_{length}(p, lane);"
            if some and length <= 4:  # which all processors have
                out.line(call)
                continue
            out.line(f"#if LANES {'>=' if some else '=='} {length}")
            out.line(call)
            out.line("#endif")
    out.line()


def _product(
    out: Writer, name: str, loops: Loops, weight: str, taken: Side, given: Side
) -> None:
    weight = f"{weight}{dims_text(loops.free)}"
    out.line(
        f"/* {dims_text(given.axes)} = {dims_text(taken.axes)} * {weight}, by token */"
    )
    added = " || ".join(f"i{k}" for k in loops.added) or "0"
    _function(out, name, loops, added)


def _gradient(
    out: Writer, name: str, loops: Loops, weight: str, left: Side, right: Side
) -> None:
    result = f"d{weight}{dims_text(loops.free)}"
    out.line(
        f"/* {result} += {dims_text(left.axes)} * {dims_text(right.axes)}, over tokens */"
    )
    _function(out, name, loops, "1")


def _function(out: Writer, name: str, loops: Loops, added: str) -> None:
    """Loops around a product of three, for n tokens."""
    out.line(f"static void {name}(")
    out.line("    long n, const float *left, const float *right, float *out)")
    out.line("{")
    depth = out.indent
    for k, loop in enumerate(loops.outer):
        out.indent += "    "
        comment = f"/* {layout_text((loop.dims,))} */"
        out.line(f"for (long i{k} = 0; i{k} < {loop.size}; i{k}++) {comment}")
    out.indent += "    "
    kind, lanes = _multiply(loops)
    out.line(f"{kind}_all_{lanes}((Product){{")
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
    for i, (name, steps) in enumerate(roles):
        out.line(f".{name} = {_start(name, loops.outer, i)},")
        fields = [f".{name}_{role} = {loop.steps[i]}" for role, loop in steps]
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
        out.line(f"/* {name}{dims_text(natural)} to {dims_text(free)} */")
        out.line(f"static void {kind}_weight_{i}(")
        out.line("    const float *from, float *to)")
        with braces(out):
            out.line(SHARED if free else SINGLE)
            with each_value(out, free, sizes):
                to = place(free, free, sizes)
                out.line(f"to[{to}] = from[{place(natural, free, sizes)}];")
        out.line()
    free = product.gradient.free
    out.line(
        f"/* d{name}{dims_text(natural)} from the sums of all parts, {dims_text(free)} */"
    )
    out.line(f"static void add_up_{i}(")
    out.line("    long parts, long size, const float *sums, float *to)")
    with braces(out):
        out.line(SHARED if free else SINGLE)
        with each_value(out, free, sizes), braces(out):
            out.line(f"const float *own = sums + {place(free, free, sizes)};")
            out.line("float sum = 0;")
            out.line("for (long part = 0; part < parts; part++)")
            out.line("    sum += own[part * size];")
            out.line(f"to[{place(natural, free, sizes)}] = sum;")
    out.line()


def _loops(product: Product, kind: str) -> Loops:
    return product.forward if kind == "forward" else product.backward


def _copy(out: Writer, name: str, to: str, side: Side) -> None:
    features = side.row - side.padding
    out.line(f"copy(m, {features}, {name} + at * {features}, {to}, {side.row});")
