"""The studies that are kept: complete, and their reports are of their runs."""

from __future__ import annotations

import pytest
from terminal import ROOT

from einc.scale import report, results

KEPT = ROOT / "benchmarks" / "results" / "scale"
FIVE = ("dense", "btt", "btt_moe")
TWO = ("btt(rank=4)", "low_rank", "kronecker", "tensor_train", "dense_moe", "found")


@pytest.mark.parametrize("name", ["regression", "text"])
def test_a_kept_study(name: str) -> None:
    found = results.load(KEPT / name)
    assert report.markdown(found) == (KEPT / name / "report.md").read_text()
    assert not found.missing and not found.failures
    seeds, widths = found.study["seeds"], found.study["widths"]
    assert all(seeds[one] >= 5 for one in FIVE) and len(widths) >= 4
    baselines = ("ffn_moe", "moe_everywhere") if name == "text" else ("ffn_moe",)
    assert all(seeds[one] >= 2 for one in (*TWO, *baselines))
