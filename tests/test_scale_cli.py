"""`einc scale` as it is started: whole studies, tiny ones, in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from terminal import COMMAND, call, children, environment, run

from einc.scale import tasks, training
from einc.scale.contestants import named
from einc.scale.job import Job

OWN = """
structure own(k = 2) {
  y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]
  g, a ~ d_in^(1/2)
  f, e ~ d_out^(1/2)
  r = k
}
"""
TINY = "--task regression --widths 8,16 --depth 1 --seeds 1 --steps 12 --lr 0.01"


def jobs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "jobs").iterdir()}


def test_a_study_of_ones_own_structure(tmp_path: Path) -> None:
    """From SPEC to report; the logs are, bit for bit, those of the same jobs here."""
    (tmp_path / "own.ein").write_text(OWN)
    command = f"scale own.ein {TINY} -o study --workers 1"
    ended = run(*command.split(), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert "own" in ended.out and "ffn_moe" in ended.out
    study = tmp_path / "study"
    assert (study / "report.md").read_text().startswith("# ")
    assert set(jobs(study)) == {
        f"{name}-{width}-0.json"
        for name in ("dense", "ffn_moe", "own")
        for width in (8, 16)
    }
    found = json.loads(jobs(study)["own-16-0.json"])
    source = tasks.sealed(tasks.Source("regression"))
    (own,) = named([str(tmp_path / "own.ein")], {}, 8)
    same = Job(own, 16, 0, "run", 0.01, 12, 8, 1, 0.01, 1, source)
    assert found["log"] == training.run(same, tasks.load(source))["log"]

    before = jobs(study)
    ended = call("scale", "-o", "study", "--resume", "--json", cwd=tmp_path)
    assert ended.status == 0 and jobs(study) == before
    assert {one["name"] for one in ended.json["contestants"]} == {
        "dense",
        "ffn_moe",
        "own",
    }
    ended = call(*command.split(), cwd=tmp_path)
    assert ended.status == 2 and "--resume goes on with it" in ended.err


def test_ctrl_c_ends_quietly_and_leaves_what_can_go_on(tmp_path: Path) -> None:
    command = f"scale btt {TINY} -o study --workers 1"
    started = subprocess.Popen(
        (*COMMAND, *command.split()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
    )
    folder = tmp_path / "study" / "jobs"
    until = time.monotonic() + 60
    while not list(folder.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.002)
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, b"", b"")
    before = jobs(tmp_path / "study")
    assert before and all(map(json.loads, before.values()))
    ended = call(*command.split(), "--resume", cwd=tmp_path)
    assert ended.status == 0
    after = jobs(tmp_path / "study")
    assert len(after) == 6
    assert before.items() <= after.items()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    command = f"scale btt {TINY} --steps 100000 -o study --workers 1"
    started = subprocess.Popen(
        (*COMMAND, *command.replace("--steps 12 ", "").split()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(),
    )
    until = time.monotonic() + 60
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < until:  # and a tracker of resources
        workers = children(started.pid)
        time.sleep(0.01)
    time.sleep(0.5)
    started.kill()
    started.wait()
    assert len(workers) == 2
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("scale -o new", "name one SPEC at least"),
        ("scale -o new --resume", "there is no study in `new`"),
        ("scale btt", "Missing option '-o' / '--output'"),
        ("scale btt -o new --widths 8,x", "widths are numbers"),
        ("scale btt -o new --widths 12", "a multiple of 8"),
        ("scale btt -o new --workers 0", "--workers goes from 1"),
        ("scale btt -o new --seeds-of btt", "--seeds-of takes NAME=N"),
        ("scale btt -o new --data none.txt", "cannot read `none.txt`"),
        ("scale btt -o new --plot a.txt", "pictures end in one of"),
    ],
)
def test_wrong_use(tmp_path: Path, command: str, message: str) -> None:
    ended = call(*command.split(), cwd=tmp_path)
    assert ended.status == 2 and ended.out == ""
    assert message in ended.err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_no_gpu(tmp_path: Path) -> None:
    ended = call(
        "scale", "btt", *TINY.split(), "--device", "cuda", "-o", "s", cwd=tmp_path
    )
    assert (ended.status, ended.out) == (2, "")
    assert "no CUDA device" in ended.err and not (tmp_path / "s").exists()
