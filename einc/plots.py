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
    return _bytes(figure, format)


def _bytes(figure: Figure, format: str) -> bytes:
    import matplotlib

    # No date and no random names, so that equal figures are equal files.
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "einc"}):
        figure.savefig(file, format=format, dpi=150, metadata=metadata)
    return file.getvalue()
