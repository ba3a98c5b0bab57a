"""A structure that was looked at closely, with all figures that a search is about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from einc.analysis.profile import Profile
from einc.search.candidates import Candidate
from einc.search.wishes import EXPONENTS, Figure, Number


@dataclass(frozen=True)
class Judged:
    """A structure at its features; `time` is its forward time over that of nn.Linear,
    where it was measured."""

    profile: Profile
    time: float | None = None

    @cached_property
    def figures(self) -> dict[Figure, Number]:
        """What limits and objectives are about."""
        found: dict[Figure, Number] = {}
        exponents, counts = self.profile.exponents, self.profile.figures
        if exponents is not None:
            best = exponents.best
            for exponent in EXPONENTS:
                value = getattr(best, exponent)
                if value is not None:  # without a factor there is no work
                    found[exponent] = value
        if counts is not None:
            params, flops = counts.parameters.total, 2 * counts.work.matrix
            found |= {
                "params": params,
                "flops": flops,
                # What is not proved is not promised.
                "rank": counts.rank.least,
                "intermediate": counts.memory.largest_intermediate,
            }
            if flops:
                found["params-per-flop"] = params / flops
        if self.time is not None:
            found["time"] = self.time
        return found

    @property
    def text(self) -> str:
        """Its .ein text."""
        return str(self.profile.structure)


@dataclass(frozen=True, kw_only=True)
class Found(Judged):
    """A structure that a search found, and what it was made of."""

    candidate: Candidate
