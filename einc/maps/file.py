"""The file of a map, in the format that its name asks for."""

from __future__ import annotations

from collections.abc import Sequence

from einc import plots
from einc.maps.figure import picture
from einc.maps.page import page
from einc.maps.places import Place

FORMATS = (*plots.FORMATS, "html")
"""What a map's file may end in; `plots.file_format` takes them."""


def drawn(places: Sequence[Place], title: str, format: str) -> bytes:
    """The file of a map in one of `FORMATS`; a figure leaves its title to a caption."""
    if format == "html":
        return page(places, title).encode()
    return picture(places, format)
