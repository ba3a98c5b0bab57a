"""The steps of a chain in matrices, for bfloat16: what `c_source` calls for a block.

In: a `Chain`. Out: C that calls what `c_pairs` and `c_bfloat16` have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from einc.codegen.layout import TOKENS
from einc.codegen.native.c_source import (
    SHARED,
    braces,
    dims_text,
    each_value,
    place,
)
from einc.codegen.native.chain import Axes, Chain, Sizes, strides
from einc.codegen.native.loops import NONE, Loop, Strides, joined
from einc.codegen.native.matrices import (
    DEEPEST,
    InMatrices,
    Roles,
    extent,
    padded,
    steps_of,
)
from einc.codegen.writer import Writer

SIDE = 16
"""Of a tile of sums."""
MOST = 128
"""Tokens of a block."""
TRANSPOSED = {1: "transpose", 2: "transpose_pairs", 4: "transpose_quads"}
"""What transposes units of so many values."""


class MatrixSteps:
    """Steps in bfloat16.

    Side i of the chain, x being side 0, has a buffer `g{i}` in the form in which it is
    written and `t{i}` in that in which it is read, or one where they are the same. Its
    gradient, "d{i}", which comes when it was last read, takes those of its forms, else
    `gd{i}` and `td{i}`. x, y and their gradients are these where they can.
    """

    value_bytes = 2
    end = "end_tiles();"
    at_once = True

    def __init__(self, chain: Chain, lowered: InMatrices) -> None:
        self.chain, self.sizes, self.roles = chain, chain.sizes, lowered.roles
        self.last = len(chain.weights) - 1
        end = self.last + 1
        self.there = [f"{i}" for i in range(end + 1)]
        self.back = [f"d{i}" for i in self.there[::-1]]
        self.forms = {
            name: (written, read)
            for names, way in ((self.there, lowered.forward), (self.back, lowered.back))
            for name, written, read in zip(names, way.written, way.read, strict=True)
        }
        d_in, d_out = chain.features(0), chain.features(-1)
        self.begins = {"0": f"x + at * {d_in}", f"d{end}": f"dy + at * {d_out}"}
        self.stops = {f"{end}": f"y + at * {d_out}", "d0": f"dx + at * {d_in}"}
        # A block is a whole number of steps of the gradients' sums over rows.
        rows = [DEEPEST // math.gcd(DEEPEST, self._extent(r.kept)) for r in self.roles]
        self.blocks = (math.lcm(*rows), MOST)
        depths = [e for r in self.roles for e in map(self._extent, (r.taken, r.given))]
        self.zeroed = any(padded(depth) > depth for depth in depths)

    def _extent(self, axes: Axes) -> int:
        return extent(axes, self.sizes)

    def functions(self, out: Writer) -> None:
        for i, roles in enumerate(self.roles):
            taken, given = self.forms[f"{i}"][1], self.forms[f"{i + 1}"][0]
            dtaken, dgiven = self.forms[f"d{i + 1}"][1], self.forms[f"d{i}"][0]
            pair = (dtaken, taken) if self._is_turned(roles) else (taken, dtaken)
            self._shape(out, f"FORWARD_{i}", roles, taken, given)
            self._shape(out, f"BACKWARD_{i}", roles.turned, dtaken, dgiven)
            self._shape(out, f"GRADIENT_{i}", self._by_gradient(roles), *pair)
            out.line()
            self._weight(out, "forward", i, roles)
            self._weight(out, "backward", i, roles.turned)
            self._add_up(out, i, self._by_gradient(roles))
        for name, (written, read) in self.forms.items():
            if written != read:
                self._order(out, f"order_{name}", written, read)

    def weights(self, kind: str) -> list[int]:
        return [
            self._extent(roles.batch)
            * self._matrix_size(roles if kind == "forward" else roles.turned)
            for roles in self.roles
        ]

    def sums(self) -> list[int]:
        found = []
        for roles in map(self._by_gradient, self.roles):
            tall, broad = self._tiles(roles)
            found.append(self._extent(roles.batch) * tall * broad * SIDE * SIDE)
        return found

    def room(self, backward: bool) -> dict[str, int]:
        used = [*self.roles, *(one.turned for one in self.roles)]
        return {"matrix": max(map(self._matrix_size, used if backward else self.roles))}

    def buffers(self, backward: bool) -> dict[str, int]:
        found: dict[str, Strides] = {}
        # Backward computes again what is before y.
        for name in [*self.there[:-1], *self.back] if backward else self.there:
            written, read = self.forms[name]
            if name not in self.begins and written != read:
                found[self._written(name)] = written
            if name not in self.stops and (name not in self.begins or written != read):
                found[self._taken(name)] = read
        sizes = {name: -(-form[TOKENS] // 2) for name, form in found.items()}
        if backward:
            sizes["scratch"] = max(map(self._gradient_space, self.roles))
        return sizes

    def _gradient_space(self, roles: Roles) -> int:
        """Floats for a token's part of both operands of a matrix."""
        return self._extent(roles.kept) * SIDE * sum(self._tiles(roles)) // 2

    def enter(self, out: Writer, backward: bool) -> None:
        for i in range(self.last + 1):
            if i < self.last or not backward:
                self._given_weight(out, "forward", "w", i)
            if backward:
                self._given_weight(out, "backward", "v", i)
                out.line(f"const Gradient dw{i} = {{")
                out.line(f"    sums{i}, at > start, add_up_matrix_{i},")
                out.line(f"    alone ? gradients[{i}] : NULL}};")
        for name, tensor in list(self.begins.items())[: 1 + backward]:
            if self._reorders(name):
                out.line(f"order_{name}(m, {tensor}, {self._taken(name)});")

    def forward(self, out: Writer, i: int) -> None:
        self._product(out, f"FORWARD_{i}", i, f"{i}", f"forward{i}", f"{i + 1}")

    def backward(self, out: Writer, i: int) -> None:
        self._product(out, f"BACKWARD_{i}", i, f"d{i + 1}", f"backward{i}", f"d{i}")

    def gradient(self, out: Writer, i: int) -> None:
        left, right = self._read(f"{i}"), self._read(f"d{i + 1}")
        if self._is_turned(self.roles[i]):
            left, right = right, left
        rows = self._rows(i)
        shape = f"GRADIENT_{i}"
        out.line(f"add_gradient({rows}, {shape}, {left}, {right}, dw{i}, scratch);")

    def _given_weight(self, out: Writer, kind: str, name: str, i: int) -> None:
        how = f"{{{name}{i}, weights[{i}], {kind}_matrix_{i}, matrix}}"
        out.line(f"const Weight {kind}{i} = {how};")

    def _product(
        self, out: Writer, shape: str, i: int, taken: str, weight: str, given: str
    ) -> None:
        end = self.stops.get(given) or self._taken(given)
        reorders = self._reorders(given)
        to = self._written(given) if reorders else end
        read = self._read(taken)
        out.line(f"multiply_all({self._rows(i)}, {shape}, {read}, {weight}, {to});")
        if reorders:
            out.line(f"order_{given}(m, {to}, {end});")

    def _rows(self, i: int) -> str:
        return f"m * {self._extent(self.roles[i].kept)}"

    def _read(self, name: str) -> str:
        begins = name in self.begins and not self._reorders(name)
        return self.begins[name] if begins else self._taken(name)

    def _written(self, name: str) -> str:
        """The buffer of a side, or of a gradient, in the form in which it is written."""
        return self._buffer(name, self.forms[name][0], f"g{name}")

    def _taken(self, name: str) -> str:
        """The same in the form in which it is read."""
        return self._buffer(name, self.forms[name][1], f"t{name}")

    def _buffer(self, name: str, form: Strides, own: str) -> str:
        side = name.removeprefix("d")
        if name != side and side in self.there[1:-1]:
            kinds = "gt" if self._reorders(side) else "tt"
            for kind, other in zip(kinds, self.forms[side], strict=True):
                if form == other:
                    return f"{kind}{side}"
        return own

    def _reorders(self, name: str) -> bool:
        written, read = self.forms[name]
        return written != read

    def _is_turned(self, roles: Roles) -> bool:
        """Whether what it gives is less to transpose than what it takes."""
        return self._extent(roles.given) < self._extent(roles.taken)

    def _by_gradient(self, roles: Roles) -> Roles:
        return roles.turned if self._is_turned(roles) else roles

    def _shape(
        self, out: Writer, name: str, roles: Roles, taken: Strides, given: Strides
    ) -> None:
        batch, rows = self._extent(roles.batch), self._extent(roles.kept)
        depth, lanes = self._extent(roles.taken), self._extent(roles.given)
        steps, step = steps_of(depth)
        what = f"{dims_text(roles.taken)} to {dims_text(roles.given)}"
        around = dims_text((*roles.kept, *roles.batch))
        out.line(f"/* {what}, for each of {around} */")
        out.line(f"static const Matrices {name} = {{")
        with out.indented():
            out.line(f".batch = {batch}, .taken = {depth}, .given = {lanes},")
            out.line(f".steps = {steps}, .step = {step},")
            for side, form in (("taken", taken), ("given", given)):
                width = form[roles.batch[-1]] if roles.batch else 0
                row = form[TOKENS] // rows
                out.line(f".{side}_row = {row}, .{side}_width = {width},")
        out.line("};")

    def _weight(self, out: Writer, kind: str, i: int, roles: Roles) -> None:
        """What puts a weight into the pairs that its products read."""
        axes, sizes = self.chain.holds[i], self.sizes
        depth, lanes = self._extent(roles.taken), self._extent(roles.given)
        pairs = padded(depth) // 2
        size = 2 * self._matrix_size(roles)
        row, column = self._matrix_steps(i, roles)
        out.line(f"/* {self.chain.weights[i].name}{dims_text(axes)} in pairs */")
        with self._matrix(
            out, f"{kind}_matrix_{i}(long b, const value *from, value *to)", roles
        ):
            start = place(axes, roles.batch, sizes)
            if row and column:
                out.line(f"pack({depth}, {lanes}, from + {start}, {row}, {column},")
                out.line(f"     to, {pairs});")
            else:
                out.line(f"memset(to, 0, {size} * sizeof(value));")
                with self._each_of_matrix(out, roles, "k", "n") as loops:
                    tile = f"n / {SIDE} * {2 * SIDE * pairs}"
                    at = f"{tile} + k / 2 * {2 * SIDE} + n % {SIDE} * 2 + k % 2"
                    out.line(f"to[{at}] = from[{place(axes, loops, sizes)}];")
        out.line()
        out.line(f"static void {kind}_weight_{i}(const value *from, value *to)")
        with braces(out):
            out.line(SHARED)
            out.line(f"for (long b = 0; b < {self._extent(roles.batch)}; b++)")
            out.line(f"    {kind}_matrix_{i}(b, from, to + b * {size});")
        out.line()

    def _add_up(self, out: Writer, i: int, roles: Roles) -> None:
        axes, sizes = self.chain.holds[i], self.sizes
        name = self.chain.weights[i].name
        tall, broad = self._tiles(roles)
        row, column = self._matrix_steps(i, roles)
        out.line(f"/* d{name}{dims_text(axes)} from the tiles of all parts */")
        with self._matrix(
            out,
            f"add_up_matrix_{i}("
            "\n    long b, long parts, long size, const float *sums, value *to)",
            roles,
        ):
            if row and column:
                start = place(axes, roles.batch, sizes)
                taken, given = self._extent(roles.taken), self._extent(roles.given)
                out.line(f"add_tiles({taken}, {given}, parts, size, sums,")
                out.line(f"          to + {start}, {row}, {column});")
            else:
                with self._each_of_matrix(out, roles, "r", "c") as loops:
                    tile = f"(r / {SIDE} * {broad} + c / {SIDE})"
                    at = f"{tile} * {SIDE * SIDE} + r % {SIDE} * {SIDE} + c % {SIDE}"
                    out.line(f"const float *own = sums + {at};")
                    out.line("float sum = 0;")
                    out.line("for (long part = 0; part < parts; part++)")
                    out.line("    sum += own[part * size];")
                    out.line(f"to[{place(axes, loops, sizes)}] = narrow(sum);")
        out.line()
        out.line(f"static void add_up_{i}(")
        out.line("    long parts, long size, const float *sums, value *to)")
        with braces(out):
            out.line(SHARED)
            size = tall * broad * SIDE * SIDE
            out.line(f"for (long b = 0; b < {self._extent(roles.batch)}; b++)")
            out.line(f"    add_up_matrix_{i}(b, parts, size, sums + b * {size}, to);")
        out.line()

    @contextmanager
    def _matrix(self, out: Writer, signature: str, roles: Roles) -> Iterator[None]:
        """A function of matrix b of a weight, which is at i0 and so on of the batch."""
        out.line(f"NOINLINE static void {signature}")
        with braces(out):
            step = self._extent(roles.batch)
            for k, axis in enumerate(roles.batch):
                around = f" % {step}" if k else ""
                step //= self.sizes[axis]
                within = f" / {step}" if step > 1 else ""
                out.line(f"const long i{k} = b{around}{within};")
            yield

    @contextmanager
    def _each_of_matrix(
        self, out: Writer, roles: Roles, row: str, column: str
    ) -> Iterator[Axes]:
        """Loops over its values, which are those of the axes beside the batch's."""
        inner, sizes = (*roles.taken, *roles.given), self.sizes
        loops = (*roles.batch, *inner)
        with each_value(out, inner, sizes, len(roles.batch)), braces(out):
            out.line(f"const long {row} = {place(roles.taken, loops, sizes)};")
            out.line(f"const long {column} = {place(roles.given, loops, sizes)};")
            yield loops

    def _matrix_steps(self, i: int, roles: Roles) -> tuple[int, int]:
        """How far apart rows and columns of a matrix lie in a weight, 0 if not one step."""
        axes = self.chain.holds[i]
        row, column = (
            _step(group, axes, self.sizes) for group in (roles.taken, roles.given)
        )
        return row, column

    def _tiles(self, roles: Roles) -> tuple[int, int]:
        taken, given = self._extent(roles.taken), self._extent(roles.given)
        return -(-taken // SIDE), -(-given // SIDE)

    def _order(self, out: Writer, name: str, source: Strides, target: Strides) -> None:
        """From one form to another, for n tokens."""
        loops = joined((source, target, ()), self.sizes)
        inner = [loop for loop in loops if not loop.of_tokens]
        unit = NONE
        columns, rows = _innermost(inner, unit.size)
        if columns == rows and columns.size in TRANSPOSED:
            unit = columns
            columns, rows = _innermost(inner, unit.size)
        out.line(f"/* {dims_text(source)} to {dims_text(target)} */")
        out.line(f"static void {name}(long n, const value *from, value *to)")
        with braces(out):
            depth = out.indent
            outer = [loop for loop in loops if loop not in (rows, columns, unit)]
            for k, loop in enumerate(outer):
                size = "n" if loop.of_tokens else f"{loop.size}"
                out.line(f"for (long i{k} = 0; i{k} < {size}; i{k}++)")
                out.indent += "    "
            starts = [_start(outer, place) for place in (0, 1)]
            if rows == columns:
                size = f"{columns.size * unit.size} * sizeof(value)"
                out.line(f"memcpy(to{starts[1]}, from{starts[0]}, {size});")
            else:
                out.line(
                    f"{TRANSPOSED[unit.size]}({rows.size}, {columns.size}, from{starts[0]}, "
                    f"{rows.steps[0]}, to{starts[1]}, {columns.steps[1]});"
                )
            out.indent = depth
        out.line()

    def _matrix_size(self, roles: Roles) -> int:
        """Floats that have a matrix of a weight in pairs."""
        lanes = self._tiles(roles)[1] * SIDE
        return lanes * padded(self._extent(roles.taken)) // 2


def _innermost(loops: Sequence[Loop], unit: int) -> tuple[Loop, Loop]:
    """Those whose entries follow each other in source and in target, so many apart."""
    columns, rows = (
        next((loop for loop in loops if loop.steps[place] == unit), NONE)
        for place in (0, 1)
    )
    return columns, rows


def _start(outer: Sequence[Loop], place: int) -> str:
    """Where the loops around are, in one of two forms."""
    steps = enumerate(loop.steps[place] for loop in outer)
    return "".join(f" + {step} * i{k}" for k, step in steps if step)


def _step(group: Axes, axes: Axes, sizes: Sizes) -> int:
    """How far apart the values of a group lie in a weight, 0 where that is not one step."""
    steps = strides(axes, sizes, 1)[0]
    are_one = all(
        steps[one] == steps[other] * sizes[other] for one, other in pairwise(group)
    )
    return steps[group[-1]] if group and are_one else int(not group)
