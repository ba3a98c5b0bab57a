"""The examples: every file holds what its comments say, every script runs."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from example_figures import exponents_line, figures_line
from terminal import ROOT, call, einc

from einc import api, library

FOLDER = ROOT / "examples"
FILES = sorted(FOLDER.glob("*.ein"))
APART = ("quickstart", "run_generated", "gpt_moe", "swap_gpt")
BESIDE = {"tied", "normalized"}
"""What no structure of the library shows."""
SCRIPTS = sorted(p for p in FOLDER.glob("*.py") if p.stem not in APART)
AT = re.compile(r"^# at (\d+) x (\d+): ", re.MULTILINE)


def stems(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_structure_of_the_library_has_an_example():
    assert set(stems(FILES)) == set(library.NAMES) | BESIDE


def test_all_pass_check():
    ended = einc("check", "examples", "--in", "1024")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{len(FILES)} structures checked, no faults\n"


@pytest.mark.parametrize("path", FILES, ids=stems(FILES))
def test_figures_in_comments(path: Path):
    text = path.read_text(encoding="utf-8")
    structure = api.load(str(path))
    assert f"{exponents_line(structure.analyze())}\n" in text
    shapes = [(int(a), int(b)) for a, b in AT.findall(text)]
    assert (1024, 1024) in shapes
    for shape in shapes:
        # A rank that is not quoted need not be proved.
        lines = figures_line(structure.analyze(*shape, certify=False), rank=False)
        if f"{lines}\n" not in text:
            lines = figures_line(structure.analyze(*shape))
        assert f"{lines}\n" in text


@pytest.mark.parametrize("path", FILES, ids=stems(FILES))
def test_commands_in_comments(path: Path):
    commands = re.findall(r"^#     einc (.*)$", path.read_text(), re.MULTILINE)
    assert commands[0].startswith(f"analyze examples/{path.name} --in ")
    for command in commands:
        ended = einc(*shlex.split(command))
        assert (ended.status, ended.err) == (0, "") and ended.out


@pytest.mark.parametrize("path", FILES, ids=stems(FILES))
def test_generated_code_runs(path: Path, one_thread: None):
    import torch

    structure = api.load(str(path))
    layer = structure.module_class(1024, 512)()
    x = torch.randn(3, 1024)
    y = layer(x)
    assert y.shape == (3, 512)
    if structure.structure.route is not None:
        # A router of zeros gives each of the first token's experts the same gate.
        gates, chosen = layer.route(x[:1])
        dense = layer.to_dense(
            torch.zeros(layer.experts).scatter(0, chosen[0], gates[0])
        )
    else:
        dense = layer.to_dense()
    assert dense.shape == (512, 1024)
    torch.testing.assert_close(y, x @ dense.T, atol=1e-4, rtol=1e-4)


def test_what_the_examples_say_beside_figures(one_thread: None):
    import torch

    def layer(name: str):
        made = api.load(str(FOLDER / f"{name}.ein")).module_class(64, 64)
        return made(bias=False, dtype=torch.float64)

    dense = layer("tied").to_dense()
    torch.testing.assert_close(dense, dense.T)
    skip = layer("skip_low_rank")
    torch.nn.init.zeros_(skip.V)
    assert torch.equal(skip.to_dense(), torch.eye(64, dtype=torch.float64))
    normalized = layer("normalized")
    with torch.no_grad():
        normalized.A.mul_(2)
        dense = normalized.to_dense()
        normalized.A.mul_(1000)
        torch.testing.assert_close(normalized.to_dense(), dense)
        normalized.A_scale.mul_(3)
        torch.testing.assert_close(normalized.to_dense(), 3 * dense)


@pytest.mark.parametrize("path", SCRIPTS, ids=stems(SCRIPTS))
def test_scripts_run(path: Path, one_thread: None, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out and not printed.err


def test_quickstart_shows_what_it_says(one_thread: None, capsys):
    runpy.run_path(str(FOLDER / "quickstart.py"), run_name="__main__")
    out = capsys.readouterr().out
    dense, ours, flat = (float(e) for e in re.findall(r"error (\S+)$", out, re.M))
    assert dense < ours < 0.8 * flat


def test_experts_are_even_with_the_auxiliary_loss(
    one_thread: None, capsys, monkeypatch
):
    arguments = ["gpt_moe.py", "--steps", "50", "--width", "32"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(FOLDER / "gpt_moe.py"), run_name="__main__")
    _, even, uneven = re.split("^with ", capsys.readouterr().out, flags=re.M)
    for run in (even, uneven):
        losses = [float(v) for v in re.findall(r"loss (\d+\.\d+)", run)]
        assert losses[-1] < losses[0] - 1
    shares = [float(re.findall(r"share (\S+)", run)[-1]) for run in (even, uneven)]
    assert shares[0] < 0.8 * shares[1]


def test_generated_files_run(one_thread: None, tmp_path: Path, capsys, monkeypatch):
    shapes = ("--shape", "64x64", "--shape", "64x256")
    ended = call("codegen", "btt", *shapes, "-o", "btt.py", cwd=tmp_path)
    assert ended.status == 0
    monkeypatch.setattr(sys, "argv", ["run_generated.py", str(tmp_path / "btt.py")])
    runpy.run_path(str(FOLDER / "run_generated.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.count("parameters") == 2
    figures = call("analyze", "btt", "--in", "64", "--json").json
    assert f"{figures['params']['total']:,} " in out
    assert f"{figures['flops']['forward']:,} " in out


def test_the_readme_names_every_file():
    named = re.findall(r"\]\((\S+?)\)", (FOLDER / "README.md").read_text())
    there = {p.name for p in FOLDER.iterdir() if p.suffix in (".ein", ".py")}
    assert sorted(named) == sorted(there)
