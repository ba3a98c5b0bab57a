"""Figures for print: by matplotlib, legible without colour.

In: what is to be shown. Out: the bytes of a file, the same for the same figure.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from einc.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
STYLES = ("-", "--", ":", "-.")


def file_format(path: Path) -> str:
    """The format that a file's name asks for. Raises `UsageError` for another one.

    Also where matplotlib is not there: before anything is computed for a figure.
    """
    found = path.suffix.removeprefix(".").lower()
    if found not in FORMATS:
        listed = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(f"a plot ends in one of {listed}, not `{path}`")
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
    return _bytes(figure, format)


def _bytes(figure: Figure, format: str) -> bytes:
    import matplotlib

    # No date and no random names, so that equal figures are equal files.
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "einc"}):
        figure.savefig(file, format=format, dpi=150, metadata=metadata)
    return file.getvalue()
