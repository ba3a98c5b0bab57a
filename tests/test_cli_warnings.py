"""`-W ACTION[:CODE]`: which warnings become errors, and which are not told.

Of several rules the last one that fits a warning decides. No rule touches errors.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from terminal import Ended, call, einc

from einc.errors import FAULTS

ODD = "y[o] = x[i] * A[i, k, r] * B[r, o]  k = 4  r = 100"
"""W101 of `k`; and of `r`, once there are 64 features, W103."""
FAULTY = "structure faulty { y[o] = x[i] * W[i, k, o]  j = 4 }"
AT = ("--in", "64")
COMMANDS = ("analyze", "codegen", "taxonomy", "check")


def run(command: str, *rules: str, body: str = ODD) -> Ended:
    given = (f"-W{rule}" for rule in rules)
    return einc(command, "-e", body, *AT, *given)


def told(ended: Ended) -> list[str]:
    """`E201`, or `error W103` for a warning that became an error, in order."""
    heads = re.findall(r"^(error|warning)\[(\w+)\]: ", ended.err, re.MULTILINE)
    return [
        code if FAULTS[code].severity == severity else f"{severity} {code}"
        for severity, code in heads
    ]


def test_there_are_two_warnings():
    for command in COMMANDS:
        ended = run(command)
        assert (ended.status, told(ended)) == (0, ["W101", "W103"])


RULES: dict[tuple[str, ...], tuple[int, list[str]]] = {
    ("error",): (1, ["error W101", "error W103"]),
    ("error:W103",): (1, ["W101", "error W103"]),
    ("error:w103",): (1, ["W101", "error W103"]),
    ("error:W105",): (0, ["W101", "W103"]),
    ("ignore",): (0, []),
    ("ignore:W103",): (0, ["W101"]),
    ("ignore:W103", "ignore:W101"): (0, []),
    # The last rule that fits decides.
    ("error", "ignore:W103"): (1, ["error W101"]),
    ("ignore:W103", "error"): (1, ["error W101", "error W103"]),
    ("error", "ignore"): (0, []),
    ("ignore", "error:W101"): (1, ["error W101"]),
    ("error:W103", "ignore:W103"): (0, ["W101"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("rules", RULES, ids=" ".join)
def test_rules(command: str, rules: tuple[str, ...]):
    status, codes = RULES[rules]
    ended = run(command, *rules)
    assert (ended.status, told(ended)) == (status, codes)
    if status == 1:
        assert ended.out == ""
    elif command != "check":
        assert ended.out == run(command).out


def test_what_is_checked_has_no_faults_where_all_are_ignored():
    assert run("check", "ignore").out == "1 structure checked, no faults\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "rule", ["", "warn", "Error", "W103", "error:W999", "ignore:E201", "ignore W103"]
)
def test_a_rule_that_is_none(command: str, rule: str):
    ended = einc(command, "-e", ODD, *AT, "-W", rule)
    assert (ended.status, ended.out) == (2, "")
    assert f"not `{rule}`" in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_errors_are_never_silenced(command: str, tmp_path: Path):
    (tmp_path / "faulty.ein").write_text(FAULTY)
    for rule in ("ignore", "error"):
        ended = call(command, "faulty.ein", *AT, "-W", rule, cwd=tmp_path)
        assert (ended.status, ended.out) == (1, "")
        assert told(ended) == ["E201", "E204"]


# Documents


@pytest.mark.parametrize("command", ["analyze", "taxonomy", "check"])
def test_errors_are_a_document(command: str):
    ended = einc(command, "-e", ODD, *AT, "--json", "-Werror:W103")
    assert (ended.status, ended.err) == (1, "")
    assert ended.json["schema"] == "einc.diagnostics/1"
    found = [(d["code"], d["severity"]) for d in ended.json["diagnostics"]]
    assert found == [("W101", "warning"), ("W103", "error")]


def test_what_is_ignored_is_not_in_a_document():
    given = ("-e", ODD, *AT, "--json", "-Wignore:W103")
    (found,) = einc("analyze", *given).json["warnings"]
    assert found["code"] == "W101"
    ((found,),) = (row["warnings"] for row in einc("taxonomy", *given).json["rows"])
    assert found["code"] == "W101"
    (found,) = einc("check", *given).json["diagnostics"]
    assert (found["code"], found["severity"]) == ("W101", "warning")


# Files


def test_no_file_is_written_where_a_warning_became_an_error(tmp_path: Path):
    generate = ("codegen", "-e", ODD, *AT, "-o", "made.py")
    ended = call(*generate, "-W", "error:W103", cwd=tmp_path)
    assert (ended.status, told(ended)) == (1, ["W101", "error W103"])
    assert list(tmp_path.iterdir()) == []
    ended = call(*generate, "-W", "ignore", cwd=tmp_path)
    assert ended == Ended(0, "", "")
    written = (tmp_path / "made.py").read_text()
    assert written == run("codegen").out
    ended = call(*generate, "--force", "-W", "error", cwd=tmp_path)
    assert ended.status == 1
    assert (tmp_path / "made.py").read_text() == written
