"""The fused kernel: which structures have one, its text, and what it compiles to.

What it computes is tested in interpreted.py, which is started here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import Equation, size_of
from structures import Case
from terminal import environment
from test_imports import command, imports_of
from test_style import accept, lengthened

import einc
from einc import compiler, library
from einc.codegen.fusion import fused
from einc.codegen.nodes import Fused
from einc.codegen.tiles import SHARED_BYTES, Blocks, Sizes, power_of_two
from einc.errors import UsageError
from einc.nn.compile import module_class
from einc.structure import Structure

BTT = "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]"
SHAPES = [(64, 64), (768, 3072), (3072, 768), (4096, 4096)]


def fused_of(structure: Any, d_in: int, d_out: int, **options: Any) -> Fused | None:
    return fused(structure.analyze(d_in, d_out, **options))


def source(structure: Structure, *shapes: tuple[int, int], **options: Any) -> str:
    """A file with the kernel and a class for each shape."""
    modules = []
    for shape in shapes:
        profile = compiler.analyze(structure, *shape, **options)
        modules.append(compiler.module(profile, kernels="triton"))
    return compiler.source(structure, modules)


# Which structures have one


def test_the_library() -> None:
    """Monarch by its three names; a rank that leaves B and A to be multiplied first."""
    have = {n for n in library.NAMES if fused_of(einc.load(n), 1024, 1024)}
    assert have == {"btt", "monarch", "einsum2"}


def kernel_of(text: str) -> Fused | None:
    """At sizes of 8, multiplied in the order written."""
    equation = Equation.read(text)
    sizes = dict.fromkeys(equation.indices, 8)
    statements = tuple(f"{index} = 8" for index in sizes)
    d_in, d_out = size_of(equation.x, sizes), size_of(equation.y, sizes)
    case = Case(equation, statements, d_in, d_out, sizes)
    return fused_of(case.load(), d_in, d_out, order="given")


@pytest.mark.parametrize(
    "text",
    [
        "y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]",
        "y[f, e] = x[g, a] * B[g, a, f] * A[f, g, e]",
        "y[e, f] = x[a, g] * A[r, f, g, a] * B[e, r, f, g]",
        "y[f, e] = x[a] * A[a, f, r] * B[f, r, e]",
        "y[e] = x[g, a] * A[g, a, r] * B[g, r, e]",
        "y[f, h, e] = x[g, k, a] * A[g, k, a, f, h] * B[f, h, g, k, e]",
    ],
)
def test_two_contractions(text: str) -> None:
    assert kernel_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "y[e] = x[a] * A[a, r] * B[r, e]",
        "y[f, e] = x[g, a] * A[a, f] * B[g, e]",
        "y[f, e] = x[g, a] * A[g, a, f, e]",
        "y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e] * C[e]",
        "y[h, f, e] = x[h, g, a] * A[g, a, f] * B[f, g, e]",
        "y[f, e] = x[g, a] * A[g, a, f, k] * B[f, g, e]",
        "y[f, e] = x[g, a] * B[f, g, e] * A[g, a, f]",
        "y[f, e] = x[g, a] * A[g, a, f] * A[f, g, e]",
    ],
    ids=(
        "bottleneck kronecker one-factor three-factors batch sum other-order tied"
    ).split(),
)
def test_other_structures(text: str) -> None:
    assert kernel_of(text) is None


def test_sides_that_are_too_large() -> None:
    monarch = einc.load("monarch")
    assert fused_of(monarch, 16384, 16384)
    assert fused_of(monarch, 65536, 65536) is None


def test_asking_for_what_is_not_there() -> None:
    profile = einc.load("kronecker").analyze(64, 64)
    with pytest.raises(UsageError, match="no fused kernel for `kronecker` at 64 x 64"):
        compiler.module(profile, kernels="triton")


# Blocks


sides = st.integers(1, 128)


@given(sides, sides, sides, st.integers(1, 16), sides, st.integers(1, 1 << 20))
def test_blocks(g: int, a: int, f: int, r: int, e: int, tokens: int) -> None:
    """Powers of two, sides of products of 16 and more, and not more than fits."""
    sizes = Sizes(g, a, f, r, e)
    blocks = sizes.blocks(tokens, 2)
    assert blocks is not None
    assert all(block == power_of_two(block) for block in blocks)
    rank, wide = power_of_two(r), max(16, power_of_two(e))
    assert min(blocks.n, blocks.a, blocks.g * rank, blocks.f * rank) >= 16
    assert blocks.f * blocks.n * wide <= 1 << 15
    x, second = blocks.g * blocks.n * blocks.a, blocks.f * blocks.g * rank * wide
    assert 2 * max(x, second) <= SHARED_BYTES


def test_few_tokens_are_spread_over_more_programs() -> None:
    sizes = Sizes(64, 64, 64, 4, 64)
    few, many = sizes.blocks(16, 2), sizes.blocks(8192, 2)
    assert few is not None and many is not None
    assert few.f < many.f and few.n < many.n


def test_blocks_at_4096_features() -> None:
    """What the model says of the largest common layer, as a fixed point."""
    assert Sizes(64, 64, 64, 1, 64).blocks(8192, 2) == Blocks(32, 16, 32, 16)


# Text


@pytest.mark.parametrize("length", [0, 4, 9, 14, 20])
@pytest.mark.parametrize("statement", ["", "normalize A, B"])
@pytest.mark.parametrize("features", [(35, 54), (34, 53)], ids=["whole", "padded"])
def test_style(features: tuple[int, int], statement: str, length: int) -> None:
    sizes = {"g": 5, "a": 7, "f": 6, "r": 2, "e": 9}
    statements = (*(f"{k} = {v}" for k, v in sizes.items()), statement)
    equation = Equation.read("y[e, f] = x[a, g] * A[r, f, g, a] * B[e, r, f, g]")
    case = Case(equation, statements, *features, sizes)
    accept(source(einc.parse(lengthened(case, length)).structure, features))


def test_several_shapes_share_a_kernel() -> None:
    text = source(compiler.load("btt"), *SHAPES)
    accept(text)
    assert text.count("def _kernel(") == 1
    assert text.count("BLOCKS: ClassVar") == len(SHAPES)
    assert text == source(compiler.load("btt"), *SHAPES)


def test_without_it_the_text_is_as_before() -> None:
    """And with it the class has the same parameters, and the same operations on a CPU."""
    structure = compiler.load("btt")
    profile = compiler.analyze(structure, 64, 96)
    plain = compiler.source(structure, [compiler.module(profile)])
    assert "triton" not in plain
    lines = iter(source(structure, (64, 96)).splitlines())
    assert all(line in lines for line in plain.splitlines() if line)


@pytest.mark.parametrize("triton", ["missing", "there"])
def test_without_a_gpu(triton: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if triton == "missing":
        monkeypatch.setitem(sys.modules, "triton", None)
    structure = compiler.load("btt")
    profile = compiler.analyze(structure, 64, 96)
    module = compiler.module(profile, kernels="triton")
    assert profile.figures is not None
    text = compiler.source(structure, [module]) + f"# triton is {triton}\n"
    layer = module_class(text, module.name, profile.figures.binding)()
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), x @ layer.to_dense().T)  # type: ignore[operator]


def test_the_compiler_needs_neither_torch_nor_triton() -> None:
    asked = "codegen btt --in 1024 --kernels triton".split()
    assert not imports_of(command(*asked)) & {"torch", "triton"}


# What Triton makes of it


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    file = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[5-9]\d passed", done.stdout, re.M), done.stdout


class Recorded:
    """In place of a kernel: what it is called with."""

    def __getitem__(self, grid: tuple[int]) -> Recorded:
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [(torch.bfloat16, 80), (torch.bfloat16, 90), (torch.float32, 80)],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "d_in", "rank"), [("monarch", 4096, {}), ("btt", 768, {"rank": 3})]
)
def test_compiled_for_a_gpu(
    name: str,
    d_in: int,
    rank: dict[str, int],
    dtype: torch.dtype,
    capability: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Triton's compiler and the assembler take it, with what a GPU has; none runs it."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    structure = einc.load(name, **rank)
    profile = structure.analyze(d_in, 4096)
    module = compiler.module(profile, kernels="triton")
    assert profile.figures is not None and module.fused is not None
    text = compiler.source(structure.structure, [module])
    made = module_class(text, module.name, profile.figures.binding)
    namespace = vars(sys.modules[made.__module__])
    recorded, kernel = Recorded(), namespace["_kernel"]
    monkeypatch.setitem(namespace, "_kernel", recorded)

    layer: Any = made(dtype=dtype)
    sizes = profile.figures.binding.sizes
    first = layer.A.reshape(*(sizes[i] for i in "gaf"), -1)
    second = layer.B.reshape(sizes["f"], sizes["g"], -1, sizes["e"])
    x = torch.empty(4096, sizes["g"], sizes["a"], dtype=dtype)
    grad = torch.empty(4096, sizes["f"], sizes["e"], dtype=dtype)
    turned = second.permute(0, 3, 1, 2), first.permute(0, 2, 3, 1)
    forward, backward = module.fused.blocks[dtype.itemsize]
    for tensors, blocks in (
        ((x, first, second), forward),
        ((grad, *turned), backward),
    ):
        namespace["_launch"](*tensors, [*blocks], [])
        arguments = dict(zip(kernel.arg_names, recorded.arguments, strict=True))
        arguments["PRECISION"] = "tf32"  # exact float32 has no matrix units
        pointer = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]
        compiled = triton.compile(
            ASTSource(
                kernel,
                {
                    parameter.name: "constexpr"
                    if parameter.is_constexpr
                    else ("i32" if parameter.name == "n" else pointer)
                    for parameter in kernel.params
                },
                {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr},
                {(i,): [["tt.divisibility", 16]] for i in range(4)},
            ),
            target=GPUTarget("cuda", capability, 32),
            options=recorded.options,
        )
        assert compiled.metadata.shared <= 99 << 10
        assert "mma.sync" in compiled.asm["ptx"]
