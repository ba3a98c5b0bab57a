"""`einc draw` and `einc taxonomy --plot`: files written whole or not at all.

What is in the pictures is tested in test_drawing.py and test_maps.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from terminal import call

from einc import library

OWN = "structure mine { y[p, q] = x[j, k] * A[j, p] * B[k, q]  j, p ~ d^(1/2) }"
FIXED = "structure fixed { y[o] = x[i] * W[i, o]  i = 4  o = 8 }"


@pytest.mark.parametrize("end", ["svg", "png", "pdf"])
def test_a_structure_is_drawn(tmp_path: Path, end: str):
    file = tmp_path / f"btt.{end}"
    ended = call("draw", "btt", "--in", "1024", "-D", "rank=2", "-o", str(file))
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[end]
    assert file.read_bytes().startswith(start)


def test_drawings_are_those_of_the_options(tmp_path: Path):
    def drawn(*options: str) -> bytes:
        file = tmp_path / "a.svg"
        assert call("draw", *options, "-o", str(file), "--force").status == 0
        return file.read_bytes()

    plain = drawn("btt")
    others = [
        drawn("btt", "--in", "64"),
        drawn("btt", "-D", "rank=8"),
        drawn("btt", "--route", "r:1"),
        drawn("-e", "y[o] = x[i] * W[i, o]"),
    ]
    assert len({plain, *others}) == 5 and drawn("btt") == plain


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ("btt", 2, "-o FILE"),
        ("btt -o a.txt", 2, "a.txt"),
        ("btt -o there.svg", 2, "--force"),
        ("btt -o nowhere/a.svg", 2, "cannot write"),
        ("nothing -o a.svg", 2, "cannot read `nothing`"),
        ("fixed.ein --in 5 -o a.svg", 1, "error[E"),
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, options: str, status: int, message: str):
    (tmp_path / "there.svg").write_text("kept")
    (tmp_path / "fixed.ein").write_text(FIXED)
    ended = call("draw", *options.split(), cwd=tmp_path)
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
    assert (tmp_path / "there.svg").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fixed.ein", "there.svg"]


@pytest.mark.parametrize("end", ["svg", "html"])
def test_the_map_has_the_library_and_what_is_named(tmp_path: Path, end: str):
    (tmp_path / "mine.ein").write_text(OWN)
    (tmp_path / "fixed.ein").write_text(FIXED)
    table = call("taxonomy", "mine.ein", "fixed.ein", "btt", cwd=tmp_path)
    names = ("mine.ein", "fixed.ein", "btt", "--plot", f"map.{end}")
    ended = call("taxonomy", *names, cwd=tmp_path)
    assert (ended.status, ended.out) == (0, table.out)
    assert "not on the map, without exponents: fixed" in ended.err
    text = (tmp_path / f"map.{end}").read_text()
    for name in (*library.NAMES, "mine"):
        assert name in text, name
    assert text.count("<td>your own</td>") == (end == "html")


@pytest.mark.parametrize("features", ["5", "2000000"])
def test_a_map_where_the_library_does_not_take_the_features(
    tmp_path: Path, features: str
):
    """Its structures stand there all the same: they have exponents."""
    file = tmp_path / "map.html"
    ended = call("taxonomy", "btt", "--in", features, "--plot", str(file))
    assert ended.status == 0
    assert "block_diagonal" in file.read_text() and "dense" in file.read_text()


def test_a_map_is_kept_unless_forced(tmp_path: Path):
    file = tmp_path / "map.html"
    file.write_text("kept")
    refused = call("taxonomy", "btt", "--plot", str(file))
    assert refused.status == 2 and file.read_text() == "kept"
    assert call("taxonomy", "btt", "--plot", str(file), "--force").status == 0
    assert "kept" not in file.read_text()
    wrong = call("taxonomy", "btt", "--plot", str(tmp_path / "map.gif"))
    assert wrong.status == 2 and ".html" in wrong.err
