"""Certified ranks: whole families, each reduction alone, limits, interrupts."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from ranks import RANDOM, Sample, drawn, eliminated, family, judge, matrix
from structures import Case, exact
from terminal import COMMAND, Ended, call, children, environment

import einc
from einc.analysis import certificate, elimination
from einc.analysis.certificate import certified, problem
from einc.analysis.elimination import Map, rank_modulo_prime
from einc.analysis.rank import core_of, rank
from einc.analysis.reduction import Core, reduced
from einc.sizes import Binding, bind

# Families


def test_a_share_of_the_paper_s_family() -> None:
    """`ranks.py` runs all 78,125."""
    samples = random.Random(5).sample(list(family()), 400)
    for sample in samples:
        assert judge(sample)[1] == "", sample.text


@pytest.mark.parametrize("kind", RANDOM)
def test_a_share_of_random_structures(kind: str) -> None:
    found = [judge(sample) for sample in drawn(kind, 120, seed=1)]
    assert {fault for _, fault in found} == {""}
    assert sum(how == "refused" for how, _ in found) < 12


# What analysis.md promises


@pytest.mark.parametrize(
    ("text", "features", "found", "bound"),
    [
        (
            "y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]\n"
            "a, b, g = 2  d1, e = 3  f, r = 1",
            (8, 9),
            7,
            8,
        ),
        (
            "y[p, q] = x[a, q] * A[a, r] * C[r, p]\n"
            "y[p, q] += x[p, b] * B[b, s] * D[s, q]\n"
            "a, b, p, q = 8  r, s = 4",
            (64, 64),
            48,
            64,
        ),
        (
            "y[o] = x[i] * U[i, r] * V[r, o] * U[i, s] * V[s, o]  i, o = 8  r, s = 2",
            (8, 8),
            3,
            4,
        ),
        ("y[g, o] = x[g, i] * W[g, i, o]  g = 20  i = 50  o = 51", (1000, 1000), 981, 1000),
    ],
)  # fmt: skip
def test_known_ranks_below_the_bound(
    text: str, features: tuple[int, int], found: int, bound: int
) -> None:
    structure = einc.parse(f"structure s {{ {text} }}")
    first, again = (structure.analyze(*features).to_json()["rank"] for _ in range(2))
    assert first == again
    assert (first["generic"], first["bound"], first["status"]) == (
        found,
        bound,
        "probable",
    )
    assert first["least"] == found
    assert first["method"].startswith("elimination of ")


def test_a_routed_structure_has_the_rank_of_its_active_set() -> None:
    text = "y[o] = x[i] * U[i, r, k] * V[r, o, k]  r = 3  k = 8  route k top 2"
    found = einc.parse(f"structure s {{ {text} }}").analyze(32, 32).figures.rank
    assert (found.generic, found.status) == (6, "proved")


# Each reduction alone, on the term that no reduction changes and whose rank is 7

X, Y = {"a", "b", "g"}, {"p", "e"}
FACTORS = [{"a", "g", "p"}, {"b", "g", "e"}]
SIZES = {"a": 2, "b": 2, "g": 2, "p": 3, "e": 3}


def core(
    x: set[str], y: set[str], factors: list[set[str]], sizes: dict[str, int]
) -> Core:
    numbers = {name: n for n, name in enumerate(sizes)}
    numbered = [[numbers[i] for i in sorted(t)] for t in (x, y, *factors)]
    return reduced(
        *numbered[:2], numbered[2:], {numbers[i]: s for i, s in sizes.items()}
    )


def rank_of(
    x: set[str], y: set[str], factors: list[set[str]], sizes: dict[str, int]
) -> int:
    """By elimination of the whole matrix, by other code."""
    refs = [
        f"{n}[{', '.join(sorted(f))}]" for n, f in zip("ABCD", factors, strict=False)
    ]
    equation = (
        f"y[{', '.join(sorted(y))}] = x[{', '.join(sorted(x))}] * {' * '.join(refs)}"
    )
    return eliminated(matrix(Sample((equation,), sizes, 10**6, 10**6), seed=1))


def test_nothing_reduces_the_counterexample() -> None:
    left = core(X, Y, FACTORS, SIZES)
    assert (left.used, left.why_full, left.multiplier) == ((), "", 1)
    assert rank_of(X, Y, FACTORS, SIZES) == 7


@pytest.mark.parametrize(
    ("name", "x", "y", "factors", "sizes", "expected"),
    [
        ("drop", X, Y, [FACTORS[0] | {"k"}, FACTORS[1]], {"k": 5}, 7),
        ("drop", X | {"k"}, Y, FACTORS, {"k": 5}, 7),
        ("drop", X, Y, [FACTORS[0] | {"k"}, FACTORS[1] | {"k"}], {"k": 1}, 7),
        ("split", X | {"k"}, Y | {"k"}, FACTORS, {"k": 5}, 35),
        ("split", X | {"k"}, Y | {"k"}, [FACTORS[0] | {"k"}, FACTORS[1]], {"k": 5}, 35),
        ("absorb", X, Y, [*FACTORS, {"a", "p"}], {}, 7),
        ("absorb", X, Y, [*FACTORS, {"a", "b"}], {}, 7),
        ("absorb", X, Y, [*FACTORS, {"p", "e"}], {}, 7),
        ("hand over", (X - {"a"}) | {"h"}, Y, [*FACTORS, {"h", "a"}], {"h": 2}, 7),
        ("hand over", X, (Y - {"p"}) | {"h"}, [*FACTORS, {"h", "p"}], {"h": 3}, 7),
        ("join", X, Y, [{"a", "g", "t"}, {"t", "p"}, FACTORS[1]], {"t": 4}, 7),
    ],
)  # fmt: skip
def test_a_reduction_alone(
    name: str,
    x: set[str],
    y: set[str],
    factors: list[set[str]],
    sizes: dict[str, int],
    expected: int,
) -> None:
    sizes = SIZES | sizes
    left = core(x, y, factors, sizes)
    assert left.used == (name,)
    whole = core(X, Y, FACTORS, SIZES)
    shapes = [sorted(c.sizes[i] for i in f) for c in (left, whole) for f in c.factors]
    assert shapes[:2] == shapes[2:]
    assert left.multiplier * 7 == expected == rank_of(x, y, factors, sizes)


def test_merging_alone() -> None:
    x, y = {"a1", "a2", "b", "g"}, Y
    factors = [{"a1", "a2", "g", "p"}, FACTORS[1]]
    sizes = {"a1": 2, "a2": 2, "b": 4, "g": 2, "p": 5, "e": 5}
    left = core(x, y, factors, sizes)
    assert left.used == ("merge",) and sorted(left.sizes.values()) == [2, 4, 4, 5, 5]
    one = Sample(
        ("y[p, e] = x[a, b, g] * A[a, g, p] * B[b, g, e]",),
        {"a": 4, "b": 4, "g": 2, "p": 5, "e": 5},
        10**6,
        10**6,
    )
    assert rank_of(x, y, factors, sizes) == eliminated(matrix(one, 1))


@settings(max_examples=300)
@given(exact(0, 4, pads=False))
def test_reductions_keep_the_smallest_cut(case: Case) -> None:
    structure = case.load().structure
    binding = bind(structure, case.d_in, case.d_out)
    found = core_of(binding, structure.terms[0])
    assert found.multiplier * found.smallest_cut() == rank(binding).cuts[0].size


def test_where_a_term_is_narrowest() -> None:
    [cut] = einc.load("tucker").analyze(1024).figures.rank.cuts
    assert (cut.indices, cut.size) == (("r", "s"), 36)
    assert (cut.x_side, cut.y_side) == (("A", "B"), ("G", "C", "D"))
    text = call("analyze", "tucker", "--in", "1024").out
    assert "smallest cut 36: r, s, between x * A * B and G * C * D * y\n" in text
    assert (
        "smallest cut 1,024: all of x\n" in call("analyze", "btt", "--in", "1024").out
    )


# The elimination

TIED = "structure s { y[o] = x[i] * U[i, r] * U[o, r]  r ~ d }"


def tied(d: int) -> Binding:
    return bind(einc.parse(TIED).structure, d, d)


def test_a_process_of_its_own_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    binding = tied(40)
    here = certified(binding, rank(binding))
    assert (here.generic, here.status) == (40, "proved")
    monkeypatch.setattr(certificate, "IN_PROCESS", 0)
    waited: list[str] = []

    def watch(text: str):
        waited.append(text)
        return certificate.no_watch(text)

    assert certified(binding, rank(binding), watch) == here
    assert waited == ["eliminating 40 x 40, draw 1 of 2 at most"]


def test_a_process_that_dies_leaves_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "IN_PROCESS", 0)
    monkeypatch.setattr(certificate, "as_json", lambda map_, seed: "not JSON")
    found = certified(tied(40), rank(tied(40)))
    assert (found.bound, found.generic, found.status) == (40, None, "bound only")
    assert found.method.startswith("no elimination: its process failed")


@pytest.mark.parametrize(
    ("text", "d", "what"),
    [
        (TIED, 5000, "W has 25,000,000 entries, and elimination takes 16,777,216 at most"),
        (TIED.replace("r ~ d", "r = 40000"), 1000, "its factors have 80,000,000 elements"),
    ],
)  # fmt: skip
def test_what_would_take_too_long_is_not_begun(text: str, d: int, what: str) -> None:
    started = time.perf_counter()
    found = einc.parse(text).analyze(d, d).figures.rank
    assert time.perf_counter() - started < 10
    assert (found.generic, found.status) == (None, "bound only")
    assert found.method == f"no elimination: {what}"


def test_work_on_the_way_to_w_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, map_ = problem(tied(40), 40)
    assert map_.too_large == ""
    monkeypatch.setattr(elimination, "MAX_WORK", 1000)
    assert replace(map_).too_large == "W takes 128,000 multiply-adds"
    outer = einc.parse("structure s { y[o] = x[i] * A[i] * B[o] * A[i] }").structure
    _, map_ = problem(bind(outer, 40, 40), 1)
    monkeypatch.setattr(elimination, "MAX_INTERMEDIATE", 1599)
    assert map_.too_large == "an intermediate has 1,600 entries"


def test_long_sums_are_exact() -> None:
    """More summands than float64 adds exactly at once."""
    n = elimination._EXACT + 5
    import numpy as np

    rng = np.random.default_rng(0)
    left = rng.integers(elimination.PRIME - 9, elimination.PRIME, (1, 1, n))
    right = rng.integers(elimination.PRIME - 9, elimination.PRIME, (1, n, 1))
    product = elimination._matrix_product(left, right)
    exact = sum(map(int.__mul__, left.ravel().tolist(), right.ravel().tolist()))
    assert product.item() == exact % elimination.PRIME


def test_a_map_survives_json() -> None:
    import json

    _, map_ = problem(tied(6), 6)
    document = json.loads(elimination.as_json(map_, 3))
    assert Map.of(document["map"]) == map_ and document["seed"] == 3
    assert rank_modulo_prime(map_, 3) == 6


# Who waits


def started(*arguments: str, **streams: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*COMMAND, "analyze", "-e", TIED[14:-2], *arguments),
        env=environment(),
        text=True,
        start_new_session=True,
        **streams,
    )


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_an_interrupt_leaves_the_bound() -> None:
    """And no process behind."""
    process = started("--in", "4000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not children(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    began = time.perf_counter()
    out, err = process.communicate()
    assert time.perf_counter() - began < 3
    ended = Ended(process.returncode, out, err)
    assert (ended.status, ended.err) == (130, "")
    assert "rank at most 4,000 (bound only), from" in ended.out
    assert "elimination was interrupted" in ended.out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_terminal_shows_what_is_waited_for() -> None:
    ours, theirs = pty.openpty()
    process = started("--in", "1500", "--json", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate()
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "eliminating 1,500 x 1,500, draw 1 of 2 at most (Ctrl-C stops it)" in shown
    assert Ended(process.returncode, out, "").json["rank"]["status"] == "proved"


USES = ("x[i] * A[i, r] * B[r, o]", "x[i] * A[i, s] * C[s, o]")


@pytest.mark.parametrize("uses", [USES, USES[::-1]])
def test_a_tied_factor_may_be_routed_in_one_use_alone(uses: tuple[str, str]) -> None:
    """A token has two of its columns in one use and all four in the other."""
    text = f"y[o] = {uses[0]} y[o] += {uses[1]} r, s = 4 route r top 2"
    figures = einc.parse(f"structure s {{ {text} }}").analyze(12, 12).figures
    assert figures is not None
    assert (figures.rank.bound, figures.rank.generic) == (6, 4)
    assert figures.parameters.active == 12 * 4 + 2 * 12 + 4 * 12


@pytest.mark.parametrize(("top", "rank"), [(1, 3), (2, 5), (3, 6)])
def test_a_factor_may_be_tied_to_itself_where_it_is_routed(top: int, rank: int) -> None:
    """Products of a chosen column with any: each pair of columns counts once."""
    text = f"y[o] = x[i] * A[i, r] * A[i, s] * B[r, s, o] r, s = 3 route r top {top}"
    figures = einc.parse(f"structure s {{ {text} }}").analyze(12, 12).figures
    assert figures is not None
    assert figures.rank.generic == rank
