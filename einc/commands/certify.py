"""The rank by elimination, where one waits for it or stops it."""

from __future__ import annotations

from dataclasses import replace

from einc import compiler
from einc.analysis.profile import Profile
from einc.output import waiting

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


def certified(report: Profile) -> tuple[Profile, bool]:
    """With the rank by elimination; or without, where Ctrl-C stopped that."""
    try:
        return compiler.certify(report, waiting), False
    except KeyboardInterrupt:
        if report.figures is None:
            raise
        rank = replace(report.figures.rank, method="elimination was interrupted")
        return replace(report, figures=replace(report.figures, rank=rank)), True
