"""The map as a figure for print: by matplotlib, legible without colour.

In: places. Out: a figure that is the same for the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor, sqrt
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from einc import plots
from einc.drawing.picture import Font, width_of
from einc.errors import UsageError
from einc.maps.places import Place
from einc.plots import Box, Label, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture(places: Sequence[Place], format: str) -> bytes:
    """The file of `figure`, in one of `plots.FORMATS`."""
    return plots.saved(figure(places), format)


PANEL_WIDTHS, PANEL_HEIGHT = (270.0, 174.0), 240.0
LEFT, BETWEEN, RIGHT, TOP, BOTTOM = 44.0, 20.0, 10.0, 22.0, 68.0
FONT, LEADING = 7.5, 9.5
INCH = 72
"""In points, as all lengths here."""
MOST = 150
"""Structures on a picture: it grows with their labels."""
MAX_WIDTH = 60 * INCH
LINE = 24
"""Letters in a line of a label, unless it has many names."""
REACH: Any = {"facecolor": "0.93", "edgecolor": "0.6", "linewidth": 0.6}
MARKER: Any = {"color": "black", "markerfacecoloralt": "white", "linestyle": ""}

Corner = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A point of a panel: the structures there, and what is written beside it.

    Each line comes with whether it is bold.
    """

    at: tuple[Fraction, Fraction]
    places: Sequence[Place]
    lines: Sequence[tuple[str, bool]]
    is_dense: bool = False

    @property
    def radius(self) -> float:
        kinds = {place.own for place in self.places}
        return 6.0 if self.is_dense or len(kinds) == 2 else 4.0


@dataclass(frozen=True)
class Panel:
    """One of the two maps of a figure: where it is, what its axes show, its marks.

    `reach` has the corners of what structures of two factors reach.
    """

    title: str
    label: str
    frame: Box
    across: tuple[float, float]
    up: tuple[float, float]
    reach: Sequence[Corner]
    marks: Sequence[Mark]

    def point(self, at: tuple[float | Fraction, float | Fraction]) -> Point:
        left, bottom, right, top = self.frame
        (low, high), (below, above) = self.across, self.up
        return (
            left + (float(at[0]) - low) / (high - low) * (right - left),
            bottom + (float(at[1]) - below) / (above - below) * (top - bottom),
        )


def figure(places: Sequence[Place]) -> Figure:
    """At full rank nu over omega, and below it nu over psi; a label a point.

    It grows until all labels have room. Raises `UsageError` for more than `MOST` places,
    and where it would be wider than `MAX_WIDTH`, as with long names.
    """
    if len(places) > MOST:
        raise UsageError(
            f"a picture of the map has room for {MOST} structures, and there are "
            f"{len(places)}: .html has it for all"
        )
    scale = 1.0
    while True:
        panels = _panels(places, scale)
        if panels[-1].frame.right + RIGHT > MAX_WIDTH:
            raise UsageError(
                "a picture of the map has no room for the names: .html has it for all"
            )
        labels = [_labels(panel) for panel in panels]
        found = [each for each in labels if each is not None]
        if len(found) == len(panels):
            return _figure(panels, found)
        scale *= 1.12


def _panels(places: Sequence[Place], scale: float) -> list[Panel]:
    first, second = (scale * width for width in PANEL_WIDTHS)
    top, start = BOTTOM + scale * PANEL_HEIGHT, LEFT + first + BETWEEN
    up = _range([place.nu for place in places], 1)
    full = [place for place in places if place.psi == 1]
    low = [place for place in places if place.psi != 1]
    return [
        Panel(
            r"full rank: $\psi = 1$",
            r"$\omega$: multiply-adds per parameter grow as $d^{\,\omega}$",
            Box(LEFT, BOTTOM, LEFT + first, top),
            _range([place.omega for place in full], 0.5),
            up,
            ((0, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)),
            _full_marks(full),
        ),
        Panel(
            r"lower rank: $\psi < 1$",
            r"$\psi$: rank grows as $d^{\,\psi}$",
            Box(start, BOTTOM, start + second, top),
            _range([place.psi for place in low], 1),
            up,
            ((0, 0), (1, 0.5), (1, 1)),
            _low_marks(low),
        ),
    ]


def _range(values: Sequence[Fraction], most: float) -> tuple[float, float]:
    """From 0 to `most` and over all values, with a margin."""
    low, high = min([0, *map(float, values)]), max([most, *map(float, values)])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _full_marks(places: Sequence[Place]) -> list[Mark]:
    """Where omega and nu are the same, with a mark for dense in any case."""
    dense = Fraction(0), Fraction(1)
    groups = _groups(places, lambda place: (place.omega, place.nu))
    marks = [
        Mark(at, group, _lines([("", group)]), at == dense)
        for at, group in groups.items()
    ]
    absent = Mark(dense, (), (("dense", False),), True)
    return marks if dense in groups else [*marks, absent]


def _low_marks(places: Sequence[Place]) -> list[Mark]:
    """Where psi and nu are the same; omega is written where it is not 0 alone."""
    marks = []
    for at, group in _groups(places, lambda place: (place.psi, place.nu)).items():
        parts = sorted(_groups(group, lambda place: place.omega).items())
        named = [
            (f"ω = {_short(omega)}: " if omega or len(parts) > 1 else "", part)
            for omega, part in parts
        ]
        marks.append(Mark(at, group, _lines(named)))
    return marks


Key = TypeVar("Key")


def _groups(
    places: Sequence[Place], key: Callable[[Place], Key]
) -> dict[Key, list[Place]]:
    groups: dict[Key, list[Place]] = {}
    for place in places:
        groups.setdefault(key(place), []).append(place)
    return groups


def _lines(parts: Sequence[tuple[str, Sequence[Place]]]) -> list[tuple[str, bool]]:
    """Names after the start of their part, the user's own in bold lines."""
    letters = sum(len(place.name) + 2 for _, part in parts for place in part)
    width = max(LINE, round(1.6 * sqrt(letters)))
    lines = []
    for start, part in parts:
        for own, group in sorted(_groups(part, lambda place: place.own).items()):
            text = start + ", ".join(map(_named, group))
            lines += [(line, own) for line in wrap(text, width)]
    return lines


def _named(place: Place) -> str:
    bound = "" if place.psi_is_exact else f" (ψ ≤ {_short(place.psi)})"
    return place.name + bound


def _labels(panel: Panel) -> list[Label] | None:
    """Off the edges of what two factors reach, if there is room."""
    spots = [
        plots.Spot(
            panel.point(mark.at),
            mark.radius,
            max(width_of(text, Font(FONT, bold)) + 2 for text, bold in mark.lines),
            LEADING * len(mark.lines),
        )
        for mark in panel.marks
    ]
    corners = [panel.point(corner) for corner in panel.reach]
    edges = list(pairwise([*corners, corners[0]]))
    return plots.labels(spots, panel.frame, edges) or plots.labels(spots, panel.frame)


def _figure(panels: Sequence[Panel], labels: Sequence[Sequence[Label]]) -> Figure:
    from matplotlib.figure import Figure

    width, height = panels[-1].frame.right + RIGHT, panels[-1].frame.top + TOP
    result = Figure(figsize=(width / INCH, height / INCH))
    for panel, found in zip(panels, labels, strict=True):
        left, bottom, right, top = panel.frame
        size = (right - left) / width, (top - bottom) / height
        axes = result.add_axes((left / width, bottom / height, *size))
        _axes(axes, panel)
        for mark, label in zip(panel.marks, found, strict=True):
            _marker(axes, mark)
            _write(result, mark, label)
    first, second = result.axes
    first.set_ylabel(
        r"$\nu$: multiply-adds per token grow as $d^{\,1+\nu}$", fontsize=8
    )
    second.tick_params(labelleft=False)
    handles = _legend([mark for panel in panels for mark in panel.marks])
    result.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, (BOTTOM - 32) / height),
        ncols=4 if len(handles) <= 4 else 3,
        frameon=False,
        fontsize=FONT,
    )
    return result


def _axes(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.label, fontsize=8)
    axes.set_xlim(panel.across)
    axes.set_ylim(panel.up)
    left, bottom, right, top = panel.frame
    for axis, place, limits, gap in (
        (axes.xaxis, 0, panel.across, 24 / (right - left)),
        (axes.yaxis, 1, panel.up, 11 / (top - bottom)),
    ):
        ticks = _ticks([mark.at[place] for mark in panel.marks], limits, gap)
        axis.set_ticks([float(tick) for tick in ticks], [_short(t) for t in ticks])
    axes.tick_params(labelsize=FONT)
    axes.grid(color="0.85", linewidth=0.5, linestyle=":")
    axes.set_axisbelow(True)
    axes.fill(*zip(*panel.reach, strict=True), zorder=0, **REACH)


def _ticks(
    values: Iterable[Fraction], limits: tuple[float, float], gap: float
) -> list[Fraction]:
    """The values that occur and, between them, quarters; none too near another."""
    low, high = limits
    quarters = range(ceil(4 * low), floor(4 * high) + 1)
    wanted = [Fraction(0), Fraction(1), *sorted(set(values))]
    found: list[Fraction] = []
    for tick in [*wanted, *(Fraction(quarter, 4) for quarter in quarters)]:
        if low <= tick <= high:
            if all(abs(tick - other) >= gap * (high - low) for other in found):
                found.append(tick)
    return found


def _short(value: Fraction) -> str:
    text = str(value) if len(str(value)) < 6 else f"{float(value):.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _marker(axes: Axes, mark: Mark) -> None:
    """A circle for the library, a square for the user's own, around it for both.

    It is filled where parameters are not shared, and half filled for both.
    """
    own = {place.own for place in mark.places}
    shared = {place.omega > 0 for place in mark.places}
    style: Literal["full", "left", "none"] = "none" if True in shared else "full"
    if len(shared) == 2:
        style = "left"
    shape, size = "o", 6.0
    if mark.is_dense:
        shape, size = "*", 11.0
    elif own == {True}:
        shape = "s"
    x, y = map(float, mark.at)
    if True in own and shape != "s":
        axes.plot(x, y, **MARKER, marker="s", markersize=11, fillstyle="none")
    axes.plot(x, y, **MARKER, marker=shape, markersize=size, fillstyle=style)


def _write(figure: Figure, mark: Mark, label: Label) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches() * INCH
    if label.leader is not None:
        (a, b), (c, d) = label.leader
        line = Line2D((a / width, c / width), (b / height, d / height))
        line.set(color="0.45", linewidth=0.6)
        figure.add_artist(line)
    left, _, right, top = label.box
    x = {"left": left, "center": (left + right) / 2, "right": right}[label.align]
    for i, (text, bold) in enumerate(mark.lines, start=1):
        figure.text(
            x / width,
            (top - i * LEADING + 2.5) / height,
            text,
            fontsize=FONT,
            fontweight="bold" if bold else "normal",
            ha=label.align,
            va="baseline",
        )


def _legend(marks: Sequence[Mark]) -> list[Any]:
    """What the markers that are there mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = {(place.own, place.omega > 0) for mark in marks for place in mark.places}
    whose = {False: "library", True: "your own (bold)"}
    shared = {False: r"no sharing, $\omega \leq 0$", True: r"shared, $\omega > 0$"}
    handles: list[Any] = [
        Line2D((), (), **MARKER, marker="*", markersize=11, label="dense")
    ]
    for own, is_shared in sorted(kinds):
        handles.append(
            Line2D(
                (),
                (),
                **MARKER,
                marker="os"[own],
                markersize=6,
                fillstyle="none" if is_shared else "full",
                label=f"{whose[own]}: {shared[is_shared]}",
            )
        )
    return [*handles, Patch(**REACH, label="within reach of two factors")]
