"""What one machine does in which time: rates that were measured, by size and layout.

In: a file that `einc bench --calibrate` wrote. Out: a `Calibration`, from which
`predict` takes seconds. Nothing here is measured; that is `nn.calibrate`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from einc.errors import UsageError

SCHEMA = "einc.calibration/1"
DEVICES = ("cpu", "cuda")
OperandLayout = Literal["n", "t"]
"""Of a matrix: its last dimension is the fastest in memory, or the one before."""
LAYOUTS = ("nn", "nt", "tn", "tt")
"""Of the two operands of a matrix product."""

ITEMSIZE = {"float32": 4, "bfloat16": 2}
"""Bytes of a value."""
MOST = 1e25
"""Rates a second and seconds beyond that, either way, are damage."""

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """A device with its software, and its ceilings.

    `matmul` has FLOPs a second by dtype, 1 multiply-add = 2 FLOPs; `copy` bytes a
    second, read and written both counted; `launch` seconds of an operation on a single
    number.
    """

    device: str
    processor: str
    threads: int
    torch: str
    allocator: str
    matmul: Mapping[str, float]
    copy: float
    launch: float

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "processor": self.processor,
            "threads": self.threads,
            "torch": self.torch,
            "allocator": self.allocator,
            "matmul_flops_per_second": dict(self.matmul),
            "copy_bytes_per_second": self.copy,
            "launch_seconds": self.launch,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Machine:
        rates = found["matmul_flops_per_second"].items()
        if found["device"] not in DEVICES:
            raise ValueError("another device")
        return cls(
            found["device"],
            _text(found["processor"]),
            int(found["threads"]),
            _text(found["torch"]),
            _text(found["allocator"]),
            {str(dtype): _positive(rate) for dtype, rate in rates},
            _positive(found["copy_bytes_per_second"]),
            _positive(found["launch_seconds"]),
        )


@dataclass(frozen=True)
class Table:
    """A rate by sizes, for any sizes: linear between those measured, all in logarithms.

    Beyond the grid the rate is that at its edge. Where the grid has holes, since what
    is large in all directions takes too long, it is that of the nearest smaller sizes.

    >>> table = Table({(1,): 1.0, (16,): 4.0})
    >>> [table.at(n) for n in (1, 4, 16, 99)]
    [1.0, 2.0, 4.0, 4.0]
    """

    rates: Mapping[Sizes, float]

    def at(self, *sizes: float) -> float:
        """The rate at sizes of at least 1."""
        sides = []
        for size, axis in zip(sizes, self._axes, strict=True):
            above = next((i for i, a in enumerate(axis) if a >= size), len(axis) - 1)
            below = above - 1 if axis[above] > size and above > 0 else above
            low, high = axis[below], axis[above]
            share = math.log(size / low) / math.log(high / low) if low < high else 0.0
            sides.append(((low, 1 - share), (high, share)))
        total = 0.0
        for corner in product(*sides):
            weight = math.prod(share for _, share in corner)
            if weight:
                total += weight * math.log(self._known(tuple(n for n, _ in corner)))
        return math.exp(total)

    def _known(self, corner: Sizes) -> float:
        """The rate at a point of the grid, or where its largest sizes are smaller."""
        while corner not in self.rates:
            longest = max(range(len(corner)), key=corner.__getitem__)
            axis = self._axes[longest]
            smaller = axis[axis.index(corner[longest]) - 1]
            corner = (*corner[:longest], smaller, *corner[longest + 1 :])
        return self.rates[corner]

    @cached_property
    def _axes(self) -> tuple[Sizes, ...]:
        return tuple(tuple(sorted(set(axis))) for axis in zip(*self.rates, strict=True))

    def to_json(self) -> list[list[float]]:
        """A row for each point: its sizes, then the rate."""
        return [[*sizes, rate] for sizes, rate in self.rates.items()]

    @classmethod
    def from_json(cls, rows: list[list[float]], count: int) -> Table:
        """Of `count` sizes; raises `ValueError` for what is no table of them."""
        rates = {tuple(int(n) for n in sizes): _positive(rate) for *sizes, rate in rows}
        table = cls(rates)
        lengths = {len(sizes) for sizes in rates}
        if any(size < 1 for sizes in rates for size in sizes):
            raise ValueError("a size below 1")
        # The smallest sizes are where a look for a measured rate ends.
        if lengths != {count} or tuple(a[0] for a in table._axes) not in rates:
            raise ValueError("a table without its smallest sizes")
        return table


@dataclass(frozen=True)
class Rates:
    """Of one dtype.

    `products`: FLOPs a second by batch, m, k, n, into memory that is there, a table for
    each of `LAYOUTS`. Bytes a second, read and written both counted: `copy` and
    `elementwise` (two tensors read, one written) by bytes; `transpose` by how many rows
    are gone through before the next value of the first one is read, and by how many
    values lie between two of them. `interleaved`: the share of the time of a copy that
    an operand costs whose matrices do not lie one after the other. `apart`: seconds
    for each matrix of a batch that some libraries multiply one by one, where an operand
    has no contiguous dimension.
    """

    products: Mapping[str, Table]
    copy: Table
    elementwise: Table
    transpose: Table
    interleaved: float
    apart: float

    def to_json(self) -> dict[str, Any]:
        return {
            "products_flops_per_second": {
                layouts: table.to_json() for layouts, table in self.products.items()
            },
            "copy_bytes_per_second": self.copy.to_json(),
            "elementwise_bytes_per_second": self.elementwise.to_json(),
            "transpose_bytes_per_second": self.transpose.to_json(),
            "interleaved": self.interleaved,
            "apart_seconds": self.apart,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Rates:
        products = found["products_flops_per_second"]
        return cls(
            {name: Table.from_json(products[name], 4) for name in LAYOUTS},
            Table.from_json(found["copy_bytes_per_second"], 1),
            Table.from_json(found["elementwise_bytes_per_second"], 1),
            Table.from_json(found["transpose_bytes_per_second"], 2),
            _positive(found["interleaved"], or_zero=True),
            _positive(found["apart_seconds"], or_zero=True),
        )


@dataclass(frozen=True)
class Overheads:
    """Seconds that have nothing to do with sizes.

    `call`: of a module, without its operations. `view`: of a view. `node`: of an
    operation's part in autograd, both ways; `function`: of one written in Python.
    `backward`: of a call of autograd.
    """

    call: float
    view: float
    node: float
    function: float
    backward: float


@dataclass(frozen=True)
class Calibration:
    """A machine, the `Rates` by dtype, and the rest of what calls cost.

    `alone` and `together`: the bytes a second at which memory is first written that is
    taken anew, without the writing itself: by the bytes of a tensor, and by those of
    small tensors that are given back together. What lies between two sizes goes at the
    rate of the smaller one, since allocators have thresholds.
    """

    machine: Machine
    rates: Mapping[str, Rates]
    alone: Mapping[int, float]
    together: Mapping[int, float]
    overheads: Overheads

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": self.machine.to_json(),
            "dtypes": {dtype: rates.to_json() for dtype, rates in self.rates.items()},
            "fresh_bytes_per_second": {
                "alone": [[*pair] for pair in self.alone.items()],
                "together": [[*pair] for pair in self.together.items()],
            },
            "overheads_seconds": asdict(self.overheads),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Calibration:
        """Raises `ValueError`, `LookupError`, `TypeError` or `AttributeError`."""
        if found["schema"] != SCHEMA:
            raise ValueError("another schema")
        overheads, fresh = found["overheads_seconds"], found["fresh_bytes_per_second"]
        alone, together = (
            {int(size): _positive(rate) for size, rate in fresh[name]}
            for name in ("alone", "together")
        )
        machine = Machine.from_json(found["machine"])
        rates = {
            dtype: Rates.from_json(rates) for dtype, rates in found["dtypes"].items()
        }
        if not rates or not rates.keys() <= ITEMSIZE.keys() & machine.matmul.keys():
            raise ValueError("dtypes of another version")
        return cls(
            machine,
            rates,
            alone,
            together,
            Overheads(
                *(
                    _positive(overheads[field.name], or_zero=True)
                    for field in fields(Overheads)
                )
            ),
        )

    def seconds_of_fresh(self, tensors: Mapping[int, int]) -> float:
        """What new memory costs a call; how many tensors of how many bytes it takes."""
        apart = sum(n * _at_step(self.alone, size) for size, n in tensors.items())
        total = sum(n * size for size, n in tensors.items())
        return max(apart, _at_step(self.together, total))

    def differences(self, other: Machine) -> list[str]:
        """In what another machine differs, as `threads: 2, not 1`."""
        names = ("processor", "threads", "torch", "allocator")
        return [
            f"{name}: {theirs}, not {ours}"
            for name in names
            if (ours := getattr(self.machine, name)) != (theirs := getattr(other, name))
        ]


def _at_step(rates: Mapping[int, float], size: int) -> float:
    """Seconds of so many bytes, at the rate of the largest known size up to that."""
    known = [bytes_ for bytes_ in rates if bytes_ <= size]
    return size / rates[max(known)] if known else 0.0


def _positive(value: Any, or_zero: bool = False) -> float:
    number = float(value)
    if not (1 / MOST < number < MOST or (or_zero and number == 0)):
        raise ValueError("no rate")
    return number


def _text(value: Any) -> str:
    if not (isinstance(value, str) and value.isprintable()):
        raise ValueError("no text")
    return value


# Where they are kept


def place(device: str) -> Path:
    """The file of a device in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # What is not absolute is to be ignored, by the specification of that variable.
    cache = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return cache / "einc" / f"calibration-{device}.json"


def load(device: str) -> Calibration:
    """The stored one of "cpu" or "cuda", or that of a file.

    Raises `UsageError` where there is none, and where it is damaged.
    """
    path = place(device) if device in DEVICES else Path(device)
    remedy = "`einc bench --calibrate"
    remedy += " --device cuda`" if device == "cuda" else "`"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"no calibration `{path}`: {remedy} measures one") from None
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"`{path}` is not JSON: {remedy} measures anew") from None
    try:
        return Calibration.from_json(found)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise UsageError(
            f"`{path}` is no calibration, or one of another version of einc: "
            f"{remedy} measures anew"
        ) from None


def stored(device: str) -> Calibration | None:
    """That of "cpu" or "cuda", or None where none was ever made.

    Raises `UsageError` where it is damaged.
    """
    return load(device) if place(device).exists() else None


def save(calibration: Calibration) -> Path:
    """Keeps it for its device, in place of the one before, and says where.

    Raises `UsageError` where that cannot be written.
    """
    path = place(calibration.machine.device)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(calibration.to_json()), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from None
    return path
