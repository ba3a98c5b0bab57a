"""What leaves the process: streams, terminals, files, signals. Each is really started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import COMMAND, CONTROL, call, einc, environment, in_terminal, run

EACH = (
    ("analyze", "btt", "--in", "64"),
    ("codegen", "btt", "--in", "64"),
    ("taxonomy", "btt", "--json"),
    ("check", "btt_moe", "-e", "y[o] = x[i] * W[i, k, o]"),
    ("list",),
    ("show", "nothing"),
)


@pytest.mark.parametrize("command", EACH, ids=lambda command: command[0])
def test_a_process_says_what_a_call_says(command: tuple[str, ...]):
    started = run(*command)
    assert started == einc(*command)
    assert CONTROL not in started.out + started.err


def test_a_process_reads_standard_input():
    text = b"structure one { y[o] = x[i] * W[i, o] }"
    for spec in ("-", "-::one"):
        ended = run("check", spec, stdin=text)
        assert ended.out == "1 structure checked, no faults\n"


# Terminals


def test_a_terminal_has_colours_and_keeps_every_figure():
    shown = in_terminal("taxonomy", "btt", "dense_moe", columns=80)
    assert CONTROL in shown
    for figure in ("65,536", "131,072", "8,388,608", "4,194,304", "1,024"):
        assert figure in shown
    assert "a wider terminal shows equations and families" in shown and "…" not in shown
    wide = in_terminal("taxonomy", "btt", columns=200)
    assert "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]" in wide


PLAIN = [
    ({}, ["--no-color"]),
    ({"NO_COLOR": "1"}, []),
    ({"TERM": "dumb"}, []),
]


@pytest.mark.parametrize(("env", "options"), PLAIN, ids=["option", "NO_COLOR", "dumb"])
def test_a_plain_terminal_is_the_same_as_a_pipe(
    env: dict[str, str], options: list[str]
):
    shown = in_terminal("taxonomy", "btt", *options, columns=40, **env)
    assert shown == einc("taxonomy", "btt").out
    assert CONTROL not in shown


# Streams


def test_a_closed_pipe_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    for command in (("list",), ("analyze", "btt", "--in", "8", "--json"), ("-h",)):
        ended = subprocess.run(
            (*COMMAND, *command),
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (1, b"")
    os.close(writing)


def test_a_reader_that_has_seen_enough():
    command = f"'{sys.executable}' -m einc taxonomy --csv | head -1"
    ended = subprocess.run(
        command, shell=True, capture_output=True, env=environment(), check=True
    )
    assert (
        ended.stdout
        == b"name,equation,omega,psi,nu,class,family,parameters,FLOPs,rank\n"
    )
    assert ended.stderr == b""


@pytest.mark.parametrize("options", [("list",), ("--help",), ("analyze", "-h")])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(options: tuple[str, ...]):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            (*COMMAND, *options),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == b"error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("options", [("--version",), ("taxonomy", "--csv"), ("list",)])
def test_a_closed_output(options: tuple[str, ...]):
    ended = subprocess.run(
        ("sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *options),
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 2
    told = b"error: cannot write the output: standard output is closed\n"
    assert ended.stderr == told


def test_a_closed_input():
    ended = subprocess.run(
        ("sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "fmt", "-"),
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == b"error: cannot read `-`: standard input is closed\n"


def test_output_is_in_utf8_whatever_the_locale():
    text = "# \u2202y = \u03c3 x\nstructure s {\n  y[o] = x[i] * W[i, o]\n}\n".encode()
    for command in (("fmt", "-"), ("list",)):
        ended = subprocess.run(
            (*COMMAND, *command),
            input=text,
            capture_output=True,
            env=environment() | {"PYTHONIOENCODING": "latin-1"},
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert ended.stdout == text if command[0] == "fmt" else ended.stdout.decode()


def test_an_interrupt_is_quiet():
    process = subprocess.Popen(
        (*COMMAND, "analyze", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    # It waits for the rest of its input once it has taken what fills the pipe.
    process.stdin.write(b"#" * (1 << 17))
    process.stdin.flush()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 130


# Files


def test_what_is_not_text_is_a_fault_with_a_place(tmp_path: Path):
    (tmp_path / "bytes.ein").write_bytes(
        "structure é {\n  y[o] = \xe9".encode("latin1")
    )
    ended = call("analyze", "bytes.ein", cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error[E006]: the file is not UTF-8 text: byte 0xe9\n")
    assert " --> bytes.ein:1:11\n" in ended.err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_no_more_is_read_than_is_allowed(tmp_path: Path):
    (tmp_path / "long.ein").write_bytes(b"#\r\n" * 500_000)
    for spec in ("/dev/zero", "long.ein"):
        ended = call("check", spec, cwd=tmp_path)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("error[E005]: the file is too large: at most 1 MiB")


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "secret.ein").touch(mode=0o000)
    if os.access(tmp_path / "secret.ein", os.R_OK):
        (tmp_path / "secret.ein").unlink()  # root may read it
    for command, spec in [
        ("analyze", "secret.ein"),
        ("check", "missing.ein"),
        ("taxonomy", "x" * 300),
        ("analyze", "missing/file.ein::name"),
    ]:
        ended = call(command, spec, cwd=tmp_path)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith(f"error: cannot read `{spec.split('::')[0]}`: ")


def test_output_is_written_whole_or_not_at_all(tmp_path: Path):
    generate = ("codegen", "btt", "--in", "64", "-o")
    ended = call(*generate, "btt.py", cwd=tmp_path)
    assert ended == call(
        "codegen", "btt", "--in", "64", "--output", "2.py", cwd=tmp_path
    )
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    written = tmp_path / "btt.py"
    assert written.read_text() == einc("codegen", "btt", "--in", "64").out
    umask = os.umask(0)
    os.umask(umask)
    assert written.stat().st_mode & 0o777 == 0o666 & ~umask

    written.write_text("mine")
    ended = call(*generate, "btt.py", cwd=tmp_path)
    assert (ended.status, ended.err) == (
        2,
        "error: `btt.py` exists; --force replaces it\n",
    )
    assert written.read_text() == "mine"
    ended = call(*generate, "btt.py", "--force", "-D", "rank=0", cwd=tmp_path)
    assert ended.status == 1 and written.read_text() == "mine"
    ended = call(*generate, "btt.py", "--force", cwd=tmp_path)
    assert ended.status == 0 and written.read_text().startswith("# Generated by einc")

    for name in ("missing/btt.py", "x" * 300, "."):
        ended = call(*generate, name, "--force", cwd=tmp_path)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith(f"error: cannot write `{name}`: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.py", "btt.py"]


def test_force_follows_a_link_and_spares_devices(tmp_path: Path):
    (tmp_path / "target.py").write_text("old")
    (tmp_path / "link.py").symlink_to("target.py")
    generate = ("codegen", "dense", "--in", "4", "--force", "-o")
    assert call(*generate, "link.py", cwd=tmp_path).status == 0
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "target.py").read_text().startswith("# Generated")
    ended = call(*generate, os.devnull, cwd=tmp_path)
    assert (ended.status, ended.err) == (
        2,
        f"error: cannot write `{os.devnull}`: it is not a file\n",
    )
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("after", [0.1, 0.2, 0.3])
def test_an_interrupt_while_it_loads_is_quiet(after: float):
    command = [sys.executable, "-m", "einc", "analyze", "cp", "--in", "1024"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert "Traceback" not in messages
