"""The C of a chain of products: `forward` and `backward`, a block of tokens at a time.

In: a `Chain`, and the `Steps` that one of its lowerings makes of it. Out: text to be put
behind that of `c_float32` or `c_bfloat16`. Nothing of a spec is in it but sizes, and
names in comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from einc.codegen.layout import Dim, layout_text
from einc.codegen.native.chain import Chain, Sizes
from einc.codegen.writer import Writer

CACHE = 1 << 18
"""Bytes of what the products take and give: they stay in a core's own cache."""
SPILLED = 1 << 22
"""Bytes of the same where the weights fill that cache."""
LARGE = 1 << 15
"""Values of a weight that are worth threads of their own to copy."""
SHARED = "#pragma omp for nowait"
"""Before a loop that threads share."""
SINGLE = "#pragma omp single nowait"
"""Before what one of them does."""


class Steps(Protocol):
    """What a lowering writes: functions, and what calls them for the m tokens of a block.

    These are in C `x + at * features` and so on. Product i is called with its weight as
    `functions` puts it: `w{i}` forward, `v{i}` backward. All sizes are in floats. Where a
    thread has one block alone, it is called `once`, and `alone` where it has no others
    beside it.
    """

    value_bytes: int
    blocks: tuple[int, int]
    """The least and the most tokens that go through all products at a time."""
    end: str
    """What each thread does last."""
    zeroed: bool
    """Whether buffers are to be zeros at first."""
    at_once: bool
    """Whether a product that is called once puts its weight in place itself, so that
    `w{i}` is none, and gives a gradient itself where it is alone; and whether the first
    block's gradients need no zeros to be added to.
    """

    def functions(self, out: Writer) -> None:
        """Those that the steps call, and of each weight `forward_weight_{i}` and
        `backward_weight_{i}`, which put it in place, and `add_up_{i}` of its gradient: the
        threads that call them share the work, and do not wait for each other.
        """

    def weights(self, kind: str) -> list[int]:
        """The sizes of the weights in place, 0 for those that are as they are given."""

    def sums(self) -> list[int]:
        """The sizes of the weights' gradients of a thread, in the order of its loops."""

    def room(self, backward: bool) -> dict[str, int]:
        """What a thread keeps beside these, whatever the tokens of a block."""

    def buffers(self, backward: bool) -> dict[str, int]:
        """What a thread keeps, for each token of a block."""

    def enter(self, out: Writer, backward: bool) -> None:
        """x and the gradient of y, to where the first products find them."""

    def forward(self, out: Writer, i: int) -> None: ...

    def gradient(self, out: Writer, i: int) -> None:
        """That of a weight, added to `sums{i}`."""

    def backward(self, out: Writer, i: int) -> None:
        """The gradient of what product i takes, in its place; of the first that is dx."""


def c_source(chain: Chain, steps: Steps) -> str:
    """`forward` and `backward` of a chain in C."""
    out = Writer()
    steps.functions(out)
    _forward(out, chain, steps)
    out.line()
    _backward(out, chain, steps)
    return out.text


def _forward(out: Writer, chain: Chain, steps: Steps) -> None:
    buffers = steps.buffers(backward=False)
    block, space = _block(chain, steps, buffers), _Space()
    space.take_weights("w", steps.weights("forward"))
    for name, size in steps.room(backward=False).items():
        space.take(name, size)
    for name, size in buffers.items():
        space.take(name, block * size)
    _size_of(out, "forward", space)
    features = chain.features(-1)
    out.line("void forward(")
    out.line("    long n, long threads, const value *x, const value *const *weights,")
    out.line("    const value *bias, value *y, float *space)")
    with braces(out):
        out.line(f"use_large_pages(y, n * {features} * sizeof(value));")
        _use_space(out, "forward")
        products = range(len(chain.weights))
        _parts(out, block, steps)
        _places(out, "w", products, space, steps)
        with _threads(out, chain, steps):
            _in_place(out, "forward", "w", products, space, steps)
            _wait(out, space)
            begin = [_zeros(0, space.part)] if steps.zeroed else []
            with _each_block(out, block, space, begin, steps.end):
                steps.enter(out, backward=False)
                for i in products:
                    steps.forward(out, i)
                out.line("if (bias)")
                out.line(f"    add_bias(m, {features}, bias, y + at * {features});")


def _backward(out: Writer, chain: Chain, steps: Steps) -> None:
    products = range(len(chain.weights))
    buffers = steps.buffers(backward=True)
    block, space = _block(chain, steps, buffers), _Space()
    space.take_weights("w", steps.weights("forward")[:-1])
    space.take_weights("v", steps.weights("backward"))
    for i, size in enumerate(steps.sums()):
        space.take(f"sums{i}", size)
    sums = space.part
    for name, size in steps.room(backward=True).items():
        space.take(name, size)
    for name, size in buffers.items():
        space.take(name, block * size)
    _size_of(out, "backward", space)
    out.line("void backward(")
    out.line("    long n, long threads, const value *x, const value *const *weights,")
    out.line("    const value *dy, value *dx, value *const *gradients, float *space)")
    with braces(out):
        out.line("if (dx)")
        out.line(f"    use_large_pages(dx, n * {chain.features(0)} * sizeof(value));")
        _use_space(out, "backward")
        _parts(out, block, steps)
        if steps.at_once:
            out.line("const int alone = once && parts == 1;")
        _places(out, "w", products[:-1], space, steps)
        _places(out, "v", products, space, steps)
        with _threads(out, chain, steps):
            _in_place(out, "forward", "w", products[:-1], space, steps)
            _in_place(out, "backward", "v", products, space, steps)
            _wait(out, space)
            begin = ["if (!n)"] if steps.at_once else []
            begin.append("    " * steps.at_once + _zeros(0, sums))
            if steps.zeroed:
                begin.append(_zeros(sums, space.part))
            with _each_block(out, block, space, begin, steps.end):
                steps.enter(out, backward=True)
                for i in products[:-1]:
                    out.line(f"if ({' || '.join(_gradients(products[i + 1 :]))})")
                    with braces(out):
                        steps.forward(out, i)
                for i in reversed(products):
                    out.line(f"if (gradients[{i}])")
                    with braces(out):
                        steps.gradient(out, i)
                    out.line(f"if ({' || '.join(['dx', *_gradients(products[:i])])})")
                    with braces(out):
                        steps.backward(out, i)
            for i in products:
                first = f"space + {space.shared + space.own[f'sums{i}']}"
                out.line(f"if (gradients[{i}]{' && !alone' * steps.at_once})")
                out.line(
                    f"    add_up_{i}(parts, {space.part}, {first}, gradients[{i}]);"
                )


def _gradients(products: Iterable[int]) -> list[str]:
    return [f"gradients[{i}]" for i in products]


class _Space:
    """Places in the memory that a function is given, in floats from its start.

    All threads share the weights as the loops have them; each has `own` places behind
    those, for its part of the tokens.
    """

    def __init__(self) -> None:
        self.weights: dict[str, int] = {}
        self.own: dict[str, int] = {}
        self.shared = self.part = 0

    def take_weights(self, name: str, sizes: Iterable[int]) -> None:
        """For those that are not as they are given."""
        for i, size in enumerate(sizes):
            if size:
                self.weights[f"{name}{i}"] = self.shared
                self.shared += _whole_lines(size)

    def take(self, name: str, size: int) -> None:
        self.own[name] = self.part
        self.part += _whole_lines(size)


def _whole_lines(size: int) -> int:
    """Floats up to the end of a line of a cache."""
    return -(-size // 16) * 16


def _size_of(out: Writer, name: str, space: _Space) -> None:
    """How much memory a function is to be given."""
    out.line(
        f"/* Floats of space for {name}: what all share, and what each part has. */"
    )
    out.line(f"long space_{name}(long n, long threads)")
    with braces(out):
        out.line(f"return {space.shared} + parts_of(n, threads) * {space.part};")
    out.line()


def _use_space(out: Writer, name: str) -> None:
    out.line(f"use_large_pages(space, space_{name}(n, threads) * sizeof(float));")


def _parts(out: Writer, block: int, steps: Steps) -> None:
    out.line("const long parts = parts_of(n, threads);")
    if steps.at_once:
        out.line("/* A part that is one block takes its weights as they are given. */")
        out.line(f"const int once = 0 < n && n <= parts * {block};")


def _places(
    out: Writer, name: str, products: Iterable[int], space: _Space, steps: Steps
) -> None:
    """Pointers to the weights as the loops have them."""
    for i in products:
        place = space.weights.get(f"{name}{i}")
        if place is None:
            out.line(f"const value *{name}{i} = weights[{i}];")
        else:
            at_once = "once ? NULL : " * steps.at_once
            out.line(f"value *{name}{i} = {at_once}(value *)(space + {place});")


def _in_place(
    out: Writer,
    kind: str,
    name: str,
    products: Iterable[int],
    space: _Space,
    steps: Steps,
) -> None:
    """Puts them there."""
    for i in products:
        if f"{name}{i}" in space.weights:
            if steps.at_once:
                out.line(f"if ({name}{i})")
            indent = "    " * steps.at_once
            out.line(f"{indent}{kind}_weight_{i}(weights[{i}], {name}{i});")


@contextmanager
def _threads(out: Writer, chain: Chain, steps: Steps) -> Iterator[None]:
    """What is written meanwhile, by all threads, or by those alone that have tokens."""
    team = "parts"
    if max(chain.counts) >= LARGE:
        team = "once ? parts : threads" if steps.at_once else "threads"
    out.line(f"#pragma omp parallel num_threads({team})")
    with braces(out):
        yield


def _wait(out: Writer, space: _Space) -> None:
    """For the weights that others put in place."""
    if space.weights:
        out.line("#pragma omp barrier")


def _zeros(start: int, end: int) -> str:
    return f"memset(own + {start}, 0, {end - start} * sizeof(float));"


@contextmanager
def _each_block(
    out: Writer, block: int, space: _Space, begin: Iterable[str], end: str
) -> Iterator[None]:
    """What is written meanwhile for each block of tokens, m from `at` on.

    Each thread has a part of the tokens, does what is to `begin` and to `end` with, and
    waits for the others.
    """
    out.line("#pragma omp for schedule(static, 1)")
    out.line("for (long part = 0; part < parts; part++)")
    with braces(out):
        out.line(f"float *own = space + {space.shared} + part * {space.part};")
        for name, place in space.own.items():
            kind = "float" if name.startswith("sums") else "value"
            out.line(f"{kind} *const {name} = ({kind} *)(own + {place});")
        for line in begin:
            out.line(line)
        out.line("const long start = n * part / parts, end = n * (part + 1) / parts;")
        out.line(f"for (long at = start; at < end; at += {block})")
        with braces(out):
            out.line(f"const long m = end - at < {block} ? end - at : {block};")
            yield
        if end:
            out.line(end)


def _block(chain: Chain, steps: Steps, buffers: Mapping[str, int]) -> int:
    """Tokens that go through all products at a time, whole tiles of rows.

    As many as fit, or as many as have the size of the weights, which each block reads,
    as was measured to be best.
    """
    least, most = steps.blocks
    weights = steps.value_bytes * sum(chain.counts)
    fitting = min(max(CACHE, weights), SPILLED) // (4 * sum(buffers.values()))
    return min(max(fitting // least * least, least), most)


@contextmanager
def braces(out: Writer) -> Iterator[None]:
    out.line("{")
    with out.indented():
        yield
    out.line("}")


@contextmanager
def each_value(
    out: Writer, dims: Sequence[Dim], sizes: Sizes, first: int = 0
) -> Iterator[None]:
    """Loops over all values of these, i0 and so on or from another one on."""
    depth = out.indent
    for k, dim in enumerate(dims, first):
        out.line(f"for (long i{k} = 0; i{k} < {sizes[dim]}; i{k}++)")
        out.indent += "    "
    yield
    out.indent = depth


def dims_text(dims: Iterable[Dim]) -> str:
    return f"[{layout_text(tuple((dim,) for dim in dims))}]"


def place(lies: Sequence[Dim], loops: Sequence[Dim], sizes: Sizes) -> str:
    """Where a value is in what lies so, in loops over `loops`, the others' at the start."""
    step, parts = 1, []
    for dim in reversed(lies):
        if dim in loops:
            parts.append(f"i{loops.index(dim)} * {step}")
        step *= sizes[dim]
    return " + ".join(reversed(parts)) or "0"
