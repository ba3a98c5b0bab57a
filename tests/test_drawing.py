"""Drawings say all there is to say, and nothing in them is in the way of another.

What is where is asked of matplotlib's own renderer.
"""

from __future__ import annotations

import itertools
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch, PathPatch
from structures import Case, any_case, routed
from test_imports import imports_of

import einc
from einc import compiler, library
from einc.analysis.profile import Profile
from einc.drawing.columns import Columns
from einc.drawing.figure import draw
from einc.drawing.figure import figure as figure_of
from einc.drawing.labels import MAX_NAME, Labels, wrapped
from einc.drawing.layered import Node, place, spaced
from einc.drawing.picture import MAX_AREA, MAX_SIDE
from einc.plots import FORMATS

Array = np.ndarray
DPI = 150
SLACK = 0.75
"""Pixels by which a box may be off."""


class Drawn:
    """A figure as its renderer sees it, in pixels: rectangles are x0, y0, x1, y1."""

    def __init__(self, profile: Profile) -> None:
        figure = figure_of(profile)
        figure.set_dpi(DPI)
        renderer = FigureCanvasAgg(figure).get_renderer()
        self.inches = tuple(figure.get_size_inches())
        (axes,) = figure.axes
        self.words = [text.get_text() for text in axes.texts]
        self.texts = np.array(
            [text.get_window_extent(renderer).extents for text in axes.texts]
        )
        boxes, lines = [], []
        for patch in axes.patches:
            path = patch.get_transform().transform_path(patch.get_path())
            if isinstance(patch, FancyBboxPatch):
                boxes.append(path.get_extents().extents)
            elif isinstance(patch, PathPatch):
                lines += [pieces(line) for line in path.to_polygons(closed_only=False)]
        self.boxes = np.array(boxes)
        self.lines = np.concatenate(lines) if lines else np.zeros((0, 4))

    def collisions(self) -> Iterator[str]:
        """What lies on something else or outside of the figure."""
        width, height = (DPI * side for side in self.inches)
        page = np.array([0, 0, width, height])
        out = (self.texts - page) * [1, 1, -1, -1] < 0
        for number in np.flatnonzero(out.any(axis=1)):
            yield f"{self.words[number]!r} is cut off"
        for one, other in on(self.texts, self.texts):
            if one < other:
                yield f"{self.words[one]!r} on {self.words[other]!r}"
        for one, other in on(self.boxes, self.boxes):
            if one < other:
                yield f"a box on a box at {self.boxes[one]}"
        # A label stands on its line, as close as letters go below their base line.
        down = 0.1 * (self.texts[:, 3] - self.texts[:, 1])
        inner = self.texts + np.outer(down, [0, 1, 0, -1])
        for number in {text for _, text in on(self.lines, inner)}:
            yield f"a line through {self.words[number]!r}"


def on(ones: Array, others: Array) -> Iterator[tuple[int, int]]:
    """The numbers of each two rectangles that lie on each other.

    One that is thin, as a line, is on another if its middle is inside.
    """
    middles = (ones[:, :2] + ones[:, 2:]) / 2
    for number, other in enumerate(others):
        low = np.maximum(ones[:, :2], other[:2])
        high = np.minimum(ones[:, 2:], other[2:])
        inside = (middles > other[:2] + SLACK) & (middles < other[2:] - SLACK)
        found = (high - low > SLACK).all(axis=1) | inside.all(axis=1)
        yield from ((int(one), number) for one in np.flatnonzero(found))


def pieces(line: Array) -> Array:
    """A line in pieces of a few pixels, as rectangles that are hardly more than it."""
    points = [line[:1]]
    for start, end in itertools.pairwise(line):
        count = max(int(np.abs(end - start).max() / 4), 1)
        shares = np.arange(1, count + 1)[:, None] / count
        points.append(start + (end - start) * shares)
    found = np.concatenate(points)
    ends = np.stack([found[:-1], found[1:]])
    return np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1)


def check(profile: Profile) -> Drawn:
    """Everything that holds of every drawing."""
    drawn = Drawn(profile)
    assert list(drawn.collisions()) == []
    width, height = drawn.inches
    assert max(width, height) <= MAX_SIDE * 1.001
    assert width * height <= MAX_AREA * 1.001
    labels, joined = Labels(profile), "".join(drawn.words).replace(" ", "")
    for axis in profile.structure.axes:
        assert labels.index(axis) in drawn.words
    tensors = 0
    for term in profile.structure.terms:
        tensors += 2 + len(term.operands)
        for name in ("x", "y", *(operand.name for operand in term.operands)):
            assert labels.name(name) in drawn.words
        for axes in (*term.sides, *(operand.axes for operand in term.operands)):
            assert labels.shape(axes).replace(" ", "") in joined
    assert len(drawn.boxes) >= tensors
    steps = zip(profile.plan.steps, profile.steps, strict=True)
    for number, ((term, step), report) in enumerate(steps, start=1):
        assert str(number) in drawn.words
        assert report.einsum in joined
        assert labels.result(term, step).replace(" ", "") in joined
        for text in labels.cost(step, report):
            assert text.replace(" ", "") in joined
    return drawn


def analyzed(text: str, d_in: int | None = None, d_out: int | None = None) -> Profile:
    return compiler.analyze(einc.parse(text).structure, d_in, d_out)


def of_library(name: str, d_in: int | None = None) -> Profile:
    return compiler.analyze(compiler.load(name), d_in)


BOTH = pytest.mark.parametrize("d_in", [None, 768])


@BOTH
@pytest.mark.parametrize("name", library.NAMES)
def test_library(name: str, d_in: int | None) -> None:
    drawn = check(of_library(name, d_in))
    # As it is printed in a paper, or on a page on its side.
    assert max(drawn.inches) < 8


@settings(max_examples=25)
@given(st.one_of(any_case(most=6), routed()), st.booleans())
def test_random_structures(case: Case, sized: bool) -> None:
    features = (case.d_in, case.d_out) if sized else (None, None)
    check(compiler.analyze(case.load().structure, *features))


# Hard cases


def chain(factors: int = 12) -> str:
    uses = " * ".join(f"F{k}[i{k}, i{k + 1}]" for k in range(factors))
    sizes = "\n".join(f"i{k} = 3" for k in range(1, factors))
    return f"structure chain {{ y[i{factors}] = x[i0] * {uses}\n{sizes} }}"


def mesh(terms: int, factors: int = 12, indices: int = 26, long: str = "") -> str:
    """Every factor with indices of its own choice, up to the limits of the language."""
    equations, used = [], {}
    for term in range(terms):
        names = [f"{long}i{term}_{k}" for k in range(indices)]
        x, y = names[:5], names[3:8]
        held = [
            dict.fromkeys(
                names[(7 * k * k + 3 * j) % indices] for j in range(1 + k % 9)
            )
            for k in range(factors - 1)
        ]
        held.append(dict.fromkeys(names[3:]))
        refs = [f"{long}F{term}_{k}[{', '.join(own)}]" for k, own in enumerate(held)]
        sign = "+=" if term else "="
        uses = " * ".join(refs)
        equations.append(f"y[{', '.join(y)}] {sign} x[{', '.join(x)}] * {uses}")
        used |= dict.fromkeys(names)
    sizes = "\n".join(f"{name} = 2" for name in used)
    return "structure mesh { " + "\n".join(equations) + f"\n{sizes} }}"


HARD = {
    "identity": "y[i] = x[i]",
    "permuted": "y[b, a] = x[a, b]  a ~ d_in^(1/2)  b ~ d_in^(1/2)",
    "summed": "y[a] = x[a, b]  b = 3",
    "scalar": "y[] = x[] * A[]",
    "apart": "y[i] = x[i] * A[p, q] * B[q] * C[r]  p, q, r = 3",
    "loose": "y[o] = x[i] * W[i, o] * A[a, b] * B[b, c] * C[c, i]  a, b, c = 3",
    "parallel": "y[o] = x[i] * A[i, p, q, r, s] * B[p, q, r, s, o]  p, q, r, s = 2",
    "upright": "y[o, p] = x[i, j] * A[i, o, q, r] * B[q, r, j, p]  i, j, o, p, q, r = 2",
    "ring": """y[o, p, q] = x[a, b, c] * A[a, o, r, t] * B[b, p, r, s] * C[c, q, s, t]
        a, b, c, o, p, q, r, s, t = 2""",
    "tied": "y[o] = x[i] * U[i, r] * U[o, r]  r ~ d / 8  normalize all",
    "shared": """y[p, q] = x[j, k] * A[j, p] * B[k, q]
        y[p, q] += x[j, k] * A[j, p] * E[p, k, r] * F[p, r, q]  j, p, k, q, r = 4""",
    "repeated": "y[o] = x[i] * W[i, o]  y[o] += x[i] * W[i, o]",
    "routed": "y[o] = x[i] * A[r, i, k] * B[r, k, l] * C[r, l, o]  k, l = 2  r = 8"
    "  route r top 2",
    "terms": "\n".join(
        f"y[o{k}] {'+' * bool(k)}= x[a{k}] * A{k}[a{k}, r{k}] * B{k}[r{k}, o{k}] "
        f"r{k} = {k + 2}"
        for k in range(8)
    ),
}


@BOTH
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name: str, d_in: int | None) -> None:
    fixed = name in ("scalar", "upright", "ring", "shared")
    text = f"structure s {{ {HARD[name]} }}"
    check(analyzed(text, None if fixed else d_in))


def test_twelve_factors_in_a_row() -> None:
    drawn = check(analyzed(chain(), 64))
    assert drawn.inches[0] < 20


@pytest.mark.parametrize("terms", [1, 8])
def test_all_limits_at_once(terms: int) -> None:
    check(analyzed(mesh(terms)))


def test_long_names() -> None:
    profile = analyzed(mesh(1, 5, 9, long="a_name_that_does_not_fit_anywhere_"))
    labels, structure = Labels(profile), profile.structure
    names = [axis.name for axis in structure.axes]
    names += [factor.name for factor in structure.factors]
    shown = {labels.name(name) for name in names}
    assert len(shown) == len(names)
    assert max(map(len, shown)) <= MAX_NAME
    check(profile)


def test_names_that_are_cut_alike() -> None:
    """Also once more is cut off to give them a number."""
    names = [
        f"a{'b' * n}{letter}{'b' * 30}{'c' * 4}" for n in (2, 7, 9) for letter in "de"
    ]
    names += [f"{name[:12]}{'z' * k}{name[12:]}" for name in names for k in range(1, 4)]
    sizes = f"{', '.join(names)} = 2"
    text = f"structure s {{ y[o] = x[i] * W[i, {', '.join(names)}, o] {sizes} }}"
    profile = analyzed(text)
    labels = Labels(profile)
    shown = {labels.name(axis.name) for axis in profile.structure.axes}
    assert len(shown) == len(names) + 2
    assert max(map(len, shown)) <= MAX_NAME


def test_names_without_end() -> None:
    """Equal where they are cut, and far longer than a line."""
    name = "a" * 5000
    text = f"""structure {name} ({name}p = 2) {{
      y[{name}o] = x[{name}i] * {name}A[{name}i, {name}z{name}] *
        {name}B[{name}z{name}, {name}y{name}, {name}o]
      {name}z{name}, {name}y{name} = {name}p
    }}"""
    profile = analyzed(text, 16)
    labels = Labels(profile)
    assert len({labels.name(axis.name) for axis in profile.structure.axes}) == 4
    assert max(check(profile).inches) < 12


# What is shown


def words(text: str, *features: int) -> list[str]:
    return check(analyzed(f"structure s {{ {text} }}", *features)).words


def test_sizes_or_exponents() -> None:
    text = "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e] r = 2"
    text += " g, a ~ d_in^(1/2) f, e ~ d_out^(1/2)"
    assert {"g=32", "a=32", "r=2", "1024 → 1024 features, 4,096 tokens a call"} <= set(
        words(text, 1024)
    )
    assert {"g ~ $d^{1/2}$", "r=2", "g*a*f*r", "~ $d^{3/2}$"} <= set(words(text))


def test_costs_and_their_sum() -> None:
    shown = words("y[o] = x[i] * U[i, r] * V[r, o]  r = 4", 64)
    assert shown.count("256") == 2
    assert {"z[r] = x * U", "...i,ir->...r", "all steps", "512"} <= set(shown)


def test_exponents_in_the_title() -> None:
    assert (
        "ω = 0, ψ = 1/2, ν = 1/2 (low-rank unshared)"
        in check(of_library("low_rank")).words
    )
    assert "ψ = 1 (full-rank unshared)" in words("y[i] = x[i]")
    assert not any("ψ" in text for text in words("y[o] = x[i] * W[i, o]  i, o = 4"))


def test_routed_index() -> None:
    drawn = check(of_library("btt_moe", 1024))
    assert "r=8, top 2" in drawn.words
    svg = draw(of_library("btt_moe", 1024), "svg").decode()
    assert "stroke-dasharray" in svg
    assert "stroke-dasharray" not in draw(of_library("btt"), "svg").decode()


def test_tied_and_normalized_factors() -> None:
    assert words(HARD["tied"]).count("tied, normalized") == 2


def test_what_is_computed_once() -> None:
    """A leaf of the second tree is what the first one has computed."""
    shown = words(HARD["shared"])
    assert "z1" in shown
    assert {"1", "2", "3", "4"} <= set(shown) and "5" not in shown
    assert "y1, as before" in words(HARD["repeated"])


def test_terms_without_a_step() -> None:
    assert "x, as it is" in words(HARD["identity"])
    assert "x, summed over b" in words(HARD["summed"])


def test_a_plus_between_terms() -> None:
    assert words(HARD["terms"]).count("+") == 7


# The files


@pytest.mark.parametrize("format", FORMATS)
def test_same_bytes(format: str) -> None:
    for name in ("btt", "multi_level_low_rank", "btt_moe"):
        one, other = (draw(of_library(name, 768), format) for _ in range(2))
        assert one == other


def test_formats() -> None:
    profile = of_library("blast", 768)
    png = draw(profile, "png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = struct.unpack(">II", png[16:24])
    inches = Drawn(profile).inches
    assert all(abs(p - 150 * i) < 2 for p, i in zip(pixels, inches, strict=True))
    assert draw(profile, "pdf").startswith(b"%PDF-")
    svg = ElementTree.fromstring(draw(profile, "svg"))
    assert svg.tag.endswith("svg")


@cache
def colours(name: str) -> set[str]:
    svg = draw(of_library(name, 768), "svg").decode()
    assert not re.search(r"(rgb|hsl)a?\(", svg)
    return set(re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r'"#\w+"|\(#\w+\)', "", svg)))


@pytest.mark.parametrize("name", library.NAMES)
def test_greys_alone(name: str) -> None:
    found = colours(name)
    assert found
    for colour in found:
        red, green, blue = (colour[i : i + 2] for i in (1, 3, 5))
        assert red == green == blue, colour


def test_large_images_are_bounded() -> None:
    width, height = struct.unpack(">II", draw(analyzed(mesh(2)), "png")[16:24])
    assert width * height <= MAX_AREA * DPI**2 * 1.01


def test_matplotlib_waits() -> None:
    assert not imports_of("import einc.drawing.figure") & {
        "matplotlib",
        "numpy",
        "torch",
    }


# Where things go


def columns(name: str) -> list[list[list[str]]]:
    """The names of the tensors by column and chain."""
    (term,) = compiler.load(name).terms
    found = Columns(term)
    return [
        [[found.names[tensor] for tensor in chain] for chain in column]
        for column in found.columns
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense", "x W y"),
        ("low_rank", "x U V y"),
        ("monarch", "x A B y"),
        ("btt", "x A B y"),
        ("butterfly3", "x A B C y"),
        ("kronecker", "x A|B y"),
        ("tensor_train4", "x A-B-C-D y"),
        ("cp", "x A|B C|D y"),
        ("tucker", "x A|B G C|D y"),
        ("blast", "x V S U y"),
    ],
)
def test_columns(name: str, expected: str) -> None:
    shown = " ".join("|".join("-".join(c) for c in column) for column in columns(name))
    assert shown == expected


def test_crossings_are_taken_out() -> None:
    """A ladder whose rungs were written in the wrong order."""
    rungs = 6
    nodes = [Node(5, 5)] * (2 * rungs)
    left = [(i,) for i in range(rungs)]
    right = [(rungs + i,) for i in range(rungs)]
    edges = [(i, rungs + (5 * i + 2) % rungs) for i in range(rungs)]
    placed = place(nodes, [left, right], edges)
    for one, other in edges:
        assert placed.nodes[one] == pytest.approx(placed.nodes[other])


@given(
    st.lists(
        st.tuples(st.floats(-99, 99), st.floats(0.1, 9), st.floats(0, 9)), min_size=1
    )
)
def test_spaced(wishes: list[tuple[float, float, float]]) -> None:
    wanted, weights, gaps = zip(*wishes, strict=True)
    found = spaced(wanted, weights, gaps[1:])
    for (one, other), gap in zip(itertools.pairwise(found), gaps[1:], strict=True):
        assert other - one >= gap - 1e-9
    apart = zip(np.diff(wanted), gaps[1:], strict=True)
    if all(distance >= gap for distance, gap in apart):
        assert found == pytest.approx(list(wanted))


def test_wrapped() -> None:
    text = "z1[a, b, c] = x * Factor"
    for length in range(1, 30):
        lines = wrapped(text, length)
        assert " ".join(lines) == text
        assert all(len(line) <= max(length, len("c] = x *")) for line in lines)
