"""The drawing of a structure: its tensor network, and the tree of its contractions.

In: a `Profile`. Out: a figure for print, or the bytes of a file of it; legible
without colour, the same for the same profile, and of bounded size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einc.analysis.profile import Profile
from einc.drawing.labels import Labels
from einc.drawing.network import drawn_network
from einc.drawing.picture import (
    Font,
    Mark,
    Picture,
    Words,
    beside,
    figure_of,
    stacked,
    width_of,
)
from einc.drawing.tree import drawn_tree
from einc.plots import saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE, SUBTITLE, PLUS = Font(10, bold=True), Font(8), Font(12)
PAGE = (504.0, 648.0)
"""Text on a page of letter size, in points: 7 inches by 9."""
APART, UNDER = 36.0, 22.0


def draw(profile: Profile, format: str) -> bytes:
    """The bytes of a file of the drawing, in one of `plots.FORMATS`."""
    return saved(figure(profile), format)


def figure(profile: Profile) -> Figure:
    """The title, the networks of all terms and the trees of the plan."""
    labels = Labels(profile)
    networks = _sum([drawn_network(labels, t) for t in profile.structure.terms])
    body = _arranged(networks, drawn_tree(labels))
    return figure_of(stacked([_heading(labels), body], UNDER / 2))


def _arranged(networks: Picture, tree: Picture) -> Picture:
    """Side by side where a page is wide enough for it, or else not high enough."""
    wide = beside(networks, tree, APART)
    high = stacked([networks, tree], UNDER, align=1 / 2)
    if wide.width <= PAGE[0] or PAGE[1] < high.height > wide.width:
        return wide
    return high


def _heading(labels: Labels) -> Picture:
    lines = [_line(text, TITLE) for text in labels.title()]
    lines += [_line(text, SUBTITLE) for text in labels.subtitles()]
    return stacked(lines, 0)


def _sum(networks: list[Picture]) -> Picture:
    """One under the other, with a plus between them."""
    pictures = [networks[0]]
    for network in networks[1:]:
        pictures += [_line("+", PLUS), network]
    return stacked(pictures, 4)


def _line(text: str, font: Font) -> Picture:
    words: Mark = Words(0, font.height / 2, text, font)
    return Picture(width_of(text, font), font.height, (words,))
