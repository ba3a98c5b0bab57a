"""The rank of a map modulo a prime, at random entries of its factors.

In: a `Map`, numbers alone. Out: an integer, at most the rank for generic factors:
a minor that is not 0 modulo a prime is not 0. Run as a program it reads a `Map` and
a seed as JSON and prints the rank, so that whoever waits can stop it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PRIME = (1 << 31) - 19
MAX_ENTRIES = 1 << 24
"""W may have so many: at 4,096 x 4,096 elimination takes about 1 GB and 10 s."""
MAX_INTERMEDIATE = 1 << 24
MAX_ELEMENTS = 1 << 25
"""Of a term's factors together."""
MAX_WORK = 1 << 38
"""Multiply-adds on the way to W."""


@dataclass(frozen=True)
class Product:
    """A term: the indices of x, of y, and of each factor beside its number.

    Factors of one number are the same tensor. Where its sizes are not the same, as with
    an index that is routed in one use alone, the smaller ones are of its first entries.
    """

    x: tuple[int, ...]
    y: tuple[int, ...]
    factors: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Map:
    """The first `rows` x `columns` entries of W, the sum of products of factors.

    `sizes` has that of each index, by its number. The rank is at most `bound`.
    """

    sizes: tuple[int, ...]
    products: tuple[Product, ...]
    rows: int
    columns: int
    bound: int

    @classmethod
    def of(cls, document: dict[str, Any]) -> Map:
        """The inverse of `dataclasses.asdict`, after JSON."""
        products = tuple(
            Product(
                tuple(p["x"]),
                tuple(p["y"]),
                tuple((number, tuple(held)) for number, held in p["factors"]),
            )
            for p in document["products"]
        )
        shape = (document[name] for name in ("rows", "columns", "bound"))
        return cls(tuple(document["sizes"]), products, *shape)

    def size(self, indices: Collection[int]) -> int:
        return math.prod(self.sizes[i] for i in indices)

    @property
    def work(self) -> int:
        """Of the elimination: rows x columns x the smaller of the two."""
        return self.rows * self.columns * min(self.rows, self.columns)

    @cached_property
    def too_large(self) -> str:
        """What is past its limit, or ""."""
        for product in self.products:
            entries = self.size(product.x) * self.size(product.y)
            if entries > MAX_ENTRIES:
                return (
                    f"W has {entries:,} entries, and elimination takes "
                    f"{MAX_ENTRIES:,} at most"
                )
            held = sum(self.size(indices) for _, indices in product.factors)
            if held > MAX_ELEMENTS:
                return f"its factors have {held:,} elements"
            if len(product.factors) < 2:
                continue
            path = _path(self, product)
            if path.largest_intermediate > MAX_INTERMEDIATE:
                return f"an intermediate has {int(path.largest_intermediate):,} entries"
            if path.opt_cost > MAX_WORK:
                return f"W takes {int(path.opt_cost):,} multiply-adds"
        return ""


def rank_modulo_prime(map_: Map, seed: int) -> int:
    """The rank of W at factors whose entries are drawn by `seed`.

    y[0, 1] = x[2, 3] A[2, 4] B[3, 4], low-rank, with size 2 for 4:

    >>> factors = ((0, (0, 1, 4)), (1, (2, 3, 4)))
    >>> term = Product(x=(2, 3), y=(0, 1), factors=factors)
    >>> rank_modulo_prime(Map((3, 3, 3, 3, 2), (term,), 9, 9, bound=2), seed=0)
    2
    """
    import flint
    import numpy as np

    draw = np.random.default_rng(seed)
    shapes: dict[int, list[int]] = {}
    for product in map_.products:
        for number, indices in product.factors:
            shape = [map_.sizes[i] for i in indices]
            shapes[number] = [*map(max, shape, shapes.get(number, shape))]
    factors = {n: draw.integers(1, PRIME, shape) for n, shape in shapes.items()}
    total = np.zeros((map_.rows, map_.columns), dtype=np.int64)
    for product in map_.products:
        total += _dense(map_, product, factors)[: map_.rows, : map_.columns]
        total %= PRIME
    factors.clear()
    # Random mixtures of the rows, as many as the rank may be, have the same rank.
    for _ in "rows", "columns":
        if 2 * map_.bound < len(total):
            mixture = draw.integers(1, PRIME, (1, map_.bound, len(total)))
            total = _matrix_product(mixture, total[None])[0]
        total = total.T
    rows, columns = total.shape
    entries = total.ravel().tolist()
    del total
    return int(flint.nmod_mat(rows, columns, entries, PRIME).rank())


Tensor = tuple["np.ndarray", tuple[int, ...]]
"""Integers modulo the prime, and the index of each dimension."""


def _dense(map_: Map, product: Product, factors: dict[int, np.ndarray]) -> np.ndarray:
    """A term's matrix, (size of y, size of x)."""
    import numpy as np

    outer = dict.fromkeys([*product.y, *product.x])
    tensors: list[Tensor] = [
        (factors[number][tuple(slice(map_.sizes[i]) for i in held)], held)
        for number, held in product.factors
    ]
    for positions in _path(map_, product).path if len(tensors) > 1 else ():
        taken = [tensors.pop(i) for i in sorted(positions, reverse=True)]
        later = set(outer).union(*(held for _, held in tensors))
        joined = taken[0]
        for i, other in enumerate(taken[1:], 2):
            kept = later.union(*(held for _, held in taken[i:]))
            joined = _contracted(joined, other, kept)
        tensors.append(joined)
    values, held = tensors[0] if tensors else (np.ones((), dtype=np.int64), ())
    values, held = _summed((values, held), outer)
    # An index of x and of y is a diagonal; one that no factor has, ones.
    matrix = np.zeros([map_.sizes[i] for i in (*product.y, *product.x)], np.int64)
    names = {index: n for n, index in enumerate(outer)}
    view = matrix
    if outer:
        placed = [names[i] for i in (*product.y, *product.x)]
        view = np.einsum(matrix, placed, [*names.values()])
    order = sorted(range(len(held)), key=lambda n: names[held[n]])
    shape = [map_.sizes[i] if i in held else 1 for i in outer]
    view[...] = values.transpose(order).reshape(shape)
    return matrix.reshape(map_.size(product.y), map_.size(product.x))


def _path(map_: Map, product: Product) -> Any:
    """opt_einsum's order for a term's factors: `path`, and what it costs."""
    import opt_einsum

    held = [indices for _, indices in product.factors]
    inside = set().union(*held)
    output = [i for i in dict.fromkeys([*product.y, *product.x]) if i in inside]
    letters = ["".join(map(opt_einsum.get_symbol, i)) for i in (*held, output)]
    equation = f"{','.join(letters[:-1])}->{letters[-1]}"
    shapes = [tuple(map_.sizes[i] for i in indices) for indices in held]
    return opt_einsum.contract_path(equation, *shapes, shapes=True)[1]


def _summed(tensor: Tensor, kept: Collection[int]) -> Tensor:
    values, held = tensor
    gone = tuple(n for n, index in enumerate(held) if index not in kept)
    if not gone:
        return tensor
    # Fewer than 2^32 summands below 2^31.
    return values.sum(axis=gone) % PRIME, tuple(i for i in held if i in kept)


def _contracted(left: Tensor, right: Tensor, kept: set[int]) -> Tensor:
    """The product of two tensors, summed over what nothing else has."""
    import numpy as np

    left = _summed(left, kept.union(right[1]))
    right = _summed(right, kept.union(left[1]))
    both = [i for i in left[1] if i in right[1]]
    batch = [i for i in both if i in kept]
    inner = [i for i in both if i not in kept]
    rows = [i for i in left[1] if i not in both]
    columns = [i for i in right[1] if i not in both]
    sizes = dict(zip(left[1], left[0].shape, strict=True))
    sizes |= dict(zip(right[1], right[0].shape, strict=True))

    def arranged(tensor: Tensor, *groups: Sequence[int]) -> np.ndarray:
        order = [tensor[1].index(i) for group in groups for i in group]
        shape = [math.prod(sizes[i] for i in group) for group in groups]
        return tensor[0].transpose(order).reshape(shape)

    values = _matrix_product(
        arranged(left, batch, rows, inner), arranged(right, batch, inner, columns)
    )
    held = (*batch, *rows, *columns)
    return np.reshape(values, [sizes[i] for i in held]), held


def _matrix_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(b, m, k) times (b, k, n) modulo the prime, in exact float64 products.

    Entries are parted into two of 16 bits. Sums of their products stay below 2^53.
    """
    import numpy as np

    product = np.zeros((*left.shape[:2], right.shape[2]), dtype=np.int64)
    for start in range(0, left.shape[2], _EXACT):
        inner = slice(start, start + _EXACT)
        c, d = _halves(right[:, inner])
        both = c + d
        # A few rows at a time, for want of memory.
        for first in range(0, left.shape[1], _ROWS):
            rows = product[:, first : first + _ROWS]
            a, b = _halves(left[:, first : first + _ROWS, inner])
            high, low = a @ c, b @ d
            middle = (a + b) @ both - high - low
            part = np.zeros_like(rows)
            for value in (high, middle, low):
                part = ((part << 16) + value.astype(np.int64) % PRIME) % PRIME
            rows += part
            rows %= PRIME
    return product


_EXACT, _ROWS = 1 << 18, 512


def _halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (values >> 16).astype(float), (values & 0xFFFF).astype(float)


def main() -> None:
    """Reads {"map": ..., "seed": ...} from stdin and prints the rank."""
    document = json.load(sys.stdin)
    print(rank_modulo_prime(Map.of(document["map"]), document["seed"]))


def as_json(map_: Map, seed: int) -> str:
    """What `main` reads."""
    return json.dumps({"map": asdict(map_), "seed": seed})


if __name__ == "__main__":
    main()
