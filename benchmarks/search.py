"""How fast a space is searched: exponents, hypergraphs and whole walks a second.

    python benchmarks/search.py [--quick] [-o FOLDER]

On one core: set before numpy is there. Writes search.md.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from einc.search import grid
from einc.search.forms import Forms
from einc.search.hypergraphs import Space, count
from einc.search.walk import PARTS

ROUNDS = 5


def seconds(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def exponents(factors: int, rounds: int) -> float:
    """Structures a second of which omega, psi and nu are found."""
    space = Space(factors)
    some = next(space.beginnings())
    rows = next(iter(grid.rows(space, some, PARTS[factors])))
    rows = np.resize(rows, (1 << 17, rows.shape[1]))
    forms = Forms(space)
    forms.exponents(rows[:8], PARTS[factors])  # makes the forms
    return len(rows) / seconds(lambda: forms.exponents(rows, PARTS[factors]), rounds)


def listing(factors: int, rounds: int) -> float:
    """Hypergraphs a second that are listed, each once up to isomorphism."""
    space = Space(factors)
    listed = seconds(lambda: sum(len(b.masks) for b in space.beginnings()), rounds)
    return count(space) / listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to three factors")
    parser.add_argument("-o", type=Path, default=Path(), metavar="FOLDER")
    options = parser.parse_args()
    lines = [
        f"One core, {ROUNDS} rounds, medians; {platform.machine()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}.\n",
        "| factors | hypergraphs | listed a second | exponents a second |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for factors in range(2, 4 if options.quick else 5):
        rounds = 1 if options.quick or factors == 4 else ROUNDS
        lines.append(
            f"| {factors} | {count(Space(factors)):,} | {listing(factors, rounds):,.0f} "
            f"| {exponents(factors, ROUNDS):,.0f} |"
        )
        print(lines[-1], flush=True)
    (options.o / "search.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
