"""`einc fmt`: one layout, no meaning changed, no comment lost, nothing left to do."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from faults import WRITTEN
from terminal import ROOT, call

from einc.errors import SpecError
from einc.layout import WIDTH, laid_out
from einc.parser import parse
from einc.source import Source

FILES = sorted(ROOT.glob("e*/**/*.ein"))
TOKEN = re.compile(r'"[^"\n]*"|#[^\n]*|\s+|\w+|.', re.DOTALL)


def comments(text: str) -> list[str]:
    return [t.rstrip() for t in TOKEN.findall(text) if t.startswith("#")]


def check(text: str) -> str:
    source = Source("text", text)
    once = laid_out(source)
    assert laid_out(Source("text", once)) == once
    assert parse(Source("text", once)) == parse(source)
    assert sorted(comments(once)) == sorted(comments(text))
    assert "\n\n\n" not in once and not re.search(r"[ \t]$", once, re.MULTILINE)
    for line in once.splitlines():
        unbroken = "#" in line or '"' in line or re.search(r"\w{80}", line)
        assert len(line) <= WIDTH or unbroken
    return once


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_comments_anywhere(path: Path) -> None:
    text = path.read_text()
    check(text)
    rng = random.Random(path.stem)
    for _ in range(25):
        tokens = TOKEN.findall(text)
        for number in range(rng.randint(1, 6)):
            comment = f"# c{number}\n"
            added = rng.choice(
                ["\n", "\n\n\n", f" {comment}", f"\n{comment}", f"\n\n{comment}\n"]
            )
            tokens.insert(rng.randrange(len(tokens) + 1), added)
        changed = "".join(tokens)
        try:
            parse(Source("text", changed))
        except SpecError:  # a blank in the middle of a name
            continue
        check(changed)


def test_all_in_one_line_and_all_in_many() -> None:
    expected = (
        'structure s(rank = 2) {\n  "What it is."\n\n'
        "  y[o] = x[i] * U[i, r] * V[r, o]\n\n  r = rank\n}\n"
    )
    tokens = TOKEN.findall(expected)
    for blank in (" ", "\n", "\n\n\t "):
        parts = [blank if token.isspace() else token for token in tokens]
        assert check("".join(parts)) == expected


def test_where_comments_go() -> None:
    text = """

# first


# second

structure s { # head
# of the equation
  y[o] = # inside
    x[i] * W[i, o]  # behind


  # of the size

  # and more
  i = 4
  # last
}  # closed
# end"""
    assert (
        check(text)
        == """\
# first

# second

structure s {  # head
  # of the equation
  # inside
  y[o] = x[i] * W[i, o]  # behind

  # of the size

  # and more
  i = 4
  # last
}  # closed
# end
"""
    )


def test_long_lines_are_wrapped() -> None:
    factors = " * ".join(f"Factor{n}[left{n}, right{n}]" for n in range(4))
    text = f"structure s {{ y[right3] = x[left0] * {factors} }}"
    lines = check(text).splitlines()
    assert lines[1].startswith("  y[right3] = x[left0] *")
    assert lines[2].startswith("      ")


def test_a_name_that_is_longer_than_a_line_is_not_broken() -> None:
    name = "a" * 200
    text = f"structure s({name}p = 2) {{ y[o] = x[i] * {name}[i, r] * B[r, o] "
    check(f"{text} r = {name}p }}")


def test_hundreds_of_thousands_of_comments() -> None:
    text = "#\n" * 200_000 + "structure s { y[o] = x[o] }\n"
    assert laid_out(Source("text", text)).count("#") == 200_000


# The command


def test_files_folders_and_what_is_told(tmp_path: Path) -> None:
    ugly, fine = "structure s{y[o]=x[i]*W[i,o]}", "structure s {\n  y[o] = x[o]\n}\n"
    (tmp_path / "ugly.ein").write_text(ugly)
    (tmp_path / "ugly.ein").chmod(0o640)
    (tmp_path / "fine.ein").write_text(fine)
    (tmp_path / "lines.ein").write_bytes(fine.replace("\n", "\r\n").encode())
    ended = call("fmt", "--check", ".", cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        "would lay out lines.ein\nwould lay out ugly.ein\n"
        "2 files would be laid out, 1 file as before\n"
    )
    assert (tmp_path / "ugly.ein").read_text() == ugly
    ended = call("fmt", ".", cwd=tmp_path)
    assert (ended.status, ended.out) == (0, "")
    assert ended.err == "2 files laid out, 1 file as before\n"
    assert (
        tmp_path / "ugly.ein"
    ).read_text() == "structure s {\n  y[o] = x[i] * W[i, o]\n}\n"
    assert (tmp_path / "ugly.ein").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "lines.ein").read_bytes() == fine.encode()
    ended = call("fmt", "--check", "ugly.ein", "fine.ein", cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "2 files as before\n")


def test_standard_input_goes_to_standard_output() -> None:
    ended = call("fmt", "-", stdin=b"structure s{y[o]=x[o]}#c")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == "structure s {\n  y[o] = x[o]\n}  # c\n".replace("# c", "#c")
    assert call("fmt", "--check", "-", stdin=b"structure s{y[o]=x[o]}").status == 1


def test_faults_are_told_and_the_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "bad.ein").write_text("structure s{y[o]=x[i]*}")
    (tmp_path / "ugly.ein").write_text("structure s{y[o]=x[o]}")
    ended = call("fmt", "bad.ein", "ugly.ein", cwd=tmp_path)
    assert ended.status == 1 and "bad.ein:1:23" in ended.err
    assert (tmp_path / "bad.ein").read_text() == "structure s{y[o]=x[i]*}"
    assert (tmp_path / "ugly.ein").read_text() == "structure s {\n  y[o] = x[o]\n}\n"


def test_the_library_is_not_laid_out(tmp_path: Path) -> None:
    ended = call("fmt", "btt", cwd=tmp_path)
    assert (ended.status, ended.err) == (
        2,
        "error: `btt` is of einc's library; name a file\n",
    )


def test_our_own_files_are_laid_out() -> None:
    ended = call("fmt", "--check", "examples", "einc/library")
    assert (ended.status, ended.err) == (0, f"{len(FILES)} files as before\n")


@pytest.mark.parametrize("sample", WRITTEN, ids=lambda sample: sample.code)
def test_what_does_not_parse_has_no_layout(sample) -> None:
    source = Source("text", sample.text)
    try:
        parse(source)
    except SpecError:
        with pytest.raises(SpecError):
            laid_out(source)
    else:
        check(sample.text)
