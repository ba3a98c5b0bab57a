"""The front of a search between its first two objectives, for print."""

from __future__ import annotations

from collections.abc import Sequence

from einc import plots
from einc.family import family
from einc.search.found import Judged
from einc.search.run import Result
from einc.search.walk import Settings
from einc.search.wishes import EXPONENTS, Figure

TITLES: dict[Figure, str] = {
    "flops": "FLOPs a token",
    "params": "parameters",
    "params-per-flop": "parameters / FLOPs",
    "rank": "rank",
    "intermediate": "largest intermediate, values a token",
    "time": "forward time / that of nn.Linear",
}
MARKERS = "sD^v"


def front(
    result: Result, compared: Sequence[Judged], settings: Settings, format: str
) -> bytes:
    """What was found, filled where it has no name, and the library's beside it."""
    from matplotlib.figure import Figure as Canvas

    first, second = (objective.figure for objective in settings.objectives[:2])

    def points(judged: Sequence[Judged]) -> tuple[list[float], list[float]]:
        known = [one.figures for one in judged]
        known = [f for f in known if first in f and second in f]
        return [float(f[first]) for f in known], [float(f[second]) for f in known]

    canvas = Canvas(figsize=(6.5, 4.5), layout="constrained")
    axes = canvas.add_subplot()
    axes.plot(*points(result.looked), ".", color="0.7", markersize=4, label="looked at")
    ordered = sorted(result.found, key=lambda one: points([one]))
    if settings.pareto:
        axes.plot(*points(ordered), "-", color="0.4", linewidth=0.8)
    novel = [one for one in ordered if family(one.profile.structure) is None]
    named = [one for one in ordered if one not in novel]
    axes.plot(
        *points(named), "o", color="black", fillstyle="none", label="found, named"
    )
    axes.plot(*points(novel), "o", color="black", label="found, without a name")
    for one, marker in zip(compared, MARKERS, strict=False):
        place = points([one])
        name = one.profile.name
        axes.plot(*place, marker, color="black", fillstyle="left", label=name)
    for figure, axis in ((first, "x"), (second, "y")):
        getattr(axes, f"set_{axis}label")(TITLES.get(figure, figure))
        if figure not in EXPONENTS:
            getattr(axes, f"set_{axis}scale")("log")
    axes.legend(
        frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return plots.saved(canvas, format)
