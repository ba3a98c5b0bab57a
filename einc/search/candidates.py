"""From a row of exponents to a structure, written as .ein with readable names.

In: which tensors the indices join, and their thetas. Out: text that parses back to a
structure of the same hypergraph and exponents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

from einc import compiler, specs
from einc.search.forms import Forms
from einc.search.hypergraphs import Index
from einc.source import Source
from einc.structure import Structure

FACTORS = "ABCD"
INPUT, OUTPUT, INNER, BOTH = "abcijkmpq", "efouvwqpz", "rstuvwpqz", "ghlm"
"""Names of indices; those that are taken are passed over."""


@dataclass(frozen=True, order=True)
class Candidate:
    """A structure of one term: for each index the tensors that it joins, and its theta.

    Its factors are numbered in the order in which x meets them.
    """

    factors: int
    indices: tuple[tuple[Index, Fraction], ...]

    @staticmethod
    def of(forms: Forms, thetas: Iterable[Fraction]) -> Candidate:
        """The structure of a space whose indices have `thetas`, 0 for those it lacks."""
        used = {i: theta for i, theta in zip(forms.space.indices, thetas, strict=True)}
        used = {i: theta for i, theta in used.items() if theta}
        order = forms.order([used.get(i, Fraction(0)) for i in forms.space.indices])
        renamed = (
            (index._replace(factors=_moved(index.factors, order)), theta)
            for index, theta in used.items()
        )
        return Candidate(forms.space.factors, tuple(sorted(renamed)))

    @property
    def hypergraph(self) -> tuple[Index, ...]:
        """Its indices, the same for isomorphic hypergraphs."""
        return min(
            tuple(
                sorted(
                    index._replace(factors=_moved(index.factors, order))
                    for index, _ in self.indices
                )
            )
            for order in permutations(range(self.factors))
        )

    def text(self, name: str) -> str:
        """Its definition in .ein.

        The index of x that is summed first stands last, so that the first product is
        over dimensions that lie together; indices of y stand as they come about. A
        factor has first what it keeps of x, then what it sums, then what is new.
        """
        names = self.names()
        x = sorted((i for i in names if i.x), key=lambda i: (not i.y, -_last(i)))
        y = sorted((i for i in names if i.y), key=lambda i: (not i.x, _first(i)))
        tensors = [f"x[{_listed(names, x)}]"]
        for factor in range(self.factors):
            held = [i for i in (*y, *x, *names) if i.factors >> factor & 1]
            ordered = sorted(dict.fromkeys(held), key=lambda i: _use(i, factor))
            tensors.append(f"{FACTORS[factor]}[{_listed(names, ordered)}]")
        lines = [f"y[{_listed(names, y)}] = {' * '.join(tensors)}", *self._sizes(names)]
        body = "".join(f"  {line}\n" for line in lines)
        return f"structure {name} {{\n{body}}}\n"

    def structure(self, name: str) -> Structure:
        """What its text means."""
        source = Source.of(name, self.text(name))
        (definition,) = specs.parse(source).definitions
        return compiler.compile_definition(source, definition)

    def names(self) -> dict[Index, str]:
        taken: set[str] = set()
        names = {}
        for index, _ in self.indices:
            letters = _ALPHABETS[index.x, index.y]
            names[index] = next(c for c in letters if c not in taken)
            taken.add(names[index])
        return names

    def _sizes(self, names: dict[Index, str]) -> Iterable[str]:
        """What is said of sizes; an index that is a whole side needs nothing."""
        groups: dict[tuple[str, Fraction], list[str]] = {}
        for index, theta in self.indices:
            if theta == 1 and index.x != index.y:
                continue
            base = {(True, False): "d_in", (False, True): "d_out"}
            of = base.get((index.x, index.y), "d")
            groups.setdefault((of, theta), []).append(names[index])
        for (of, theta), members in groups.items():
            power = f"^({theta})" if theta.denominator > 1 else f"^{theta}"
            yield f"{', '.join(members)} ~ {of}{'' if theta == 1 else power}"


_ALPHABETS = {
    (True, False): INPUT,
    (False, True): OUTPUT,
    (False, False): INNER,
    (True, True): BOTH,
}


def _listed(names: dict[Index, str], indices: Iterable[Index]) -> str:
    return ", ".join(names[i] for i in indices)


def _moved(mask: int, order: tuple[int, ...]) -> int:
    """A mask of factors after they are numbered as `order` lists them."""
    return sum(1 << new for new, old in enumerate(order) if mask >> old & 1)


def _first(index: Index) -> int:
    """The factor with which an index comes about; x has its own before any."""
    return -1 if index.x else (index.factors & -index.factors).bit_length() - 1


def _last(index: Index) -> int:
    """The factor with which an index is summed; y keeps its own for good."""
    return len(FACTORS) if index.y else index.factors.bit_length() - 1


def _use(index: Index, factor: int) -> int:
    """What joining a factor does to an index of it: keeps, sums or makes it."""
    if _first(index) == factor:
        return 2
    return 1 if _last(index) == factor else 0
