"""Figures for print: by matplotlib, legible without colour.

In: what is to be shown. Out: the bytes of a file, the same for the same figure.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import dist
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from einc.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
STYLES = ("-", "--", ":", "-.")


def file_format(path: Path, formats: Sequence[str] = FORMATS) -> str:
    """The one of `formats` that a file's name asks for. `UsageError` for another one.

    Also where it needs matplotlib, which is not there: before anything is computed
    for a figure.
    """
    found = path.suffix.removeprefix(".").lower()
    if found not in formats:
        listed = ", ".join(f".{name}" for name in formats)
        raise UsageError(f"pictures end in one of {listed}, not `{path}`")
    if found not in FORMATS:
        return found
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError(
            "plots need matplotlib: pip install matplotlib, or einc[plot]"
        ) from None
    return found


def spectra(
    lines: Mapping[str, Sequence[float]], limit: float, title: str, format: str
) -> bytes:
    """Singular values over their place, as multiples of `limit`; a line each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), style in zip(lines.items(), STYLES, strict=False):
        last = max(len(values) - 1, 1)
        places = [i / last for i in range(len(values))]
        scaled = [value / limit for value in values]
        axes.plot(places, scaled, style, color="black", label=name)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("place among the singular values, largest first")
    axes.set_ylabel(r"singular value / $\sqrt{d_{out} / d_{in}}$")
    axes.set_title(title)
    axes.legend(frameon=False)
    return saved(figure, format)


ByWidth = Mapping[str, Mapping[str, Mapping[int, float]]]
"""A number by model, module and width."""


def coordinates(activations: ByWidth, updates: ByWidth, format: str) -> bytes:
    """Root mean squares against the width, a line a module, a row of axes a model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(activations)), layout="constrained")
    grid = figure.subplots(len(activations), 2, sharex=True, squeeze=False)
    for row, model in zip(grid, activations, strict=True):
        tables = {"output": activations[model], "update": updates[model]}
        for axes, (what, modules) in zip(row, tables.items(), strict=True):
            for i, (name, by_width) in enumerate(modules.items()):
                marker = "osv^Dx+*"[i % 8]
                style = STYLES[i % len(STYLES)]
                axes.plot(
                    list(by_width),
                    list(by_width.values()),
                    style,
                    marker=marker,
                    color="black",
                    label=name,
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(f"{model}: RMS of {what}")
            axes.set_xlabel("width")
        row[1].legend(
            frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return saved(figure, format)


Point = tuple[float, float]


class Box(NamedTuple):
    """An area of a figure, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, center: Point, width: float, height: float) -> Box:
        x, y = center
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )

    def nearest(self, point: Point) -> Point:
        x, y = point
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)


class Spot(NamedTuple):
    """A marker, and the size of the label that it wants."""

    at: Point
    radius: float
    width: float
    height: float


@dataclass(frozen=True)
class Label:
    """Where a label is, and the line to its marker unless it stands beside it."""

    box: Box
    align: Literal["left", "center", "right"]
    leader: tuple[Point, Point] | None


GAP = 3.0
"""Between a marker and its label, in points."""
_STEPS = (0.0, 0.5, -0.5, 1.0, -1.0)
_DIRECTIONS = tuple(
    [(side, y) for side in (1.0, -1.0) for y in _STEPS]
    + [(x, side) for side in (1.0, -1.0) for x in _STEPS[:3]]
)
"""On the sides of a square; the first that has room is taken."""


def labels(
    spots: Sequence[Spot], room: Box, lines: Sequence[tuple[Point, Point]] = ()
) -> list[Label] | None:
    """A label for each spot: near it, on no marker, no other label and none of `lines`.

    Nor does a line from a label to its marker pass under any of these but `lines`. The
    largest are placed first, since they have the least choice. None where there is no
    room.
    """
    markers = [Box.around(s.at, 2 * s.radius, 2 * s.radius) for s in spots]
    drawn = [bead for line in lines for bead in _beads(*line)]
    taken: list[Box] = []
    found: dict[int, Label] = {}
    for i in sorted(range(len(spots)), key=lambda i: -spots[i].width * spots[i].height):
        others = taken + markers[:i] + markers[i + 1 :]
        for label in _candidates(spots[i], room):
            line = [] if label.leader is None else _beads(*label.leader)
            if not any(
                box.meets(other) for box in (label.box, *line) for other in others
            ) and not any(label.box.meets(other) for other in (markers[i], *drawn)):
                break
        else:
            return None
        found[i] = label
        taken += [label.box, *line]
    return [found[i] for i in range(len(spots))]


def _candidates(spot: Spot, room: Box) -> Iterator[Label]:
    """The labels of a spot that are in the room, the nearest first."""
    x, y = spot.at
    farthest = dist(room[:2], room[2:])
    away = spot.radius + GAP
    while away < farthest:
        for across, up in _DIRECTIONS:
            center = (
                x + across * (away + spot.width / 2),
                y + up * (away + spot.height / 2),
            )
            box = Box.around(center, spot.width, spot.height)
            if not room.holds(box):
                continue
            end = box.nearest(spot.at)
            length = dist(spot.at, end)
            leader = None
            if length > spot.radius + 2 * GAP:
                leader = _between(spot.at, end, spot.radius / length), end
            align: Literal["left", "center", "right"] = "center"
            if abs(across) == 1:
                align = "left" if across > 0 else "right"
            yield Label(box, align, leader)
        away += max(4.0, away / 4)


def _between(start: Point, end: Point, share: float) -> Point:
    (a, b), (c, d) = start, end
    return a + share * (c - a), b + share * (d - b)


def _beads(start: Point, end: Point) -> list[Box]:
    """A line as small boxes."""
    parts = max(1, round(dist(start, end) / 2))
    return [Box.around(_between(start, end, i / parts), 1.5, 1.5) for i in range(parts)]


def saved(figure: Figure, format: str) -> bytes:
    """The file of a figure in one of `FORMATS`."""
    import matplotlib

    # No date and no random names, so that equal figures are equal files.
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "einc"}):
        figure.savefig(file, format=format, dpi=150, metadata=metadata)
    return file.getvalue()
