"""The generated text of each library structure, kept whole: what a user would read.

A golden file that is missing fails; `pytest --update-golden` writes them anew. Each is
also what it should be: clean to ruff, free of einc, and right when it is run.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import einc
from einc import compiler, library, report

FOLDER = Path(__file__).parent / "golden"
SHAPES = {name: [(64, 96)] for name in library.NAMES}
for padded in ("monarch", "kronecker", "blast"):
    SHAPES[padded] = [(64, 96), (61, 98)]
for chunked in ("monarch", "kronecker", "butterfly3", "blast"):
    SHAPES[chunked] += [(1024, 1024)]
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
ALLOWED = {"torch", "typing"}
ROUTED = {"math", "collections.abc", "torch.utils.flop_counter"}
"""What the files of routed structures import beside."""


def golden(name: str, shape: tuple[int, int]) -> Path:
    return FOLDER / "source" / f"{name}_{shape[0]}x{shape[1]}.py"


def same(path: Path, text: str, update: bool) -> None:
    """`text` is what the file at `path` has; with `update` it is written there."""
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing: run pytest --update-golden"
    assert path.read_text(encoding="utf-8") == text


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_source(name: str, shape: tuple[int, int], update: bool) -> None:
    same(golden(name, shape), einc.load(name).source(*shape), update)


@pytest.mark.parametrize("stage", ["syntax", "structure", "plan", "module"])
def test_stage(stage: str, update: bool) -> None:
    structure = compiler.load("btt")
    profile = compiler.analyze(structure, 64, 96)
    text = {
        "syntax": lambda: report.tree(structure.definition),
        "structure": lambda: report.tree(structure),
        "plan": lambda: report.plan_text(profile.plan),
        "module": lambda: report.tree(compiler.module(profile)),
    }[stage]()
    same(FOLDER / stage / "btt_64x96.txt", text + "\n", update)


def test_no_golden_file_is_left_over() -> None:
    wanted = {golden(name, shape).name for name, shape in CASES}
    assert {path.name for path in (FOLDER / "source").glob("*.py")} == wanted


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_accepts_them(command: list[str], tmp_path: Path) -> None:
    """By ruff's defaults, as a user has them, away from our configuration."""
    for name, shape in CASES:
        path = tmp_path / golden(name, shape).name
        path.write_text(einc.load(name).source(*shape))
    ruff = [sys.executable, "-m", "ruff", *command, "--isolated", str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_file_needs_torch_alone(name: str, shape: tuple[int, int]) -> None:
    tree = ast.parse(golden(name, shape).read_text())
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    routed = library.structure(name).route is not None
    # What goes through chunks has a helper that takes its functions with arguments.
    imported -= {"functools"}
    assert imported == (ALLOWED | ROUTED if routed else ALLOWED)


def load_class(path: Path) -> type[torch.nn.Module]:
    """The one class of a generated file, imported as a user would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (found,) = [
        v
        for v in vars(module).values()
        if isinstance(v, type)
        and issubclass(v, torch.nn.Module)
        and v.__module__ == path.stem
    ]
    return found


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_file_computes_its_equation(name: str, shape: tuple[int, int]) -> None:
    module = load_class(golden(name, shape))(dtype=torch.float64)
    binding = compiler.bind(compiler.load(name), *shape)
    assert binding is not None
    torch.nn.init.normal_(module.bias)
    routed = binding.structure.routed
    x = torch.randn(5, shape[0], dtype=torch.float64)
    wanted = module.bias.detach().clone().expand(5, -1)
    if routed:
        torch.nn.init.normal_(module.router)
        gates, chosen = module.route(x)
        gate = torch.zeros(5, module.experts, dtype=x.dtype).scatter(1, chosen, gates)
    for term, (padded, _) in zip(binding.structure.terms, binding.padded, strict=True):
        letters = {a: chr(ord("a") + i) for i, a in enumerate(term.axes)}
        spelt = ["".join(letters[a] for a in o.axes) for o in term.operands]
        sides = ["".join(letters[a] for a in side) for side in term.sides]
        split = torch.nn.functional.pad(x, (0, padded - shape[0]))
        split = split.reshape(5, *binding.shape(term.input))
        factors = [getattr(module, o.name) for o in term.operands]
        if routed:
            factors.append(gate)
            spelt += ["Z" + letters[a] for a in term.axes if a.name == routed]
        equation = ",".join(["Z" + sides[0], *spelt]) + "->Z" + sides[1]
        y = torch.einsum(equation, split, *factors).reshape(5, -1)
        wanted = wanted + y[:, : shape[1]]
    torch.testing.assert_close(module(x), wanted, rtol=1e-9, atol=1e-9)
