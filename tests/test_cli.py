"""The commands: what they take, what they answer, with which exit status.

0 done; 1 the spec has faults; 2 the command was used wrongly or a file cannot be
read or written. Documents are in test_cli_json.py, streams in test_cli_streams.py,
`-W` in test_cli_warnings.py and `explain` in test_explain.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from terminal import CONTROL, call, einc

import einc as package
from einc import library
from einc.cli import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

OPTIONS = {
    "analyze": "SPEC -e/--expr --in --out -D --route -W --tokens --order"
    " --why --spectrum --plot --device --force --json --no-color",
    "codegen": "SPEC -e/--expr --in --out --shape -D --route -W --tokens --order"
    " --dtype --backward --kernels --tune --class-name --emit -o/--output --force",
    "taxonomy": "[SPEC]... -e/--expr --in --out -D -W --tokens --order"
    " --csv --markdown --plot --force --json --no-color",
    "search": "--in --out --factors --both --grid --omega --psi --nu --max-flops"
    " --max-params --max-intermediate --min-rank --objective --pareto --top --measure"
    " --tokens --seed --save --resume --plot --force --json --no-color",
    "draw": "SPEC -e/--expr --in --out -D --route -W --tokens --order"
    " -o/--output --force",
    "scale": "-o/--output [SPEC]... --task --data -D --widths --depth --seeds --seeds-of"
    " --steps --minutes --lr --experts --auxiliary --device --workers --threads --ray"
    " --resume --plot"
    " --force --json --no-color",
    "bench": "SPEC -e/--expr --in --out -D --route -W --tokens --dtype --device --pass"
    " --kernels --calibrate --compile --beside --plot --force --json --no-color",
    "check": "[SPEC]... -e/--expr --in --out -D -W --json",
    "fmt": "FILE... --check",
    "explain": "[CODE]",
    "list": "--json --no-color",
    "show": "NAME",
}

TWO = """
structure first { y[o] = x[i] * W[i, o] }
structure second(rank = 2) { y[o] = x[i] * U[i, r] * V[r, o]  r = rank }
"""
FAULTY = "structure faulty {\n  y[o] = x[i] * W[i, k, o]\n}\n"
FIXED = "structure fixed { y[o] = x[i] * W[i, o]  i = 4  o = 8 }"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good file, a faulty one and one of fixed sizes."""
    (tmp_path / "two.ein").write_text(TWO)
    (tmp_path / "faulty.ein").write_text(FAULTY)
    (tmp_path / "fixed.ein").write_text(FIXED)
    return tmp_path


# The frozen list


def test_the_commands_and_options_are_these():
    found = {
        name: " ".join(
            "/".join(p.opts) if p.param_type_name == "option" else str(p.metavar)
            for p in command.params
        )
        for name, command in COMMANDS.items()
    }
    assert found == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_help_leads_with_an_example_that_runs(name: str, tmp_path: Path):
    first, blank, *_ = COMMANDS[name].help.splitlines()
    assert first.startswith(f"Example: einc {name}") and not blank
    (tmp_path / "my.ein").write_text(TWO)
    example = first.removeprefix("Example: einc ").partition(" > ")[0]
    # The same in seconds where it takes long.
    tiny = "--widths 8,16 --depth 1 --seeds 1 --steps 2 --lr 0.01"
    example = example.replace("--minutes 60", tiny)
    example += " --tokens 16" * (name == "bench")
    ended = call(*shlex.split(example), cwd=tmp_path)
    told = "1 file laid out\n" if name == "fmt" else ""
    assert (ended.status, ended.err) == (0, told)


def test_help_is_plain_and_has_the_commands():
    assert einc("-h").out == einc("--help").out
    usage, _, first, *_ = einc("-h").out.splitlines()
    assert usage.startswith("Usage: einc ")
    assert first.strip() == "Example: einc analyze btt --in 1024"
    for name in OPTIONS:
        assert re.search(rf"^  {name} ", einc("-h").out, re.MULTILINE)
    usage, _, first, *_ = einc("analyze", "-h").out.splitlines()
    assert first.strip().startswith("Example: einc analyze")
    assert CONTROL not in einc("-h").out


def test_version():
    assert einc("--version").out == f"einc {package.__version__}\n"


# SPEC


def test_a_library_structure_is_not_shadowed_by_a_file(tmp_path: Path):
    (tmp_path / "btt").write_text(FAULTY)
    ended = call("analyze", "btt", "--in", "64", cwd=tmp_path)
    assert ended.status == 0
    assert ended.out == einc("analyze", "btt", "--in", "64").out


def test_a_file_with_two_structures_wants_a_name(folder: Path):
    ended = call("analyze", "two.ein", cwd=folder)
    assert (ended.status, ended.out) == (2, "")
    assert "`two.ein::first`" in ended.err
    ended = call("analyze", "two.ein::second", "--in", "8", "-D", "rank=3", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("second(rank = 3)  low-rank unshared\n")
    ended = call("analyze", "two.ein::third", cwd=folder)
    assert (ended.status, ended.out) == (2, "")
    assert "no structure `third`; it has first, second" in ended.err


@pytest.mark.parametrize("spec", ["-::first", "-::second"])
def test_standard_input(spec: str):
    ended = call("analyze", spec, "--in", "8", stdin=TWO.encode())
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(spec.removeprefix("-::"))
    ended = call("analyze", "-", "--in", "8", stdin=FIXED.encode())
    assert (ended.status, ended.out) == (1, "")
    assert " --> <stdin>:1:" in ended.err


def test_an_expression():
    ended = einc("analyze", "-e", "y[o] = x[i] * W[i, o]", "--in", "8", "--out", "6")
    assert (ended.status, ended.err) == (0, "")
    assert "8 -> 6 features, i = 8, o = 6" in ended.out


# Used wrongly: exit status 2, a message, nothing on stdout

WRONG = """
analyze                                   | name one SPEC, or give -e TEXT
analyze btt -e 'y[o] = x[i] * W[i, o]'    | name one SPEC, or give -e TEXT
analyze bt                                | cannot read `bt`: .* did you mean `btt`?
analyze missing.ein --json                | cannot read `missing.ein`: No such file
analyze .                                 | cannot read `.`: Is a directory
analyze btt::other                        | `btt` has no structure `other`
analyze btt -D rnk=2                      | no parameter `rnk`.* did you mean `rank`?
analyze btt -D rank                       | NAME=VALUE, not `rank`
analyze btt -D rank=1/0                   | a fraction such as 1/3 .* not `1/0`
analyze btt -D rank=1 -D rank=2           | -D gives `rank` twice
analyze btt --in 0                        | features must be from 1 to
analyze btt --in many                     | '--in'
analyze btt --out 64                      | give --in too
analyze btt --tokens 0 --in 64            | tokens must be from 1 to
analyze btt --order worst                 | '--order'
analyze btt --order greedy                | opt_einsum's and needs features
analyze btt --route r                     | INDEX:TOP, such as `r:2`, not `r`
analyze btt --route 'r:1 normalize all'   | INDEX:TOP
analyze btt --loud                        | --loud
codegen btt                               | needs features
codegen btt --shape 64                    | INxOUT, such as 1024x4096, not `64`
codegen btt --shape 64x64 --in 64         | give --shape, or --in and --out, not both
codegen btt --shape 8x8 --shape 8x8       | --shape gives 8x8 twice
codegen btt --in 64 --class-name class    | `class` is not a name for a Python class
codegen btt --in 64 --class-name math     | the generated file imports `math` already
codegen btt --in 64 --class-name super    | `super` means something else in the generated file
codegen btt --in 64 --class-name _Btt     | `_Btt` means something else
codegen btt --in 64 --emit nothing        | '--emit'
taxonomy --csv --json                     | choose one of --csv, --markdown and --json
taxonomy btt monarch -D rnk=2             | no structure here has a parameter `rnk`
taxonomy docs                             | the folder `docs` has no .ein files
check                                     | nothing to check
check btt -D rnk=2                        | no structure here has a parameter `rnk`
explain E000                              | no diagnostic `E000`; `einc explain` lists
show                                      | NAME
show bt                                   | the library has no `bt`; it has dense,
explode                                   | explode
"""
WRONG_CASES = [line.split("|") for line in WRONG.strip().splitlines()]


@pytest.mark.parametrize(("command", "message"), WRONG_CASES)
def test_used_wrongly(command: str, message: str):
    ended = einc(*shlex.split(command))
    assert (ended.status, ended.out) == (2, "")
    assert re.search(message.strip(), ended.err), ended.err


def test_no_command_shows_the_help():
    ended = einc()
    assert ended.status == 2
    assert einc("-h").out in (ended.out, ended.err)


# Faults: exit status 1


def test_faults_go_to_stderr(folder: Path):
    ended = call("analyze", "faulty.ein", "--in", "8", cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error[E201]: the inner index `k` has no size\n")
    assert " --> faulty.ein:2:" in ended.err


def test_sizes_that_do_not_fit():
    ended = einc("analyze", "btt", "-D", "rank=0", "--in", "64")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error[E206]")


def test_warnings_leave_the_result():
    ended = einc("analyze", "block_diagonal", "-D", "blocks=7", "--in", "1000")
    assert ended.status == 0
    assert "padded to 1001 -> 1001" in ended.out and "warning" not in ended.out
    assert ended.err.startswith("warning[W105]")


# analyze


def test_analyze_says_what_it_costs_and_can_express():
    out = einc("analyze", "btt", "--in", "1024").out
    for wanted in (
        "btt(rank = 1)  full-rank unshared",
        "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]",
        "1024 -> 1024 features, g = 32, a = 32, f = 32, r = 1, e = 32",
        "rank 1,024 (proved)",
        "order: best, for 4,096 tokens",
    ):
        assert wanted in out
    assert re.search(r"^parameters +65,536 +1,048,576 +0\.0625x$", out, re.MULTILINE)
    assert re.search(r"^FLOPs forward +131,072 ", out, re.MULTILINE)
    assert re.search(r"^nu +1/2 ", out, re.MULTILINE)


def test_analyze_without_features_is_symbolic():
    out = einc("analyze", "btt").out
    assert "parameters             a*f*g*r + e*f*g*r" in out
    assert "rank at most Min(d_in, d_out, f*g*r)" in out
    assert "order: best, by exponents" in out


def test_where_a_file_goes_is_looked_at_before_any_work(tmp_path: Path):
    (tmp_path / "there.py").write_text("mine")
    for path, told in (("none/x.py", "there is no folder"), ("there.py", "--force")):
        ended = call("codegen", "-e", "no spec", "--in", "8", "-o", path, cwd=tmp_path)
        assert ended.status == 2 and told in ended.err
    assert (tmp_path / "there.py").read_text() == "mine"


def test_large_counts_are_shown_whole():
    wide = "y[o] = x[i] * A[i, r] * B[r, o] r = 2000"
    ended = call("taxonomy", "-e", wide, "--in", "1024", "--tokens", "1003")
    assert " 6,278,910.7 " in ended.out


def test_a_route_stands_apart_from_what_is_before_it():
    body = "y[o]=x[i]*A[i,r]*B[r,o] r"
    for text in (f"structure s(k=4){{{body}=k}}", f"structure s{{{body}~d}}"):
        given = ("analyze", "-", "--route", "r:2", "--in", "8", "--json")
        ended = call(*given, stdin=text.encode())
        assert ended.status == 0 and ended.json["routing"]["index"] == "r"


def test_route_is_the_same_as_writing_it():
    given = ("analyze", "btt", "-D", "rank=8", "--route", "r:2", "--in", "64", "--json")
    routed, written = einc(*given), einc("analyze", "btt_moe", "--in", "64", "--json")
    named = ("structure", "arguments")
    assert {k: v for k, v in routed.json.items() if k not in named} == {
        k: v for k, v in written.json.items() if k not in named
    }


def test_tokens_and_order_are_named():
    out = einc("analyze", "low_rank", "--in", "64", "--tokens", "7").out
    assert "order: best, for 7 tokens" in out
    out = einc("analyze", "low_rank", "--in", "64", "--order", "optimal").out
    assert "order: optimal, for 4,096 tokens" in out
    assert "order: given" in einc("analyze", "low_rank", "--order", "given").out


# codegen


def test_codegen_prints_a_module():
    ended = einc("codegen", "btt", "--in", "64", "--out", "32")
    assert (ended.status, ended.err) == (0, "")
    compile(ended.out, "btt.py", "exec")
    assert "class Btt64x32(nn.Module):" in ended.out
    assert package.__version__ in ended.out.splitlines()[0]


def test_a_class_for_each_shape():
    shapes = ("--shape", "8x8", "--shape", "8x4")
    out = einc("codegen", "dense", *shapes).out
    assert re.findall(r"^class (\w+)", out, re.MULTILINE) == ["Dense8x8", "Dense8x4"]
    out = einc("codegen", "dense", *shapes, "--class-name", "Mine").out
    assert re.findall(r"^class (\w+)", out, re.MULTILINE) == ["Mine8x8", "Mine8x4"]
    out = einc("codegen", "dense", "--in", "8", "--class-name", "Mine").out
    assert re.findall(r"^class (\w+)", out, re.MULTILINE) == ["Mine"]


@pytest.mark.parametrize(
    ("stage", "start"),
    [
        ("syntax", "Definition("),
        ("structure", "Structure("),
        ("plan", "order: best, for 4096 tokens\nz[g, f, r] = x * A: touches "),
        ("module", "Module("),
        ("source", "# Generated by einc"),
    ],
)
def test_every_stage_can_be_looked_at(stage: str, start: str):
    ended = einc("codegen", "btt", "--in", "64", "--emit", stage)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(start) and CONTROL not in ended.out


def test_an_index_can_be_routed_from_the_command_line():
    written = einc("codegen", "btt_moe", "--in", "64")
    routed = einc("codegen", "btt", "--in", "64", "-D", "rank=8", "--route", "r:2")
    assert (routed.status, routed.err) == (0, "")
    words = written.out.replace("BttMoe", "Btt").split()
    start = words.index("import")
    renamed = " ".join(words[start:]).replace(
        "btt_moe(experts = 8, active = 2)", "btt(rank = 8)"
    )
    assert (
        " ".join(routed.out.split())
        .replace(" # ", " ")
        .endswith(renamed.replace(" # ", " "))
    )


# taxonomy, check, list, show


def test_taxonomy_is_of_the_library_unless_structures_are_named(folder: Path):
    rows = einc("taxonomy").out.splitlines()
    assert [row.split()[0] for row in rows[2:-1]] == list(library.NAMES)
    assert rows[-1] == "figures at 1024 x 1024"
    named = ("taxonomy", "btt", "two.ein", "fixed.ein", "-D", "rank=3", "--csv")
    ended = call(*named, cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    names = [line.split(",")[0] for line in ended.out.splitlines()]
    assert names == ["name", "btt", "first", "second", "fixed"]


def test_a_folder_stands_for_its_files(folder: Path):
    given = ("taxonomy", ".", "--in", "16", "-e", "y[o] = x[i] * W[i, o]")
    ended = call(*given, cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error[E201]")
    (folder / "faulty.ein").unlink()
    ended = call(*given, cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error[E210]")  # fixed.ein is 4 x 8
    (folder / "fixed.ein").unlink()
    rows = call(*given, cwd=folder).out.splitlines()
    assert [r.split()[0] for r in rows[2:-1]] == ["first", "second", "expression"]
    assert rows[-1] == "figures at 16 x 16"


def test_taxonomy_as_csv_and_markdown():
    out = einc("taxonomy", "btt", "tensor_train", "--in", "768", "--csv").out
    header, first, second = out.splitlines()
    assert header == "name,equation,omega,psi,nu,class,family,parameters,FLOPs,rank"
    assert first == (
        'btt,"y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]",'
        "0,1,1/2,full-rank unshared,monarch,43008,86016,768"
    )
    assert second.startswith('tensor_train,"y[p, q] = ')
    out = einc("taxonomy", "btt", "--markdown").out
    header, rule, row = out.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|") == 11
    assert row.startswith("| btt | `y[f, e] = ")


def test_check(folder: Path):
    ended = call("check", "two.ein", "btt", "fixed.ein", cwd=folder)
    assert (ended.status, ended.out, ended.err) == (
        0,
        "4 structures checked, no faults\n",
        "",
    )
    ended = call("check", ".", "-e", "y[o] = x[i]", cwd=folder)
    assert (ended.status, ended.out) == (1, "")
    assert re.findall(r" --> (\S+?):", ended.err) == ["faulty.ein", "<expression>"]
    ended = einc("check", "block_diagonal", "-D", "blocks=7", "--in", "1000")
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.count("warning[W105]") == 2


def test_list_and_show():
    lines = einc("list").out.splitlines()
    assert [line.split("(")[0].split()[0] for line in lines[2:]] == list(library.NAMES)
    assert einc("show", "btt").out == library.source("btt").text
