"""A study as a picture: loss over training FLOPs, and over total parameters.

In: `Results`. Out: the bytes of a figure, the same for the same study. A contestant has
its own line, marker and colour, and is told by the first two alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from einc import plots
from einc.scale.frontier import Array, Frontiers, by_flops
from einc.scale.results import Results
from einc.scale.summaries import Summary, summaries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("black", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Those that colour-blind people can tell apart (Okabe and Ito)."""
MARKERS = "osv^D<>pXP*"
_PLACES = 65
_MARKED = 16
"""Every so many places of a line have a marker."""


def scaling(results: Results, file_format: str) -> bytes:
    """Two axes: every run thin, frontiers thick with their fits; and losses by size.

    A frontier is the mean over seeds, where all of them are known; the fit, with one E
    for all contestants, is a broad pale line under it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    flops, parameters = figure.subplots(1, 2, sharey=True)
    for summary, look in zip(summaries(results), _looks(), strict=False):
        _draw_flops(flops, results, summary, look)
        _draw_parameters(parameters, results, summary, look)
    for axes, what in ((flops, "training FLOPs"), (parameters, "total parameters")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(what)
        axes.grid(visible=True, which="both", color="0.92")
    _plain_numbers(flops)
    flops.set_ylabel("validation loss")
    flops.set_title("frontiers, with fits; every run")
    parameters.set_title("lowest loss of each size, mean over seeds and extremes")
    if flops.lines or parameters.lines:
        flops.legend(frameon=False, fontsize="small")
    return plots.saved(figure, file_format)


def _plain_numbers(axes: Axes) -> None:
    """At the ticks of the losses, between powers of ten where there are few of those."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:g}")
    if high < 10 * low:
        axes.yaxis.set_minor_formatter("{x:g}")


def _looks() -> Iterator[dict[str, Any]]:
    """Line, marker and colour: no line with the same marker twice.

    For the numbers of lines and of markers have no divisor in common.
    """
    for i in range(len(MARKERS) * len(plots.STYLES)):
        yield {
            "linestyle": plots.STYLES[i % len(plots.STYLES)],
            "marker": MARKERS[i % len(MARKERS)],
            "color": COLOURS[i % len(COLOURS)],
        }


def _draw_flops(
    axes: Axes, results: Results, summary: Summary, look: dict[str, Any]
) -> None:
    name, color = summary.contestant.name, look["color"]
    for run in results.runs:
        if run.contestant == name and run.losses:
            axes.plot(run.flops, run.losses, color=color, linewidth=0.4, alpha=0.4)
    line = _mean(by_flops(results, name))
    if line is None:
        return
    costs, losses = line
    if summary.shared is not None:
        fitted = summary.shared.mean(costs)
        axes.plot(costs, fitted, color=color, linewidth=7, alpha=0.2)
    axes.plot(
        costs,
        losses,
        **look,
        linewidth=2,
        markevery=_MARKED,
        markerfacecolor="white",
        label=name,
    )


def _mean(frontiers: Frontiers) -> tuple[Array, Array] | None:
    """Costs that all seeds know, and the mean of their losses."""
    if not frontiers:
        return None
    low = max(frontier.cheapest for frontier in frontiers.values())
    high = min(frontier.spent for frontier in frontiers.values())
    if low > high:
        return None
    costs = np.exp(np.linspace(np.log(low), np.log(high), _PLACES))
    costs[[0, -1]] = low, high
    losses = np.mean([f.loss(costs) for f in frontiers.values()], axis=0)
    return costs, losses


def _draw_parameters(
    axes: Axes, results: Results, summary: Summary, look: dict[str, Any]
) -> None:
    """All seeds of a contestant have the same sizes."""
    by_size: dict[int, list[float]] = {}
    for run in results.runs:
        if run.contestant == summary.contestant.name and not run.diverged:
            by_size.setdefault(run.parameters_total, []).append(run.best)
    if not by_size:
        return
    sizes = sorted(by_size)
    means = np.array([np.mean(by_size[size]) for size in sizes])
    extremes = np.array([[min(by_size[s]), max(by_size[s])] for s in sizes]).T
    axes.errorbar(
        sizes,
        means,
        yerr=np.abs(extremes - means),
        **look,
        linewidth=1.5,
        capsize=3,
        markerfacecolor="white",
    )
