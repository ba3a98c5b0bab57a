"""Measures what `predict` needs to know of a machine: a `Calibration`.

In: a device and dtypes. Out: rates over grids of sizes, and overheads. The calls of a
grid take turns, and the least of several times stands. Operations write to memory that
is there; what new memory costs is measured for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, product

import torch

from einc.calibration import LAYOUTS, Calibration, Rates, Table
from einc.nn.machine import machine
from einc.nn.overheads import HELD, fresh, least_of_each, overheads
from einc.nn.timing import Call

BATCHES = (1, 64)
SIDES = (1, 8, 32, 128, 512, 4096)
"""Of the matrices of a product."""
MOST_MACS = 1 << 29
"""Multiply-adds of a product: larger ones take too long."""
ELEMENTS = 1 << 24
"""The most elements of a tensor."""
CACHED, PARTS = 1 << 20, 3
"""Bytes that stay in a core's cache; what is larger is in so many places in turn."""
LENGTHS = tuple(1 << i for i in (0, 6, 10, 14, 18, 20, 22, 24))
"""Elements that are copied, and multiplied one by one."""
TURNED = (16, 64, 256, 1024, 4096, 65536)
"""Rows and columns of the matrices that are transposed."""
LEAST_TURNED, MOST_TURNED = 1 << 16, 1 << 22
"""Elements that are transposed at once."""
INTERLEAVED = ((32, 32, 32, 512), (64, 64, 64, 1024))
"""Batch, m, k and n of products whose operands do not lie one after the other."""
APART = (64, 8)
"""A batch of small matrices, and their side."""
Make = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Call]
"""A call on three buffers."""
Told = Callable[[int, int], None]
"""Is told how many parts are done, and of how many."""


def calibrate(
    device: str, dtypes: Sequence[str], told: Told = lambda done, of: None
) -> Calibration:
    """Measures for some ten seconds a dtype; uses about 0.3 GB."""
    parts = 2 + len(dtypes)
    told(0, parts)
    ceilings = machine(device, dtypes)
    told(1, parts)
    rates = {}
    with torch.no_grad():
        for dtype in dtypes:
            rates[dtype] = _Bench(device, getattr(torch, dtype)).rates()
            told(1 + len(rates), parts)
        alone, together = fresh(device, 1), fresh(device, HELD)
    calls = overheads(device)
    told(parts, parts)
    return Calibration(ceilings, rates, alone, together, calls)


class _Bench:
    """Three buffers of one dtype, and the tensors in them."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device = device
        made = torch.Generator(device).manual_seed(0)
        self.left, self.right, self.out = (
            torch.randn(ELEMENTS, device=device, generator=made).to(dtype)
            for _ in range(3)
        )

    def rates(self) -> Rates:
        size = self.left.element_size()
        copies, sums = self._by_length(_copy), self._by_length(_multiply)
        return Rates(
            {layouts: self._products(layouts) for layouts in LAYOUTS},
            Table({(2 * n * size,): 2 * n * size / t for n, t in copies.items()}),
            Table({(3 * n * size,): 3 * n * size / t for n, t in sums.items()}),
            self._transpose(),
            self._interleaved(),
            self._apart(),
        )

    def _in_turn(self, make: Make, *sizes: int) -> Call:
        """A call on the heads of the buffers, of which it needs so many elements.

        Where these are more than a core's cache holds, it is on other parts each time:
        other tensors come between in a model, too.
        """
        part = max(sizes)
        cached = sum(sizes) * self.left.element_size() <= CACHED
        count = 1 if cached else min(ELEMENTS // part, PARTS)
        calls = [
            make(*(one[i * part :] for one in (self.left, self.right, self.out)))
            for i in range(count)
        ]
        if count == 1:
            return calls[0]
        turns = cycle(calls)
        return lambda: next(turns)()

    # Matrix products

    def _products(self, layouts: str) -> Table:
        calls = {}
        for b, m, k, n in product(BATCHES, SIDES, SIDES, SIDES):
            sizes = b * m * k, b * k * n, b * m * n
            if max(sizes) <= ELEMENTS and b * m * k * n <= MOST_MACS:
                make = partial(_multiplied, sides=(b, m, k, n), layouts=layouts)
                calls[b, m, k, n] = self._in_turn(make, *sizes)
        found = least_of_each(calls, self.device)
        return Table({key: 2 * math.prod(key) / t for key, t in found.items()})

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> Call:
        b, m, n = *left.shape[:2], right.shape[2]
        return _product(left, right, _matrices(self.out, b, m, n))

    def _interleaved(self) -> float:
        """What such operands cost more than others, over what their copies cost."""
        more = copied = 0.0
        for b, m, k, n in INTERLEAVED:
            left, right = (
                _matrices(self.left, b, m, k),
                _matrices(self.right, b, k, n),
            )
            odd = {
                "rows": _matrices(self.left, m, b, k).transpose(0, 1),
                "columns": _matrices(self.left, k, b, m).permute(1, 2, 0),
                "right": _matrices(self.right, n, b, k).permute(1, 2, 0),
            }
            calls: dict[str, Call] = {"plain": self._product(left, right)}
            for name, operand in odd.items():
                is_right = name == "right"
                pair = (left, operand) if is_right else (operand, right)
                calls[name] = self._product(*pair)
                out = _matrices(self.out, *operand.shape)
                calls[f"{name} copied"] = partial(out.copy_, operand)
            found = least_of_each(calls, self.device)
            for name in odd:
                more += max(found[name] - found["plain"], 0.0)
                copied += found[f"{name} copied"]
        return more / copied

    def _apart(self) -> float:
        """What each matrix costs more where an operand has no contiguous dimension."""
        b, n = APART
        left, right = (_matrices(one, b, n, n) for one in (self.left, self.right))
        loose = _matrices(self.left, n, n, b).permute(2, 0, 1)
        calls: dict[str, Call] = {
            "plain": self._product(left, right),
            "loose": self._product(loose, right),
            "copy": partial(_matrices(self.out, b, n, n).copy_, loose),
        }
        found = least_of_each(calls, self.device)
        return max(found["loose"] - found["plain"] - found["copy"], 0.0) / b

    # What moves bytes

    def _by_length(self, make: Callable[[int], Make]) -> dict[int, float]:
        lengths = [n for n in LENGTHS if n <= ELEMENTS]
        calls = {n: self._in_turn(make(n), n, n, n) for n in lengths}
        return least_of_each(calls, self.device)

    def _transpose(self) -> Table:
        """Of a matrix to one that is not seen as a matrix: for those are short cuts."""
        calls, elements = {}, {}
        for rows, columns in product(TURNED, TURNED):
            if rows * columns <= min(MOST_TURNED, ELEMENTS):
                # Small ones are many, lest their launch is what is measured.
                shape = (
                    max(1, LEAST_TURNED // (rows * columns)),
                    2,
                    rows // 2,
                    columns,
                )
                elements[rows, columns] = n = math.prod(shape)
                source = self.left[:n].view(shape).permute(0, 3, 1, 2)
                target = self.out[:n].view(source.shape)
                calls[rows, columns] = partial(target.copy_, source)
        size = self.left.element_size()
        found = least_of_each(calls, self.device)
        return Table({key: 2 * elements[key] * size / t for key, t in found.items()})


def _copy(n: int) -> Make:
    return lambda left, right, out: partial(out[:n].copy_, left[:n])


def _multiply(n: int) -> Make:
    return lambda left, right, out: partial(torch.mul, left[:n], right[:n], out=out[:n])


def _multiplied(
    left: torch.Tensor,
    right: torch.Tensor,
    out: torch.Tensor,
    sides: tuple[int, int, int, int],
    layouts: str,
) -> Call:
    """The product of what stands at the heads of two buffers, into that of a third."""
    b, m, k, n = sides
    return _product(
        _matrices(left, b, m, k, layouts[0]),
        _matrices(right, b, k, n, layouts[1]),
        _matrices(out, b, m, n),
    )


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> Call:
    if len(left) == 1:
        return partial(torch.mm, left[0], right[0], out=out[0])
    return partial(torch.bmm, left, right, out=out)


def _matrices(
    buffer: torch.Tensor, b: int, rows: int, columns: int, layout: str = "n"
) -> torch.Tensor:
    """The head of a buffer as matrices, of which the last dimension is the fastest.

    Or the one before it, where `layout` is "t".
    """
    head = buffer[: b * rows * columns]
    if layout == "t":
        return head.view(b, columns, rows).transpose(1, 2)
    return head.view(b, rows, columns)
