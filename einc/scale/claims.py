"""The claims that a study can test.

In: the `Summary`s of its contestants. Out: `Claim`s, each with what was found of every
contestant that it is about. Which those are follows from the exponents of their
structures, never from their names. (The claims are of Potapczynski, Qiu et al. 2024,
arXiv 2410.02117.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from einc.scale.multiplier import Comparison, Untold, Verdict
from einc.scale.results import Contestant
from einc.scale.summaries import Summary

Standing = Literal["holds", "does not hold", "cannot be told"]

DENSE = ("dense",)
EXPERTS = ("ffn_moe", "moe_everywhere")
"""The kinds of baselines."""


@dataclass(frozen=True)
class Finding:
    """A contestant that a claim is about, against one baseline."""

    contestant: str
    baseline: str
    comparison: Comparison
    expected: tuple[Verdict, ...]

    @property
    def standing(self) -> Standing:
        verdict = self.comparison.verdict
        if verdict == "cannot be told":
            return "cannot be told"
        return "holds" if verdict in self.expected else "does not hold"


@dataclass(frozen=True)
class Claim:
    """A claim about all contestants of a class, and what was found of each."""

    text: str
    findings: tuple[Finding, ...]

    @property
    def standing(self) -> Standing:
        """It holds if it does for each; one contestant is enough against it."""
        found = {finding.standing for finding in self.findings}
        if "does not hold" in found:
            return "does not hold"
        return "holds" if found == {"holds"} else "cannot be told"


def claims(summaries: Sequence[Summary]) -> tuple[Claim, ...]:
    """What the study says of each."""
    match: tuple[Verdict, ...] = ("match", "win")

    def claim(
        text: str,
        kinds: tuple[str, ...],
        concerns: Callable[[Contestant], bool],
        *expected: Verdict,
    ) -> Claim:
        findings = [
            finding
            for summary in summaries
            if summary.contestant.kind == "structure" and concerns(summary.contestant)
            for finding in _findings(summary, summaries, kinds, expected)
        ]
        return Claim(text, tuple(findings))

    routed = "routed structures with omega = 0 and psi = 1"
    return (
        claim(
            "structures with omega = 0 and psi = 1 need no more compute than dense "
            "layers at equal loss",
            DENSE,
            lambda c: not c.routed and _is_full(c),
            *match,
        ),
        claim(
            "structures with omega > 0 or psi < 1 need more compute than dense layers "
            "at equal loss",
            DENSE,
            lambda c: not c.routed and _is_lesser(c),
            "loss",
        ),
        claim(
            f"{routed} need less compute than dense layers at equal loss",
            DENSE,
            lambda c: c.routed and _is_full(c),
            "win",
        ),
        claim(
            f"{routed} need less compute than a standard mixture of experts at equal "
            "loss",
            EXPERTS,
            lambda c: c.routed and _is_full(c),
            "win",
        ),
    )


def _is_full(contestant: Contestant) -> bool:
    return contestant.omega == 0 and contestant.psi == 1


def _is_lesser(contestant: Contestant) -> bool:
    omega, psi = contestant.omega, contestant.psi
    return (omega is not None and omega > 0) or (psi is not None and psi < 1)


def _findings(
    summary: Summary,
    summaries: Sequence[Summary],
    kinds: tuple[str, ...],
    expected: tuple[Verdict, ...],
) -> list[Finding]:
    """Against each baseline of `kinds`; where the study has none, that it has none."""
    name = summary.contestant.name
    found = [
        Finding(name, other, comparison, expected)
        for other, comparison in summary.compute.items()
        if _kind(summaries, other) in kinds
    ]
    if found:
        return found
    return [Finding(name, kinds[0], Untold(f"the study has no {kinds[0]}"), expected)]


def _kind(summaries: Sequence[Summary], name: str) -> str:
    return next(s.contestant.kind for s in summaries if s.contestant.name == name)
