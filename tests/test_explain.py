"""The pages of `einc explain`: one a code, and what their examples claim is true."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from frontend import diagnose
from terminal import einc

from einc import cli, explain
from einc.errors import FAULTS, UsageError

FOLDER = Path(explain.__file__).with_name("explanations")
COMMAND = typer.main.get_command(cli.app)

CONSOLE = ("E006",)
"""Faults that are not in the text of a spec: their examples are commands."""
LATIN = "# Größe\nstructure dense { y[o] = x[i] * W[i, o] }\n".encode("latin-1")
"""`layer.ein`, of which the page of E006 speaks."""

SPECS = [code for code in FAULTS if code not in CONSOLE]


def test_one_page_a_code() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{c}.md" for c in FAULTS}


@pytest.mark.parametrize("code", FAULTS)
def test_parts_of_a_page(code: str) -> None:
    """A heading, some prose, and two short examples that differ."""
    page = explain.page(code)
    fence = "console" if code in CONSOLE else "ein"
    example = rf"```{fence}(?: \d+x\d+)?\n((?:.+\n){{1,7}})```\n"
    shape = rf"# {code}: (.+)\n\n((?:.+\n)+)\nWrong:\n\n{example}\nRight:\n\n{example}"
    parts = re.fullmatch(shape, page)
    assert parts is not None
    title, prose, wrong, right = parts.groups()
    assert explain.title(code) == title
    assert title[0].islower() or title[0] == "`"
    assert 2 <= len(re.findall(r"[.!?](?=\s)", prose)) <= 5
    assert max(map(len, page.splitlines())) <= 88
    assert wrong != right
    assert [e.text for e in explain.examples(code)] == [wrong, right]


@pytest.mark.parametrize("code", SPECS)
def test_wrong_example(code: str) -> None:
    """It raises the code, and nothing but the code."""
    wrong, _ = explain.examples(code)
    assert set(_codes(wrong.text, wrong.shape)) == {code}


@pytest.mark.parametrize("code", [c for c in FAULTS if c not in CONSOLE])
def test_right_example(code: str) -> None:
    """It raises nothing where the wrong one is wrong, nor at an everyday width."""
    wrong, right = explain.examples(code)
    assert right.shape == wrong.shape
    assert _codes(right.text, right.shape or "1024x1024") == []


@pytest.mark.parametrize("code", CONSOLE)
def test_console_examples(
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The wrong command ends with the code and status 1, the right one with 0."""
    (tmp_path / "layer.ein").write_bytes(LATIN)
    monkeypatch.chdir(tmp_path)
    wrong, right = explain.examples(code)
    assert _run(wrong.text) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"[{code}]" in err
    assert _run(right.text) == 0
    out, err = capsys.readouterr()
    assert out != "" and err == ""


def test_codes_are_found_in_either_case() -> None:
    assert explain.page("w101") == explain.page("W101")


@pytest.mark.parametrize("code", ["E000", "E1", "", "../E101", "E101.md"])
def test_unknown_code(code: str) -> None:
    with pytest.raises(UsageError, match="there is no diagnostic"):
        explain.page(code)


# The command


@pytest.mark.parametrize("code", FAULTS)
def test_the_command_prints_the_page(code: str) -> None:
    for written in (code, code.lower()):
        ended = einc("explain", written)
        assert (ended.status, ended.out, ended.err) == (0, explain.page(code), "")


def test_the_command_lists_all_codes() -> None:
    ended = einc("explain")
    assert (ended.status, ended.err) == (0, "")
    lines = [line.split("  ", 1) for line in ended.out.splitlines()]
    assert lines == [[code, explain.title(code)] for code in sorted(FAULTS)]


@pytest.mark.parametrize("code", ["E000", "E2", "../E201", "E201.md", "E 201"])
def test_the_command_knows_no_other(code: str) -> None:
    ended = einc("explain", code)
    assert (ended.status, ended.out) == (2, "")
    wanted = f"error: there is no diagnostic `{code}`; `einc explain` lists them\n"
    assert ended.err == wanted


def _codes(text: str, shape: str) -> list[str]:
    """All that is said of a file, with its structures bound to `shape` if any."""
    d_in, _, d_out = shape.partition("x")
    features = (int(d_in), int(d_out)) if shape else None
    return [diagnostic.code for diagnostic in diagnose(text, features)]


def _run(text: str) -> int:
    """The exit status of the last command of a console; einc runs in this process."""
    status = 0
    for line in text.splitlines():
        prompt, program, *arguments = shlex.split(line)
        assert prompt == "$"
        if program == "einc":
            status = COMMAND.main(arguments, "einc", standalone_mode=False) or 0
            continue
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        subprocess.run(line.removeprefix("$ "), shell=True, check=True)
    return status
