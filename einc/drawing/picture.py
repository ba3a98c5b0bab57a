"""Pictures as values: marks at places, which are measured and joined before they are
drawn.

In: words, lines, boxes and dots, in points, y downwards. Out: a matplotlib figure in
greys. What is drawn, and where it goes, is in `drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, assert_never

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 72
"""To the inch."""
MARGIN = 10.0
MAX_SIDE, MAX_AREA = 60.0, 500.0
"""Inches, and square inches, of the largest figure; what is larger is scaled down."""
LINE = 0.9


@dataclass(frozen=True)
class Font:
    """How words are set."""

    size: float
    bold: bool = False
    mono: bool = False

    @property
    def height(self) -> float:
        """That of a line, with room for what is raised."""
        return 1.4 * self.size

    @property
    def properties(self) -> dict[str, Any]:
        return {
            "family": "DejaVu Sans Mono" if self.mono else "DejaVu Sans",
            "weight": "bold" if self.bold else "normal",
            "size": self.size,
        }


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is that of its middle."""

    x: float
    y: float
    text: str
    font: Font
    align: Literal["left", "center", "right"] = "left"


@dataclass(frozen=True)
class Line:
    """Through all points: straight where level or upright, else curved from level to
    level."""

    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Box:
    """A frame around its middle."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "white"
    round: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    fill: str = "black"


Mark = Words | Line | Box | Dot


@dataclass(frozen=True)
class Picture:
    """Marks inside 0 to `width` and 0 to `height`."""

    width: float
    height: float
    marks: tuple[Mark, ...]

    def moved(self, right: float, down: float) -> tuple[Mark, ...]:
        return tuple(_moved(mark, right, down) for mark in self.marks)


def _moved(mark: Mark, right: float, down: float) -> Mark:
    if isinstance(mark, Line):
        return replace(
            mark, points=tuple((x + right, y + down) for x, y in mark.points)
        )
    return replace(mark, x=mark.x + right, y=mark.y + down)


def beside(left: Picture, right: Picture, gap: float) -> Picture:
    """One at the left of the other, their upper ends level."""
    start = left.width + gap
    return Picture(
        start + right.width,
        max(left.height, right.height),
        left.marks + right.moved(start, 0),
    )


def stacked(pictures: Sequence[Picture], gap: float, align: float = 0.0) -> Picture:
    """One under the other, their left sides aligned, or with `align` 1/2 their middles."""
    width = max(picture.width for picture in pictures)
    marks: tuple[Mark, ...] = ()
    down = 0.0
    for picture in pictures:
        marks += picture.moved((width - picture.width) * align, down)
        down += picture.height + gap
    return Picture(width, down - gap, marks)


@cache
def width_of(text: str, font: Font) -> float:
    """The width of a line of text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    properties = FontProperties(**font.properties)
    width, _, _ = text_to_path.get_text_width_height_descent(
        text, properties, ismath="$" in text
    )
    return float(width)


def widest(texts: Iterable[str], font: Font) -> float:
    return max((width_of(text, font) for text in texts), default=0.0)


def figure_of(picture: Picture) -> Figure:
    """A figure as large as the picture and a margin, unless that is too large."""
    from matplotlib.figure import Figure

    width, height = (
        (side + 2 * MARGIN) / POINTS for side in (picture.width, picture.height)
    )
    scale = min(
        1.0,
        MAX_SIDE / width,
        MAX_SIDE / height,
        math.sqrt(MAX_AREA / (width * height)),
    )
    figure = Figure(figsize=(scale * width, scale * height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-MARGIN, picture.width + MARGIN)
    axes.set_ylim(picture.height + MARGIN, -MARGIN)
    for mark in picture.marks:
        _draw(axes, mark, scale)
    return figure


def _draw(axes: Any, mark: Mark, scale: float) -> None:
    """Lines lie under boxes and dots, and those under words."""
    from matplotlib import patches

    style: dict[str, Any] = {"edgecolor": "black", "linewidth": LINE * scale}
    match mark:
        case Words():
            font = mark.font.properties
            font["size"] *= scale
            # All on one base line, whether or not something is raised.
            base = mark.y + 0.36 * mark.font.size
            axes.text(mark.x, base, mark.text, ha=mark.align, va="baseline", **font)
        case Line():
            style |= {"fill": False, "capstyle": "butt", "zorder": 1, "snap": True}
            style["linestyle"] = (0, (4, 2)) if mark.dashed else "-"
            axes.add_patch(patches.PathPatch(_path(mark.points), **style))
        case Box():
            style |= {"facecolor": mark.fill, "zorder": 2}
            style["linestyle"] = (0, (3, 2)) if mark.dashed else "-"
            corner = (mark.x - mark.width / 2, mark.y - mark.height / 2)
            rounding = "round,pad=0,rounding_size=5" if mark.round else "square,pad=0"
            axes.add_patch(
                patches.FancyBboxPatch(
                    corner, mark.width, mark.height, boxstyle=rounding, **style
                )
            )
        case Dot():
            style |= {"facecolor": mark.fill, "zorder": 2}
            axes.add_patch(patches.Circle((mark.x, mark.y), mark.radius, **style))
        case _:
            assert_never(mark)


def _path(points: Sequence[tuple[float, float]]) -> Any:
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 == x1 or y0 == y1:
            vertices.append((x1, y1))
            codes.append(Path.LINETO)
        else:
            middle = (x0 + x1) / 2
            vertices += [(middle, y0), (middle, y1), (x1, y1)]
            codes += [Path.CURVE4] * 3
    return Path(vertices, codes)
