"""The rank where no theorem says it: elimination modulo a prime, at random entries.

In: a `Binding` and its `Rank`. Out: a `Rank`. What elimination finds is a lower
bound of the rank for generic factors, so where it meets the upper bound the rank is
proved; where two draws stay below, theirs is the probable one. Draws are seeded: two
reports are equal. Past `elimination`'s limits nothing is begun.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from einc.analysis.elimination import PRIME, Map, Product, as_json, rank_modulo_prime
from einc.analysis.rank import Rank, core_of
from einc.errors import EincError
from einc.sizes import Binding

DRAWS = 2
IN_PROCESS = 600**3
"""Work up to which nobody waits: it is done here rather than in a process beside."""

Watch = Callable[[str], AbstractContextManager[None]]
"""What is entered for the time of an elimination, with a text that says which."""


def no_watch(text: str) -> AbstractContextManager[None]:
    """Nobody waits."""
    return nullcontext()


def certified(binding: Binding, found: Rank, watch: Watch = no_watch) -> Rank:
    """`found`, or what elimination says where it leaves the rank open.

    An elimination of over a second is a process of its own, which an interrupt ends.
    """
    if found.generic is not None:
        return found
    multiplier, map_ = problem(binding, found.bound)
    if map_.too_large:
        return replace(found, method=f"no elimination: {map_.too_large}")
    shape = f"{map_.rows:,} x {map_.columns:,}"
    least = 0
    for seed in range(DRAWS):
        with watch(f"eliminating {shape}, draw {seed + 1} of {DRAWS} at most"):
            try:
                drawn = _run(map_, seed)
            except _Failed as error:
                return replace(found, least=max(least, found.least), method=str(error))
        least = max(least, multiplier * drawn)
        if least == found.bound:
            break
    blocks = f", {multiplier:,} times" if multiplier > 1 else ""
    return replace(
        found,
        generic=least,
        status="proved" if least == found.bound else "probable",
        least=least,
        method=f"elimination of {shape}{blocks}, modulo {PRIME}",
    )


def problem(binding: Binding, bound: int) -> tuple[int, Map]:
    """What to eliminate, and how many times its rank the rank of W is.

    The reduced term, where there is one term without ties or padding; else W as it
    is. Indices of size 1 are left out, and of a routed one all but the active values.
    """
    structure = binding.structure
    if len(structure.terms) == 1 and not structure.tied and not binding.is_padded:
        core = core_of(binding, structure.terms[0])
        left = list(core.sizes)

        def renumbered(indices: frozenset[int]) -> tuple[int, ...]:
            return tuple(sorted(left.index(i) for i in indices))

        factors = tuple((n, renumbered(held)) for n, held in enumerate(core.factors))
        only = Product(renumbered(core.x), renumbered(core.y), factors)
        rows, columns = core.size(core.y), core.size(core.x)
        sizes = tuple(core.sizes.values())
        map_ = Map(sizes, (only,), rows, columns, core.smallest_cut())
        return core.multiplier, map_
    axes = [a for a in structure.axes if binding.size(a) > 1]
    numbers = {axis.name: n for n, axis in enumerate(axes)}
    names = [factor.name for factor in structure.factors]
    products = []
    for term in structure.terms:
        x, y, *held = (
            tuple(numbers[a.name] for a in tensor if a in axes)
            for tensor in (*term.sides, *(o.axes for o in term.operands))
        )
        uses = zip(term.operands, held, strict=True)
        products.append(Product(x, y, tuple((names.index(o.name), i) for o, i in uses)))
    sizes = tuple(binding.active_size(axis) for axis in axes)
    return 1, Map(sizes, tuple(products), binding.d_out, binding.d_in, bound)


class _Failed(EincError):
    """An elimination that did not end well, and why."""


def _run(map_: Map, seed: int) -> int:
    if map_.work <= IN_PROCESS or not sys.executable:
        return rank_modulo_prime(map_, seed)
    # The path as it is here: einc need not be installed where the process starts.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from einc.analysis.elimination import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        printed, _ = process.communicate(as_json(map_, seed))
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise _Failed("no elimination: its process failed, perhaps for want of memory")
    return int(printed)
