"""Singular values at initialization: against numpy, against inputs, against ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from terminal import call
from terminal import einc as command

import einc
from einc.nn.spectrum import Spectra, spectra


def found(spec: str, *shape: int, **arguments: int) -> Spectra:
    report = einc.load(spec, **arguments).analyze(*shape, certify=False)
    return spectra(report, seed=3)


def matrix(spec: str, *shape: int) -> np.ndarray:
    layer = einc.load(spec).module_class(*shape)
    before = torch.random.get_rng_state()
    torch.manual_seed(3)
    built = layer(bias=False, dtype=torch.float64)
    torch.random.set_rng_state(before)
    return built.to_dense().detach().numpy()


@pytest.mark.parametrize(
    "spec", ["btt", "kronecker", "low_rank", "low_rank_plus_block"]
)
def test_values_and_gains(spec: str) -> None:
    one = found(spec, 96, 64).structure
    w = matrix(spec, 96, 64)
    values = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(one.singular_values, values, atol=1e-12)
    x = np.random.default_rng(0).standard_normal((96, 20_000))
    rms = [np.sqrt(np.mean(np.square(part))) for part in (w @ x, x)]
    assert one.gain == pytest.approx(rms[0] / rms[1], rel=0.02)
    worst = np.linalg.svd(w)[2][0] * np.sqrt(96)  # of RMS 1
    assert one.largest_gain == pytest.approx(np.sqrt(np.mean((w @ worst) ** 2)))
    assert one.norm == pytest.approx(one.largest_gain * np.sqrt(64 / 96))
    assert one.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2)


def test_dense_is_what_random_matrices_are() -> None:
    """Marchenko and Pastur: from 0 to twice the square root of the ratio."""
    dense = found("btt", 400, 400).dense
    assert dense.norm == pytest.approx(2, abs=0.1)
    assert dense.gain == pytest.approx(1, abs=0.02)
    assert dense.stable_rank == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    "body",
    [
        "y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]"
        "  a, b, g = 2  d1, e = 3  f, r = 1",
        "y[o] = x[i] * U[i, r] * V[r, o] * U[i, s] * V[s, o]  i, o = 8  r, s = 2",
        "y[g, o] = x[g, i] * W[g, i, o]  g = 10  i = 10  o = 11",
    ],
)
def test_the_certified_rank_is_seen(body: str) -> None:
    structure = einc.parse(f"structure s {{ {body} }}")
    shape = (100, 105) if "W" in body else ()
    report = structure.analyze(*shape)
    assert report.figures is not None
    rank = report.figures.rank
    assert rank.status == "probable" and rank.generic < rank.bound
    values = spectra(report).structure.singular_values
    assert sum(value > 1e-9 * values[0] for value in values) == rank.generic


def test_a_routed_structure_under_equal_gates() -> None:
    one = found("dense_moe", 64).structure
    torch.manual_seed(3)
    layer = einc.load("dense_moe").module_class(64)(bias=False, dtype=torch.float64)
    experts = layer.W.detach().numpy()
    values = np.linalg.svd((experts[0] + experts[1]).T / 2, compute_uv=False)
    np.testing.assert_allclose(one.singular_values, values, atol=1e-12)


def test_drawing_leaves_torch_s_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = found("btt", 64)
    assert torch.equal(torch.rand(3), expected)
    assert first == found("btt", 64)


def test_the_command_shows_both() -> None:
    given = ("analyze", "kronecker", "--in", "64", "--spectrum")
    assert "RMS gain, worst input" in command(*given).out
    document = command(*given, "--json").json["spectrum"]
    assert set(document) == {"seed", "structure", "dense"}
    keys = {"spectral_norm", "gain", "largest_gain", "stable_rank", "singular_values"}
    assert set(document["structure"]) == set(document["dense"]) == keys
    assert len(document["structure"]["singular_values"]) == 64
    assert "spectrum" not in command(*given[:-1], "--json").json


def test_a_picture_is_the_same_each_time(tmp_path: Path) -> None:
    names = ("a.svg", "b.svg", "c.png", "d.png")
    for name in names:
        ended = call("analyze", "btt", "--in", "64", "--plot", name, cwd=tmp_path)
        assert (ended.status, ended.err) == (0, "")
    a, b, c, d = ((tmp_path / name).read_bytes() for name in names)
    assert a == b and c == d
    assert c.startswith(b"\x89PNG") and ElementTree.fromstring(a).tag.endswith("svg")
    again = call("analyze", "btt", "--in", "64", "--plot", "a.svg", cwd=tmp_path)
    assert (again.status, again.err) == (
        2,
        "error: `a.svg` exists; --force replaces it\n",
    )
    forced = ("analyze", "btt", "--in", "32", "--plot", "a.svg", "--force")
    assert call(*forced, cwd=tmp_path).status == 0
    assert (tmp_path / "a.svg").read_bytes() != a


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("btt --spectrum", "a spectrum needs features: give --in"),
        ("btt --in 64 --plot a.gif", "pictures end in one of .png, .svg, .pdf, not `a.gif`"),
        (
            "btt --in 8192 --spectrum",
            "a spectrum takes matrices of up to 16,777,216 entries, not 8,192 x 8,192",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn(arguments: str, message: str, tmp_path: Path) -> None:
    ended = call("analyze", *arguments.split(), cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_plots_need_matplotlib_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ended = call("analyze", "btt", "--in", "64", "--plot", "a.png", cwd=tmp_path)
    assert ended.status == 2
    assert ended.err == (
        "error: plots need matplotlib: pip install matplotlib, or einc[plot]\n"
    )
