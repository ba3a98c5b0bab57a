"""Families: the same under any names and orders, and different for different graphs."""

from __future__ import annotations

import random
import re

import pytest
from oracles import Equation
from terminal import einc as command

import einc
from einc import library
from einc.family import family

OF_DEFAULTS = {"btt": "monarch", "einsum2": "monarch"}
"""Where rank is 1 at first, or an exponent 0."""


@pytest.mark.parametrize("name", library.NAMES)
def test_the_library_s_own(name: str) -> None:
    assert family(library.structure(name)) == OF_DEFAULTS.get(name, name)


def renamed(name: str, rng: random.Random) -> str:
    """A library structure with other names for all, in another order."""
    text = library.source(name).text
    head, body = text.replace("\n    ", " ").split("{", 1)
    words = set(re.findall(r"\b[A-Za-z]\w*\b", re.sub(r'"[^"]*"|#.*', "", body)))
    fixed = {"route", "top", "normalize", "all", "min", "max", "sqrt", "x", "y"}
    fixed |= {"d_in", "d_out", "d"} | set(re.findall(r"(\w+) =", head))
    fixed |= set(re.findall(r"\w+", head))
    free = sorted(words - fixed)
    names = [f"n{i}" for i in range(len(free))]
    rng.shuffle(names)
    for old, new in zip(free, names, strict=True):
        body = re.sub(rf"\b{old}\b", new, body)

    def shuffled(match: re.Match[str]) -> str:
        left, sign, right = re.split(r"(\+?=)", match[0], maxsplit=1)
        refs = [ref.strip() for ref in right.split("*")]
        x = [ref for ref in refs if ref.startswith("x[")]
        others = [ref for ref in refs if ref not in x]
        rng.shuffle(others)
        turned = [re.sub(r"\[(.*)\]", _turned, ref) for ref in others]
        return f"{left}{sign} {' * '.join(x + turned)}"

    def _turned(match: re.Match[str]) -> str:
        held = match[1].split(", ")
        rng.shuffle(held)
        return f"[{', '.join(held)}]"

    body = re.sub(r"y\[.*", shuffled, body)
    return f"{head}{{{body}"


@pytest.mark.parametrize("name", library.NAMES)
def test_names_and_orders_do_not_count(name: str) -> None:
    rng = random.Random(name)
    for _ in range(5):
        found = einc.parse(renamed(name, rng)).structure
        assert family(found) == OF_DEFAULTS.get(name, name)


def of(text: str) -> str | None:
    return family(einc.parse(f"structure s {{ {text} }}").structure)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y[o] = x[i] * W[i, o]", "dense"),
        ("y[a, b] = x[c, d1] * W[a, b, c, d1]  a, c = 4", "dense"),
        ("y[o] = x[i] * U[i, r, s] * V[r, s, o]  r, s = 3", "low_rank"),
        ("y[o] = x[i] * U[i, r] * V[r, o]  r = 1", None),  # no index joins the two
        ("y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]  g, f = 8  r = 4", "btt"),
        ("y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]  g, f = 8", "monarch"),
        # U and V trade places: what was x's is y's.
        ("y[i] = x[o] * U[i, r] * V[r, o]  r = 3", "low_rank"),
        ("y[o] = x[i] * U[i, r] * U[o, r]  r = 3", None),
        ("y[p, q] = x[a, b] * A[a, p, b, r] * B[b, p, q, r]  a, p = 4  r = 2", "btt"),
        ("y[p, q] = x[a, b] * A[a, p, r] * B[b, p, q, r]  a, p = 4  r = 2", None),
        ("y[o] = x[i] * W[r, i, o]  r = 4", None),
        ("y[o] = x[i] * W[r, i, o]  r = 4  route r top 1", "dense_moe"),
        ("y[i] = x[i]", None),
    ],
)
def test_by_hand(text: str, expected: str | None) -> None:
    assert of(text) == expected


def test_terms_are_matched_whole() -> None:
    both = "y[i] = x[i]  y[o] += x[i] * U[i, r] * V[r, o]  r = 2"
    assert of(both) == "skip_low_rank"
    assert of("y[o] = x[i] * U[i, r] * V[r, o]  y[i] += x[i]  r = 2") == "skip_low_rank"
    assert of(f"{both}  y[o] += x[i] * W[i, o]") is None


def test_many_factors_are_novel_at_once() -> None:
    chain = " * ".join(f"F{n}[r{n}, r{n + 1}]" for n in range(10))
    sizes = " ".join(f"r{n} = 2" for n in range(11))
    assert of(f"y[o] = x[i] * A[i, r0] * {chain} * B[r10, o] {sizes}") is None


def test_the_table_has_a_column() -> None:
    body = "y[p, q] = x[a, b] * A[a, p, r] * B[b, p, q, r]  a, p = 4  r = 2"
    rows = command(
        "taxonomy", "btt", "-e", body, "--in", "64", "--csv"
    ).out.splitlines()
    assert ",class,family," in rows[0]
    assert ",monarch," in rows[1] and ",novel," in rows[2]
    document = command("taxonomy", "-e", body, "--in", "64", "--json").json
    assert document["rows"][0]["family"] is None


def test_the_oracle_reads_what_is_renamed() -> None:
    text = renamed("btt", random.Random(1))
    equation = Equation.read(next(line for line in text.splitlines() if "y[" in line))
    assert len(equation.factors) == 2 and len(equation.x) == len(equation.y) == 2
