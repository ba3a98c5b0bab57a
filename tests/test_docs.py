"""The documentation is real: its commands and its Python are run, its output compared.

Blocks by their language:

- `console`: what follows `$ ` is run by bash, one process a block, in a folder that the
  blocks of a page share; what follows that is its output, stderr included.
- `python`: run in order, in a namespace that the blocks of a page share. What it prints
  is the `text` block that follows; none may follow where it prints nothing.
- `ein`: has no faults. Where the first line is `# NAME.ein` it is that file of the
  folder instead, faults or not.

`pytest tests/test_docs.py --update-docs` writes the output anew: read the difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import models  # noqa: F401  transformers can be imported where it is
import pytest
from terminal import ROOT, environment

from einc import compiler, specs

PAGES = [p for p in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if p.exists()]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"\s*^```text\n.*?^```$", re.MULTILINE | re.DOTALL)
MARK = "--- next command ---"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a page's commands run: `einc` is this tree's, `examples/` is there."""
    command = tmp_path / "bin" / "einc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m einc "$@"\n')
    command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "examples").symlink_to(ROOT / "examples")
    return work


def run_console(body: str, folder: Path) -> str:
    """The block as it should be: its commands, each with what it prints."""
    commands = re.findall(r"^\$ (.*)$", body, re.MULTILINE)
    script = f"\necho; echo '{MARK}'; (exit $status)\n".join(
        f"{command}\nstatus=$?" for command in commands
    )
    path = os.pathsep.join((str(folder.parent / "bin"), os.environ["PATH"]))
    ended = subprocess.run(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment(PATH=path),
        check=False,
    )
    printed = ended.stdout.decode().split(f"\n{MARK}\n")
    assert len(printed) == len(commands)
    shown = ""
    for command, output in zip(commands, printed, strict=True):
        shown += f"$ {command}\n{output}"
        shown += "\n" * (not shown.endswith("\n"))
    return shown


def run_python(body: str, namespace: dict[str, Any], name: str) -> str:
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, name, "exec"), namespace)
    return printed.getvalue()


def check_ein(body: str, folder: Path) -> None:
    named = re.match(r"# (\w+\.ein)\n", body)
    path = folder / (named[1] if named else "unnamed.ein")
    path.write_text(body)
    if named is None:
        source = specs.read(str(path))
        for definition in specs.parse(source).definitions:
            compiler.compile_definition(source, definition)


def as_it_should_be(text: str, folder: Path, name: str) -> str:
    """The page with every output as it is now."""
    shown, done = "", 0
    namespace: dict[str, Any] = {"__name__": "docs"}
    while block := BLOCK.search(text, done):
        language, body = block.groups()
        shown += text[done : block.start()]
        done = block.end()
        if language == "console":
            shown += f"```console\n{run_console(body, folder)}```"
            continue
        shown += block[0]
        if language == "ein":
            check_ein(body, folder)
        elif language == "python":
            with contextlib.chdir(folder):
                printed = run_python(body, namespace, name)
            output = OUTPUT.match(text, done)
            done = output.end() if output else done
            shown += f"\n\n```text\n{printed}```" if printed else ""
    return shown + text[done:]


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_every_output_is_real(page: Path, folder: Path, request: pytest.FixtureRequest):
    text = page.read_text(encoding="utf-8")
    real = as_it_should_be(text, folder, page.name)
    if request.config.getoption("--update-docs"):
        page.write_text(real, encoding="utf-8")
    else:
        assert text == real


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_every_link_leads_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            path, _, place = target.partition("#")
            goal = page.parent / path if path else page
            assert goal.exists(), target
            assert not place or place in anchors(goal), target


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_what_is_wrong_is_seen(folder: Path):
    page = "```console\n$ einc show dense | wc -l\n0\n$ false\n$ echo $?\n1\n```\n"
    assert (
        "$ einc show dense | wc -l\n6\n$ false\n$ echo $?\n1\n```"
        in as_it_should_be(page, folder, "page")
    )
    page = "```python\nprint(1)\n```\n\n```text\n2\n```\nmore\n"
    assert as_it_should_be(page, folder, "page") == page.replace("2", "1")
    with pytest.raises(Exception, match="E201"):
        as_it_should_be(
            "```ein\nstructure a { y[o] = x[i] * W[i, k, o] }\n```\n", folder, ""
        )
