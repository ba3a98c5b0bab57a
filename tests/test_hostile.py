"""Input that means harm, or means nothing: docs/robustness.md, line by line.

Streams, devices and signals are in test_cli_streams.py, the words of limits in
faults.py.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from terminal import ROOT, call, einc

from einc import api, compiler, equations, expressions, parser, sizes, stated

SECONDS = 5.0
DENSE = "y[o] = x[i] * W[i, o]"


def deep(start: str, end: str, times: int = 20_000) -> str:
    return f"structure s {{ {DENSE} o ~ {start * times}d{end * times} }}"


def many(texts: list[str]) -> str:
    return f"structure s {{ {' '.join(texts)} }}"


NAMES = ", ".join(f"i{n}" for n in range(5000))
HOSTILE: dict[str, tuple[str, str | bytes]] = {
    "parentheses": ("E005", deep("(", ")")),
    "calls": ("E005", deep("min(", ", 2)")),
    "roots": ("E005", deep("sqrt(", ")")),
    "exponents": ("E005", deep("2^(", ")")),
    "open parentheses": ("E005", deep("(", "")),
    "operators": ("E005", deep("", " * d")),
    "digits": ("E005", many([DENSE, f"o = {'9' * 5000}"])),
    "decimals": ("E005", many([DENSE, f"o ~ 0.{'3' * 5000} * d"])),
    "tower": ("E211", many([DENSE, "o ~ 9^(9^(9^(9^9)))"])),
    "root of a tower": ("E211", many([DENSE, "o ~ ((9^9)^(9^9))^(1/9)"])),
    "product": ("E211", many([DENSE, f"o ~ {' * '.join(['9' * 30] * 100)}"])),
    "factors": ("E005", many(["y[o] = x[i]", *(f"* F{n}[i, o]" for n in range(500))])),
    "indices": ("E005", f"structure s {{ y[o] = x[i] * W[i, o, {NAMES}] }}"),
    "terms": ("E005", many([DENSE, *(f"y[o] += x[o] * V{n}[o]" for n in range(400))])),
    "statements": ("E005", many([DENSE, *(f"k{n} = {n}" for n in range(5000))])),
    "structures": ("E005", f"structure s {{ {DENSE} }}\n" * 5000),
    "one long line": ("E001", f"structure s {{ {DENSE} {' ' * 900_000}; }}"),
    "binary": ("E006", bytes(range(256)) * 100),
    "UTF-16": ("E006", f"structure s {{ {DENSE} }}".encode("utf-16")),
    "NUL": ("E001", f"structure s {{ {DENSE} \0 }}"),
    "escape": ("E001", "structure s { y[o] = x[\x1b[2J] }"),
    "nothing": ("E002", ""),
    "comment": ("E002", "# nothing"),
    "no equation": ("E101", "structure s { }"),
}


@pytest.mark.parametrize("command", ["check", "analyze", "codegen"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, command: str, tmp_path: Path):
    code, text = HOSTILE[name]
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "hostile.ein").write_bytes(data)
    started = time.monotonic()
    ended = call(command, "hostile.ein", "--in", "64", cwd=tmp_path)
    assert time.monotonic() - started < SECONDS
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"error[{code}]: ")
    assert re.search(r"^ --> hostile\.ein:\d+:\d+$", ended.err, re.MULTILINE)
    assert "\x1b" not in ended.err and len(ended.err) < 10_000


def test_a_byte_order_mark_and_line_ends_do_not_matter(tmp_path: Path):
    lines = ("structure s {", "  y[o] = x[i] * W[i, k, o]", "}", "")
    path = tmp_path / "s.ein"
    for start in (b"", b"\xef\xbb\xbf"):
        for end in (b"\n", b"\r\n"):
            path.write_bytes(start + end.join(line.encode() for line in lines))
            ended = call("check", "s.ein", cwd=tmp_path)
            assert ended.status == 1 and " --> s.ein:2:22\n" in ended.err


def test_what_a_spec_says_is_not_executed(tmp_path: Path):
    """Its text stands in comments and strings, whatever Python calls a line end."""
    text = "''' \\ \\n {0} %s } # \u6f22 import os"
    (tmp_path / "s.ein").write_text(f'structure s {{ "{text}" {DENSE} }}')
    ended = call("codegen", "s.ein", "--in", "8", cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    compile(ended.out, "s.py", "exec")
    said = [line for line in ended.out.splitlines() if "import os" in line]
    assert said and all(line.startswith("#") for line in said)
    for end in "\u2028\u2029\u0085\v\f":
        (tmp_path / "s.ein").write_text(f'structure s {{ "a{end}import os" {DENSE} }}')
        ended = call("codegen", "s.ein", "--in", "8", cwd=tmp_path)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("error[E001]: ")


def test_hostile_options():
    digits = "9" * 5000
    for option in ("-Drank=" + digits, "-Drank=1e999999", "-Drank=1/" + digits):
        ended = einc("analyze", "btt", "--in", "64", option)
        assert (ended.status, ended.out) == (2, "") and len(ended.err) < 1000
    for option in ("--in", "--out", "--tokens"):
        ended = einc("analyze", "btt", "--in", "64", option, "9" * 20)
        assert (ended.status, ended.out) == (2, "")


def test_the_page_has_the_limits():
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert parser.MAX_BYTES == 1 << 20 and "1 MiB" in page
    assert stated.MAX_SIZE == compiler.MAX_TOKENS == 2**31 - 1 and "2^31 - 1" in page
    assert sizes.MAX_ELEMENTS == 2**40 and "2^40 elements" in page
    for limit in (
        f"{parser.MAX_STRUCTURES} structures",
        f"{parser.MAX_STATEMENTS} parameters and statements",
        f"{equations.MAX_TERMS} terms",
        f"{equations.MAX_FACTORS} factors",
        f"{equations.MAX_INDICES} indices",
        f"{parser.MAX_NESTING} parentheses",
        f"{parser.MAX_OPERATORS} operators",
        f"{parser.MAX_DIGITS} digits",
        f"{expressions.MAX_BITS} bits",
        f"{api.MAX_ARGUMENT_LENGTH} characters",
    ):
        assert limit in page, limit
