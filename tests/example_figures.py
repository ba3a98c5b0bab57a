"""The lines with which the examples quote figures, as einc would write them."""

from __future__ import annotations

from fractions import Fraction
from textwrap import wrap

from einc.analysis.profile import Profile


def exponents_line(report: Profile) -> str:
    """`# omega 0, psi 1, nu 1/2`; a psi that is only bounded is `at most`."""
    assert report.exponents is not None
    best = report.exponents.best
    psi = f"{best.psi}" if report.exponents.psi_is_exact else f"at most {best.psi}"
    return f"# omega {best.omega}, psi {psi}, nu {best.nu}"


def figures_line(report: Profile, rank: bool = True) -> str:
    """`# at 64 x 64: 1,024 parameters (25%), 2,048 FLOPs (25%), rank 64`.

    Percentages are of dense. A rank is quoted where it is proved, if it is wanted.
    """
    assert report.figures is not None
    figures = report.figures
    binding, params, work = figures.binding, figures.parameters, figures.work

    def share(value: int | Fraction) -> str:
        percent = 100 * float(value) / figures.dense
        return f"({percent:.3g}%)" if percent < 1000 else f"({percent:,.0f}%)"

    parts = [f"{params.total:,} parameters {share(params.total)}"]
    if report.structure.route is not None:
        parts.append(f"{params.active:,} active")
    parts.append(f"{int(2 * work.matrix):,} FLOPs {share(work.matrix)}")
    if rank and figures.rank.status == "proved":
        parts.append(f"rank {figures.rank.generic:,}")
    line = f"at {binding.d_in} x {binding.d_out}: {', '.join(parts)}"
    # Lines are broken between the parts alone.
    whole = line.replace(" ", "\xa0").replace(",\xa0", ", ")
    lines = wrap(whole, 88, initial_indent="# ", subsequent_indent="#   ")
    return "\n".join(lines).replace("\xa0", " ")
