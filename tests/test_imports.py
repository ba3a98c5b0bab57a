"""What einc imports, and when: a command starts fast because it takes what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from terminal import environment


def imports_of(code: str) -> set[str]:
    """The packages, and einc's modules, that are imported once `code` has run in a
    process of its own.
    """
    told = """
import sys
own = [name for name in sys.modules if name.startswith("einc.")]
print(*own, *{name.split(".")[0] for name in sys.modules})
"""
    ended = subprocess.run(
        (sys.executable, "-c", f"{code}{told}"),
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return set(ended.stdout.splitlines()[-1].split())


def command(*arguments: str) -> str:
    return f"""
import sys
from einc.cli import main
sys.argv = ["einc", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        ("analyze btt --in 1024", "torch opt_einsum numpy einc.codegen.nodes"),
        ("codegen btt --in 1024 --out 1024", "torch opt_einsum numpy sympy"),
        ("taxonomy btt dense --csv", "torch opt_einsum numpy sympy einc.codegen.nodes"),
        ("check btt", "torch opt_einsum numpy sympy"),
        ("show btt", "torch opt_einsum numpy sympy lark"),
    ],
)
def test_a_command_imports_no_more_than_it_needs(arguments: str, absent: str):
    found = imports_of(command(*arguments.split()))
    assert {"einc", "typer"} <= found
    assert not found & set(absent.split())


def test_einc_alone_is_light():
    found = imports_of("import einc")
    assert "einc" in found
    assert not found & {"torch", "sympy", "lark", "typer", "rich", "opt_einsum"}


def test_this_test_can_fail():
    assert "torch" in imports_of("import einc.nn.compile")
    written = command("codegen", "btt", "--in", "8", "--out", "8")
    assert "einc.codegen.nodes" in imports_of(written)
    asked = command("analyze", "btt", "--in", "1024", "--order", "greedy")
    assert {"sympy", "opt_einsum"} <= imports_of(asked)
    tied = "y[o] = x[i] * U[i, r] * U[o, r]  r = 2"
    asked = command("analyze", "-e", tied, "--in", "8")
    assert {"numpy", "flint"} <= imports_of(asked)


def test_models_without_values_do_not_wait_for_torch_s_compiler():
    """A study begins seconds sooner: sympy and triton come with the compiler."""
    code = """
from torch import nn
from einc.scale import layers
with layers.without_values():
    made = nn.ModuleList([layers.dense(3, 4), nn.Embedding(5, 6)])
assert [[*p.shape] for p in made.parameters()] == [[4, 3], [4], [5, 6]]
assert all(p.is_meta for p in made.parameters())
"""
    found = imports_of(code)
    assert "torch" in found and not found & {"sympy", "triton"}
