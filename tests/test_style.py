"""Generated text is clean to ruff's linter and formatter, whatever the structure.

By ruff's defaults, as a user has them. (That it computes what it should is shown in
test_generated.py; the library's files are kept in tests/golden.)
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import Case, any_case, routed

import einc
from einc.order import ORDERS

RUFF = [sys.executable, "-m", "ruff"]


def accept(source: str) -> None:
    for command in (["check"], ["format", "--diff"]):
        ruff = [*RUFF, *command, "--isolated", "--stdin-filename", "made.py", "-"]
        done = subprocess.run(
            ruff, input=source, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def lengthened(case: Case, length: int) -> str:
    """The text of a case with `length` more letters to each name of its own."""
    names = "|".join((*case.equation.indices, *case.equation.factors))
    return re.sub(rf"\b({names})\b", rf"\1{'g' * length}", case.text)


@settings(max_examples=60)
@given(
    st.one_of(any_case(), routed()),
    st.sampled_from(ORDERS),
    st.sampled_from([0, 0, 4, 9, 14, 20]),
)
def test_random_structures(case: Case, order: Any, length: int) -> None:
    text = lengthened(case, length) if case.equation.indices and length else case.text
    accept(einc.parse(text).source(case.d_in, case.d_out, order=order))


LETTERS = "abcefghijklmnopqrstuvwz"


def wide(name: str, indices: str) -> str:
    """Factors that want every index in another order, or summed."""
    half = len(indices) // 2
    first, second = indices[:half], indices[half:]
    size = "\n".join(f"{index} = 2" for index in indices)
    x, y = ", ".join(first), ", ".join(reversed(second))
    mixed = ", ".join(f"{a}, {b}" for a, b in zip(first, second, strict=True))
    return f"""structure {name} {{
      y[{y}] = x[{x}] * {name}A[{mixed}] * {name}B[{y}] * {name}C[{x}]
      {size}
    }}"""


@pytest.mark.parametrize("name", ["s", "structure_of_a_long_name"])
@pytest.mark.parametrize("count", [8, 12, 16, 20])
@pytest.mark.parametrize("order", ["best", "given"])
def test_many_dimensions(name: str, count: int, order: Any) -> None:
    accept(einc.parse(wide(name, LETTERS[:count])).source(order=order))


def test_many_sums() -> None:
    """Indices of one factor alone, between others."""
    inner = [f"k{i}" for i in range(12)]
    outer = [f"o{i}" for i in range(12)]
    mixed = ", ".join(f"{a}, {b}" for a, b in zip(inner, outer, strict=True))
    text = f"y[{', '.join(outer)}] = x[i] * W[i, {mixed}]\n{', '.join(outer)} = 2"
    text += f"\n{', '.join(inner)} = 2\ni = 3"
    accept(einc.parse(f"structure sums {{ {text} }}").source())


def test_several_shapes_in_one_file() -> None:
    from einc import compiler

    structure = compiler.load("blast")
    shapes = [(64, 96), (96, 64), (61, 98)]
    modules = [compiler.module(compiler.analyze(structure, *shape)) for shape in shapes]
    source = compiler.source(structure, modules)
    accept(source)
    assert re.findall(r"^class (\w+)\(nn.Module", source, re.M) == [
        "Blast64x96",
        "Blast96x64",
        "Blast61x98",
    ]
