"""The space that is searched: hypergraphs, their exponents, and what is best of them.

Hypergraphs are counted by a second method and against a list made in another way;
exponents against the analysis of the text that a row becomes; extremes against grids,
and at concrete sizes by elimination and torch's own FLOP counter.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc import compiler
from einc.family import family
from einc.search import grid
from einc.search.candidates import Candidate
from einc.search.extremes import Programs
from einc.search.forms import Forms
from einc.search.hypergraphs import Space, count
from einc.search.linear import Row, Unbounded, minimize
from einc.search.wishes import Exponent, Limit, limit

SPACES = [
    Space(1),
    Space(1, both=True),
    Space(2),
    Space(2, both=True),
    Space(3),
    Space(4, max_indices=6),
]


def limits(*texts: str) -> tuple[Limit, ...]:
    """Limits such as `psi=1`."""
    found = []
    for text in texts:
        name: Exponent = next(n for n in ("omega", "psi", "nu") if text.startswith(n))
        found.append(limit(name, text.removeprefix(name)))
    return tuple(found)


# Hypergraphs


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_classes_are_as_many_as_burnside_counts(space: Space):
    masks = [beginning.masks for beginning in space.beginnings()]
    assert sum(map(len, masks)) == count(space)


def test_all_classes_of_four_factors():
    space = Space(4)
    assert sum(len(b.masks) for b in space.beginnings()) == count(space) == 5_139_162


@pytest.mark.parametrize("both", [False, True])
def test_the_classes_of_two_factors_are_these(both: bool):
    """Against sets of sets of tensors, taken as the least of their renamings."""
    tensors = ("x", "y", "A", "B")
    possible = [
        frozenset(some)
        for size in (2, 3, 4)
        for some in combinations(tensors, size)
        if both or not {"x", "y"} <= set(some)
    ]

    def renamed(edges: frozenset[frozenset[str]]) -> frozenset[frozenset[str]]:
        swap = {"A": "B", "B": "A"}
        return frozenset(frozenset(swap.get(t, t) for t in edge) for edge in edges)

    expected = set()
    for size in range(1, len(possible) + 1):
        for some in combinations(possible, size):
            edges = frozenset(some)
            if set().union(*edges) == set(tensors):
                key = min(sorted(map(sorted, e)) for e in (edges, renamed(edges)))
                expected.add(str(key))
    space = Space(2, both)
    found = []
    for beginning in space.beginnings():
        for mask in beginning.masks.tolist():
            chosen = [index for i, index in enumerate(space.indices) if mask >> i & 1]
            edges = frozenset(
                frozenset(
                    ["x"] * index.x
                    + ["y"] * index.y
                    + [name for f, name in enumerate("AB") if index.factors >> f & 1]
                )
                for index in chosen
            )
            key = min(sorted(map(sorted, e)) for e in (edges, renamed(edges)))
            found.append(str(key))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_the_grid_has_each_structure_once():
    """Against all vectors of two factors, disguised ones and renamings left out."""
    space, parts = Space(2), 3
    seen: set[tuple[int, ...]] = set()
    swap = space.renamings[1]
    columns = len(space.indices)
    for row in product(range(parts + 1), repeat=columns):
        sides = (space.x, space.y)
        if any(sum(v for i, v in enumerate(row) if s >> i & 1) != parts for s in sides):
            continue
        own = [
            {i for i, v in enumerate(row) if v and held >> i & 1} for held in space.held
        ]
        if own[0] <= own[1] or own[1] <= own[0]:
            continue
        rests = [sum(row[i] for i in own[f] - own[1 - f]) for f in (0, 1)]
        if row[-1] and row[-1] >= min(rests):
            continue
        image = [0] * columns
        for i, v in enumerate(row):
            image[swap[i]] = v
        seen.add(min(row, tuple(image)))
    found = [
        min(tuple(row), tuple(np.array(row)[list(np.argsort(swap))].tolist()))
        for beginning in space.beginnings()
        for rows in grid.rows(space, beginning, parts)
        for row in rows.tolist()
    ]
    # A hypergraph that a renaming keeps may come with both of two mirrored rows.
    assert set(found) == seen


# Exponents


@st.composite
def rows(draw: st.DrawFn) -> tuple[Space, list[int], int]:
    """Numerators of thetas for a space, each factor with an index, and the parts."""
    space = draw(
        st.sampled_from([Space(1), Space(2), Space(2, True), Space(3), Space(4)])
    )
    parts = draw(st.integers(1, 6))
    row = [0] * len(space.indices)
    both = [i for i, index in enumerate(space.indices) if index.x and index.y]
    shared = draw(st.integers(0, parts)) if both else 0
    for mask, amount in ((0, shared), (space.x, None), (space.y, None)):
        places = (
            both
            if amount is not None
            else [i for i in range(len(row)) if mask >> i & 1 and i not in both]
        )
        for _ in range(parts - shared if amount is None else amount):
            row[draw(st.sampled_from(places))] += 1
    inner = [i for i, index in enumerate(space.indices) if not (index.x or index.y)]
    for i in draw(st.lists(st.sampled_from(inner), max_size=4)) if inner else ():
        row[i] = draw(st.integers(1, parts))
    return space, row, parts


def uses_all(space: Space, row: list[int]) -> bool:
    return all(
        any(v for i, v in enumerate(row) if held >> i & 1) for held in space.held
    )


@settings(max_examples=200, deadline=None)
@given(rows().filter(lambda case: uses_all(case[0], case[1])))
def test_exponents_are_those_of_the_analysis(case: tuple[Space, list[int], int]):
    space, row, parts = case
    forms = Forms(space)
    found = forms.exponents(np.array([row], np.int8), parts)
    candidate = Candidate.of(forms, [Fraction(n, parts) for n in row])
    structure = einc.parse(candidate.text("random"))
    best = structure.analyze().exponents.best
    assert best.omega == Fraction(int(found.omega[0]), parts)
    assert best.psi == Fraction(int(found.psi[0]), parts)
    assert best.nu == Fraction(int(found.nu[0]), parts)


@settings(max_examples=100, deadline=None)
@given(rows().filter(lambda case: uses_all(case[0], case[1])), st.integers(1, 3))
def test_figures_are_those_of_the_analysis(
    case: tuple[Space, list[int], int], base: int
):
    """Where all sizes are whole powers, estimates are the figures themselves."""
    space, row, parts = case
    base = min(base, max(1, 6 // parts))
    d = 2 ** (parts * base)
    forms = Forms(space)
    found = forms.estimates(np.array([row], np.int8), parts, d, d)
    candidate = Candidate.of(forms, [Fraction(n, parts) for n in row])
    sizes = "".join(
        f"  {name} = {2 ** int(base * parts * theta)}\n"
        for (_, theta), name in zip(
            candidate.indices, candidate.names().values(), strict=True
        )
    )
    text = candidate.text("random").split("\n")[:2]
    exact = einc.parse("\n".join(text) + "\n" + sizes + "}")
    profile = exact.analyze(order="given", certify=False)
    assert profile.figures is not None
    assert found.params[0] == pytest.approx(profile.figures.parameters.total, rel=1e-9)
    assert found.rank[0] == pytest.approx(profile.figures.rank.bound, rel=1e-9)
    orders = [
        sum(d_power(row, touched, d, parts) for touched in forms.touched(order))
        for order in permutations(range(space.factors))
    ]
    assert found.macs[0] == pytest.approx(min(orders), rel=1e-9)


def d_power(row: list[int], mask: int, d: int, parts: int) -> float:
    return float(d) ** (sum(v for i, v in enumerate(row) if mask >> i & 1) / parts)


@pytest.mark.parametrize(
    ("parts", "thetas", "classes", "within"), [(4, 1125, 29, 17), (6, 5488, 60, 36)]
)
def test_the_papers_family_on_a_grid(
    parts: int, thetas: int, classes: int, within: int
):
    """All seven exponents of y[d,e,f] = x[a,b,g] A[a,g,d,f,r] B[b,g,e,f,r]."""
    space = Space(2)
    side = [v for v in product(range(parts + 1), repeat=3) if sum(v) == parts]
    family = np.array(
        [(*x, *y, r) for x in side for y in side for r in range(parts + 1)], np.int8
    )
    assert len(family) == thetas
    found = Forms(space).exponents(family, parts)
    triples = set(zip(*(values.tolist() for values in found), strict=True))
    assert len(triples) == classes
    assert sum(nu <= parts for _, _, nu in triples) == within


# Linear programs


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[Row]]:
    """Bounded above by the last row."""
    variables = draw(st.integers(1, 4))
    small = st.integers(-3, 3)
    several = st.lists(small, min_size=variables, max_size=variables)
    rows = draw(
        st.lists(st.builds(Row, several.map(tuple), st.integers(-4, 6)), max_size=5)
    )
    return draw(several), [*rows, Row((1,) * variables, 10)]


@given(programs())
def test_least_values_are_proved_by_the_dual(program: tuple[list[int], list[Row]]):
    """No feasible point costs less than a feasible point of the dual program is worth,
    so where both are equal both are best."""
    cost, rows = program
    found = minimize(cost, rows)
    dual_rows = [
        Row(tuple(-row.coefficients[j] for row in rows), c) for j, c in enumerate(cost)
    ]
    bounds = [row.bound for row in rows]
    if found is None:
        with pytest.raises(Unbounded):
            minimize(bounds, [Row(r.coefficients, 100) for r in dual_rows])
        return
    value, x = found
    assert all(v >= 0 for v in x)
    for row in rows:
        assert sum(c * v for c, v in zip(row.coefficients, x, strict=True)) <= row.bound
    assert value == sum(c * v for c, v in zip(cost, x, strict=True))
    dual = minimize(bounds, dual_rows)
    assert dual is not None and -dual[0] == value


# Extremes


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
def test_the_least_work_without_sharing_at_full_rank(factors: int):
    """1/n with n factors, of which a structure is built, ranked and counted."""
    forms = Forms(Space(factors))
    least = Programs(forms).least({"nu": 1}, limits("psi=1", "omega=0"))
    assert least is not None and least.value == Fraction(1, factors)
    candidate = Candidate.of(forms, least.thetas)
    d = {1: 256, 2: 1024, 3: 512, 4: 1296}[factors]
    report = compiler.certify(compiler.analyze(candidate.structure("least"), d, d))
    assert report.figures is not None
    assert report.figures.rank.generic == d and report.figures.rank.status == "proved"
    expected = factors * d * round(d ** (1 / factors))
    assert report.figures.work.matrix == expected
    module = einc.parse(candidate.text("least")).module_class(d, d)(bias=False)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(3, d))
    assert counter.get_total_flops() == 3 * 2 * expected


def test_monarch_and_its_mirror_images_reach_one_half():
    forms = Forms(Space(2))
    reached = set()
    for beginning in forms.space.beginnings():
        for rows in grid.rows(forms.space, beginning, 2):
            found = forms.exponents(rows, 2)
            best = (found.omega == 0) & (found.psi == 2) & (found.nu == 1)
            for row in rows[best]:
                candidate = Candidate.of(forms, [Fraction(int(n), 2) for n in row])
                reached.add(family(candidate.structure("s")))
                profile = einc.parse(candidate.text("s")).analyze(256, 256)
                assert profile.figures.rank.generic == 256
                assert profile.figures.work.matrix <= 2 * 256 * 16
    assert "monarch" in reached


@pytest.mark.parametrize("nu", ["1/2", "3/4", "1"])
@pytest.mark.parametrize("omega", ["0", "1/4", "1/2"])
def test_the_region_at_full_rank_is_a_rectangle(nu: str, omega: str):
    programs = Programs(Forms(Space(2)))
    wanted = limits("psi=1", f"nu={nu}", f"omega={omega}")
    assert programs.least({}, wanted) is not None


@pytest.mark.parametrize(
    ("weights", "wanted", "value"),
    [
        ({"nu": 1}, ("psi=1", "nu<=1"), "1/2"),
        ({"omega": -1}, ("psi=1", "nu<=1"), "-1/2"),
        ({"omega": 1}, ("psi=1",), "0"),
        ({"nu": 1}, ("psi=1/2",), "1/4"),
        ({"nu": -1}, ("psi=1/2", "nu<=1", "omega=0"), "-1/2"),
        ({"omega": -1, "nu": -1}, ("psi=1/2", "nu<=1/2"), "-1/2"),
        ({"psi": -1}, ("nu<=1/4",), "-1/2"),
    ],
)
def test_the_ends_of_the_region(
    weights: dict[Exponent, int], wanted: tuple[str, ...], value: str
):
    found = Programs(Forms(Space(2))).least(weights, limits(*wanted))
    assert found is not None and found.value == Fraction(value)


def test_nothing_is_best_where_limits_leave_nothing():
    assert Programs(Forms(Space(2))).least({}, limits("psi=1", "nu<=1/3")) is None


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Space(2), Space(2, True)]),
    st.lists(
        st.tuples(
            st.sampled_from(["omega", "psi", "nu"]),
            st.sampled_from(["<=", ">=", "="]),
            st.integers(0, 4),
        ),
        max_size=2,
    ),
    st.sampled_from(["omega", "psi", "nu"]),
    st.sampled_from([1, -1]),
)
def test_no_grid_has_better(space, wanted, exponent, sign):
    """Of all structures on a grid none is better, and what is best has its value."""
    parts = 4
    forms = Forms(space)
    texts = [f"{name}{relation}{n}/4" for name, relation, n in wanted]
    kept = limits(*texts)
    best = Programs(forms).least({exponent: sign}, kept)
    on_grid = [
        Fraction(int(value), parts)
        for beginning in space.beginnings()
        for rows in grid.rows(space, beginning, parts)
        for values in [forms.exponents(rows, parts)._asdict()]
        for value in values[exponent][
            np.all(
                [
                    np.array(
                        [
                            limit.holds(Fraction(int(v), parts))
                            for v in values[limit.figure]
                        ],
                        bool,
                    )
                    for limit in kept
                ]
                or [np.ones(len(rows), bool)],
                axis=0,
            )
        ]
    ]
    if best is None:
        assert not on_grid
        return
    assert all(sign * value >= best.value for value in on_grid)
    candidate = Candidate.of(forms, best.thetas)
    found = compiler.analyze(candidate.structure("best")).exponents
    assert found is not None
    values = vars(found.best)
    for limit_ in kept:
        assert values[limit_.figure] is None or limit_.holds(values[limit_.figure])
    assert values[exponent] is None or sign * values[exponent] == best.value
