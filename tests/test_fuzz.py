"""A short run of fuzz.py, and what makes it fail. Long ones are run by hand."""

from __future__ import annotations

from collections.abc import Callable

import fuzz
import pytest
from faults import WRITTEN

from einc import compiler, library

SEED = 2026
FILES, SECONDS = 4_000, 40.0
"""A slow machine tries the first files alone."""


def test_nothing_fails(capsys: pytest.CaptureFixture[str]):
    outcomes = fuzz.fuzz(FILES, SEED, SECONDS)
    assert not outcomes["failed"], capsys.readouterr().out
    assert set(outcomes) == {"exit 0", "exit 1", "exit 2", "fmt"}
    # Enough of the files are sound to reach the later stages.
    assert outcomes["exit 0"] > sum(outcomes.values()) / 10


def test_a_seed_says_which_files():
    assert fuzz.fuzz(50, SEED) == fuzz.fuzz(50, SEED)
    assert fuzz.fuzz(50, SEED) != fuzz.fuzz(50, SEED + 1)


def test_it_starts_from_all_specs():
    specs = fuzz.corpus()
    for name in library.NAMES:
        assert library.source(name).text in specs
    for sample in WRITTEN:
        assert any(sample.text in spec for spec in specs), sample


# It can fail


def failures(capsys: pytest.CaptureFixture[str], files: int = 40) -> str:
    """What is printed of the files that failed, which are some."""
    outcomes = fuzz.fuzz(files, SEED)
    printed = capsys.readouterr().out
    assert outcomes["failed"] == printed.count("--- file ") > 0
    return printed


def test_a_traceback_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(compiler, "bind", broken)
    printed = failures(capsys)
    assert ": traceback: ZeroDivisionError: broken\n" in printed
    assert "structure" in printed  # the file is printed with it


def test_slowness_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fuzz, "SLOW", 0.0)
    assert ": 0.0 s\n" in failures(capsys)


ERRORS = '{"diagnostics": [{"severity": "error"}]}'
ANSWERS: dict[str, Callable[[str], tuple[int, str, str]]] = {
    "exit status 3": lambda command: (3, "", ""),
    "exit status 2: ": lambda command: (2, "", "what?"),
    "exit status 2: error: no": lambda command: (2, "result", "error: no"),
    "exit status 1 with 0 errors": lambda command: (1, "{}", "error[E201]: found"),
    "exit status 0 with 1 errors": lambda command: (0, ERRORS, ""),
    "exit status 1 with oops": lambda command: (1, "{}", "oops"),
    "exit status 0 with error[E201]": lambda command: (0, "{}", "error[E201]"),
    "output: JSONDecodeError: ": lambda command: (0, "none", ""),
    "output: SyntaxError: ": lambda command: (0, "def" * (command == "codegen"), ""),
}


@pytest.mark.parametrize("told", ANSWERS)
def test_a_wrong_answer_is_a_failure(
    told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fuzz, "run", lambda arguments: ANSWERS[told](arguments[0]))
    assert f": {told}" in failures(capsys)
