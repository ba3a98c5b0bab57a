"""The JSON documents: complete, and alone on stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from terminal import call, einc

from einc import library

PROFILE: dict[str, Any] = {
    "schema": "einc.profile/1",
    "structure": "btt",
    "equations": ["y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]"],
    "arguments": {"rank": "1"},
    "features": {"in": 1024, "out": 1024, "padded_in": 1024, "padded_out": 1024},
    "sizes": {"g": 32, "a": 32, "f": 32, "e": 32, "r": 1},
    "params": {
        "formula": ...,
        "total": 65536,
        "active": 65536,
        "router": 0,
        "scales": 0,
        "factors": {"A": 32768, "B": 32768},
    },
    "macs": {
        "formula": ...,
        "forward": 65536,
        "matrix": 65536,
        "all_experts": 65536,
        "router": 0,
        "training": 196608,
        "dense_forward": 1048576,
        "per_call": 268435456,
    },
    "flops": {
        "forward": 131072,
        "all_experts": 131072,
        "router": 0,
        "training": 393216,
        "dense_forward": 2097152,
        "elementwise": 0,
    },
    "memory": {
        "largest_intermediate": 1024,
        "saved_for_backward": 2048,
        # x, z twice and y, and the two factors for each of 4096 tokens
        "bytes_moved": 4 * (4 * 1024 + 65536 // 4096),
        "intensity": 131072 / (4 * (4 * 1024 + 65536 // 4096)),
    },
    "rank": {"formula": ..., "bound": 1024, "generic": 1024, "status": "proved"},
    "exponents": {
        "omega": "0",
        "psi": "1",
        "nu": "1/2",
        "psi_status": "exact",
        "order": ["A", "B"],
        "merged": {"omega": ..., "psi": ..., "nu": ...},
        "formulas": {"omega": ..., "psi": ..., "nu": ...},
    },
    "class": "full-rank unshared",
    "order": {
        "kind": "best",
        "tokens": 4096,
        "steps": [
            {"operands": ["x", "A"], "einsum": ..., "result": ..., "macs": 32768},
            {"operands": ["z", "B"], "einsum": ..., "result": "y", "macs": 32768},
        ],
    },
    "routing": None,
    "warnings": [],
}
"""The document of `einc analyze btt --in 1024`; `...` stands for any text."""

DIAGNOSTIC = {
    "code",
    "severity",
    "message",
    "file",
    "line",
    "column",
    "end_line",
    "end_column",
    "help",
}


def assert_covers(found: Any, wanted: Any, where: str = "") -> None:
    """Everything wanted is there; `found` may have more keys."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            assert key in found, f"{where}.{key} is missing"
            assert_covers(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_covers(one, other, f"{where}[{number}]")
    elif wanted is ...:
        assert isinstance(found, str) and found, where
    else:
        assert (found, type(found)) == (wanted, type(wanted)), where


def keys(document: Any) -> Any:
    """The keys of a document, at every depth."""
    if isinstance(document, dict):
        return {key: keys(value) for key, value in document.items()}
    return None


def test_the_profile_is_as_documented():
    ended = einc("analyze", "btt", "--in", "1024", "--json")
    assert (ended.status, ended.err) == (0, "")
    assert_covers(ended.json, PROFILE)
    assert ended.json["rank"]["formula"] == "Min(d_in, d_out, f*g*r)"
    assert [s["einsum"] for s in ended.json["order"]["steps"]] == [
        "...ga,gafr->...gfr",
        "...gfr,fgre->...fe",
    ]


def test_without_features_the_keys_are_the_same_and_the_figures_null():
    bound = einc("analyze", "btt", "--in", "1024", "--json").json
    symbolic = einc("analyze", "btt", "--json").json
    assert keys(symbolic) == keys(bound)
    for group in ("features", "params", "macs", "flops", "memory"):
        known = ("formula", "scales")  # without features too
        figures = {k: v for k, v in symbolic[group].items() if k not in known}
        figures |= figures.pop("factors", {})
        assert set(figures.values()) == {None}, group
    assert set(symbolic["sizes"].values()) == {None}
    assert symbolic["rank"]["bound"] is symbolic["rank"]["generic"] is None
    assert symbolic["order"]["tokens"] is None
    assert [s["macs"] for s in symbolic["order"]["steps"]] == [None, None]
    for same in ("arguments", "equations", "exponents", "class"):
        assert symbolic[same] == bound[same]
    assert symbolic["params"]["scales"] == bound["params"]["scales"]


def test_fixed_structures_have_no_exponents():
    body = "y[o] = x[i] * W[i, o]  i = 4  o = 8"
    document = einc("analyze", "-e", body, "--json").json
    assert (document["features"]["in"], document["features"]["out"]) == (4, 8)
    assert document["exponents"] is document["class"] is None
    assert document["params"]["total"] == 32


def test_a_routed_profile():
    document = einc("analyze", "btt_moe", "--in", "1024", "--json").json
    assert document["routing"] == {"index": "r", "experts": 8, "active": 2}
    params = document["params"]
    assert (params["total"], params["active"]) == (524288, 131072)
    assert params["router"] == 8 * 1024 == document["macs"]["router"]
    assert document["flops"]["forward"] == 262144
    assert document["flops"]["all_experts"] == 1048576
    assert document["class"] == "routed full-rank unshared"
    symbolic = einc("analyze", "btt_moe", "--json").json
    assert symbolic["routing"] == {"index": "r", "experts": None, "active": None}


def test_a_profile_of_a_sum():
    document = einc("analyze", "low_rank_plus_block", "--in", "1024", "--json").json
    assert len(document["equations"]) == 2
    assert document["params"]["factors"] == {"U": 32768, "V": 32768, "D": 32768}
    assert document["flops"]["elementwise"] == 1024  # the terms are added
    assert [s["result"] for s in document["order"]["steps"]] == ["z", "y1", "y2"]
    assert document["rank"]["status"] == "proved"


def test_a_profile_of_tied_and_normalized_factors():
    body = "y[o] = x[i] * U[i, r] * U[o, r]  r = 8  normalize all"
    document = einc("analyze", "-e", body, "--in", "64", "--json").json
    assert document["params"]["factors"] == {"U": 512}
    assert document["params"]["scales"] == 1
    assert document["flops"]["elementwise"] == 3 * 512 / 4096
    assert document["rank"] == {
        "formula": "Min(d_in, d_out, r)",
        "bound": 8,
        "generic": 8,
        "status": "proved",
        "least": 8,
        "method": "elimination of 64 x 64, modulo 2147483629",
        "cuts": [{"indices": ["r"], "size": 8, "x_side": ["U"], "y_side": ["U"]}],
    }
    assert document["exponents"]["psi_status"] == "bound only"


def test_padding_and_warnings_are_in_the_document():
    given = ("analyze", "block_diagonal", "-D", "blocks=7", "--in", "1000", "--json")
    ended = einc(*given)
    assert (ended.status, ended.err) == (0, "")
    features = ended.json["features"]
    assert (features["in"], features["padded_in"]) == (1000, 1001)
    assert {w["code"] for w in ended.json["warnings"]} == {"W105"}
    assert set(ended.json["warnings"][0]) == {"code", "message", "line", "column"}


def test_figures_hold_for_the_tokens_planned_for():
    given = ("analyze", "dense", "--in", "64", "--tokens", "3", "--json")
    document = einc(*given).json
    assert document["order"]["tokens"] == 3
    assert document["macs"]["per_call"] == 3 * 64 * 64


def test_the_taxonomy_is_a_list_of_profiles():
    document = einc("taxonomy", "btt", "dense", "--json").json
    assert document["schema"] == "einc.taxonomy/1"
    btt, dense = document["rows"]
    assert btt.pop("family") == "monarch"  # of rank 1
    assert btt == einc("analyze", "btt", "--in", "1024", "--json").json
    assert dense["structure"] == "dense"


@pytest.mark.parametrize("command", ["analyze", "taxonomy", "check"])
def test_diagnostics_are_a_document_of_their_own(command: str):
    ended = einc(command, "-e", "y[o] = x[i] * W[i, k, o]", "--json")
    assert (ended.status, ended.err) == (1, "")
    assert ended.json["schema"] == "einc.diagnostics/1"
    (found,) = ended.json["diagnostics"]
    assert set(found) == DIAGNOSTIC
    assert (found["code"], found["severity"]) == ("E201", "error")
    assert (found["file"], found["line"]) == ("<expression>", 1)
    assert (found["end_line"], found["end_column"]) == (1, found["column"] + 1)


def test_one_document_for_all_that_is_checked(tmp_path: Path):
    (tmp_path / "bytes.ein").write_bytes(b"structure a \xff")
    (tmp_path / "syntax.ein").write_text("structure a { y[o] == x[i] }")
    ended = call("check", ".", "btt", "bytes.ein", "syntax.ein", "--json", cwd=tmp_path)
    assert (ended.status, ended.err) == (1, "")
    found = [(d["code"], d["file"]) for d in ended.json["diagnostics"]]
    assert found == 2 * [("E006", "bytes.ein"), ("E002", "syntax.ein")]
    document = einc("check", "btt", "--json").json
    assert document == {"schema": "einc.diagnostics/1", "diagnostics": []}


def test_names_that_clash_hide_nothing(tmp_path: Path):
    """Each structure is looked at, and what is found stands in the file's order."""
    text = "structure a { y[o] = x[i] * W[i, p] }\n"
    (tmp_path / "two.ein").write_text(text * 2)
    ended = call("check", "two.ein", "--json", cwd=tmp_path)
    found = [(d["line"], d["code"]) for d in ended.json["diagnostics"]]
    assert found == [(1, "E109"), (1, "E201"), (2, "E401"), (2, "E109"), (2, "E201")]


def test_places_under_a_route_are_those_of_the_file(tmp_path: Path):
    text = "# one\nstructure a {\n  y[o] = x[i] * U[i, r, k] * V[r, o]\n  r, k = 4\n}\n"
    (tmp_path / "a.ein").write_text(text)
    places = []
    for route in ((), ("--route", "r:2")):
        command = ("analyze", "a.ein", "--in", "16", "--json", *route)
        (warning,) = call(*command, cwd=tmp_path).json["warnings"]
        places.append((warning["code"], warning["line"], warning["column"]))
    assert places == [("W101", 3, 25)] * 2


def test_the_library_as_a_document():
    document = einc("list", "--json").json
    assert document["schema"] == "einc.library/1"
    assert [s["name"] for s in document["structures"]] == list(library.NAMES)
    btt = document["structures"][library.NAMES.index("btt")]
    assert btt["arguments"] == {"rank": "1"}
    assert btt["equations"] == PROFILE["equations"]


def test_used_wrongly_there_is_no_document():
    ended = einc("check", "missing.ein", "--json")
    assert (ended.status, ended.out) == (2, "")
