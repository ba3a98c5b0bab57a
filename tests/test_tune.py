"""Tuning takes what a clock says is fastest, and changes no result."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import einc
from einc import compiler
from einc.errors import UsageError
from einc.nn.compile import module_class
from einc.nn.tune import CHUNKS, tuned


def fastest(place: int) -> Any:
    """A clock by which the call at `place` of each round of trials is the fastest."""

    def times(calls: dict[str, Any]) -> dict[str, tuple[float, ...]]:
        for call in calls.values():
            call()
        least = min(place, len(calls) - 1)
        return {name: (float(i != least),) for i, name in enumerate(calls)}

    return times


WAYS = {"monarch": 4, "btt": 4, "kronecker": 4, "low_rank": 1, "dense": 1}
"""Different ones that the clock chose: of other layouts, orientations and chunks."""


@pytest.mark.parametrize("name", WAYS)
def test_every_way_computes_the_same(name: str):
    structure = einc.load(name)
    report = structure.analyze(256, 1024, tokens=5000, certify=False)
    assert report.figures is not None
    x = torch.randn(300, 256)
    expected, seen = None, set()
    for place in range(6):
        module = tuned(report, times=fastest(place))
        source = compiler.source(report.structure, [module])
        built: Any = module_class(source, module.name, report.figures.binding)
        layer = built()
        if expected is None:
            state = layer.state_dict()
            expected = x @ layer.to_dense().T
        layer.load_state_dict(state)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
        seen.add((module.chunks, module.body))
        assert any(line.startswith("tuned for float32 on ") for line in module.figures)
    assert len(seen) == WAYS[name]
    if WAYS[name] > 1:
        sizes = {chunks and chunks.size for chunks, _ in seen}
        assert sizes & set(CHUNKS) and None in sizes


def test_the_clock_decides():
    report = einc.load("monarch").analyze(64, 64, tokens=600, certify=False)
    first = tuned(report, times=fastest(0))
    assert first.chunks == compiler.module(report).chunks
    assert tuned(report, backward="autograd", times=fastest(0)).chunks is None


@pytest.mark.parametrize("place", [0, 1])
def test_the_kernel_takes_part(place: int):
    """For as few tokens as were planned; where it is slower the file does without."""
    report = einc.load("monarch").analyze(64, 64, tokens=100, certify=False)
    native = compiler.module(report, kernels="native").native
    assert native is not None and min(native.least) > 100
    module = tuned(report, native=native, times=fastest(place))
    assert module.native == (replace(native, least=(100, 100)) if place else None)
    without = "plain operations, which took less than the kernel in C"
    assert (module.figures[-1] == without) != bool(place)


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "false")  # files look for it when they are imported
    report = einc.load("monarch").analyze(48, 80, tokens=100, certify=False)
    native = compiler.module(report, kernels="native").native
    with pytest.raises(UsageError, match="does not compile the kernel"):
        tuned(report, native=native, times=fastest(0))


def test_command(tmp_path: Path):
    """The real one, on a small layer: the file says that it was tuned, and runs."""
    path = tmp_path / "tuned.py"
    command = [sys.executable, "-m", "einc", "codegen", "monarch", "--in", "64"]
    command += ["--tune", "--tokens", "64", "-o", str(path)]
    subprocess.run(command, check=True, timeout=120)
    assert "    tuned for float32 on " in path.read_text()
    code = "import tuned, torch; print(tuned.Monarch64x64()(torch.ones(2, 64)).shape)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
