"""One job on several processes: real ones, begun by torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import call, environment

from einc.scale import tasks, training
from einc.scale.contestants import baselines, named
from einc.scale.job import Job
from einc.scale.tasks import Source

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--nproc-per-node", "2"),
)
PATIENCE = 60

SCRIPT = """
from dataclasses import replace
import torch
from einc.errors import UsageError
from einc.scale import parallel
from einc.scale.contestants import baselines
from einc.scale.job import Job
from einc.scale.tasks import Source

def work(job):
    batch = torch.arange(5.0), torch.arange(5.0)
    mine, _ = parallel.share(batch)
    if job.seed == 1 and parallel.rank() == 1:
        raise ValueError("on one alone")
    return {
        "rows": len(mine),
        "all": parallel.summed(torch.tensor(len(mine))).item(),
        "sum": parallel.summed(mine.sum()).item(),
        "weights": parallel.summed(torch.tensor(parallel.weight(len(mine), 5))).item(),
    }

dense = baselines(8, False)[0]
job = Job(dense, 8, 0, "run", 0.01, 1, 8, 1, 0.0, 1, Source("regression"))
try:
    if parallel.rank() > 0:
        parallel.follow(work)
    else:
        with parallel.Together(work) as together:
            for _, result in together.run([job, replace(job, seed=1)]):
                print(result, flush=True)
except UsageError as error:
    print(error, flush=True)
    raise SystemExit(2)
"""


def torchrun(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*TORCHRUN, *command),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(OMP_NUM_THREADS="1"),
        timeout=PATIENCE,
        check=False,
    )


def test_the_losses_are_those_of_one_process(tmp_path: Path) -> None:
    """Up to rounding without routing; rank 0 alone writes and prints."""
    options = "--task regression --widths 16 --depth 1 --seeds 1 --steps 20 --lr 0.01"
    command = f"-m einc scale btt {options} -o study --json"
    ended = torchrun(*command.split(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    names = [one["name"] for one in json.loads(ended.stdout)["contestants"]]
    assert names == ["dense", "ffn_moe", "btt"]
    folder = tmp_path / "study" / "jobs"
    assert len(list(folder.iterdir())) == 3
    source = tasks.sealed(Source("regression"))
    for one in (baselines(8, False)[0], *named(["btt"], {}, 8)):
        alone = Job(one, 16, 0, "run", 0.01, 20, 16, 1, 0.01, 1, source)
        log = training.run(alone, tasks.load(source))["log"]
        found = json.loads((folder / f"{one.name}-16-0.json").read_bytes())["log"]
        assert found["loss"] == pytest.approx(log["loss"], rel=1e-5)
        assert found["flops"] == log["flops"]
        assert log["loss"][0] - log["loss"][-1] > 0.01


def test_shares_make_a_batch_and_one_failure_ends_all(tmp_path: Path) -> None:
    """Nobody waits for gradients that do not come."""
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = torchrun("script.py", cwd=tmp_path)
    assert ended.returncode == 1
    shares = "{'rows': 3, 'all': 5, 'sum': 10.0, 'weights': 2.0}"
    assert ended.stdout.splitlines()[0] == shares
    assert "dense-8-1 failed on rank 1: ValueError: on one alone" in ended.stdout


def test_a_cluster_or_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = call("scale", "btt", "-o", "study", "--ray", "auto", cwd=tmp_path)
    assert ended.status == 2 and "give --ray or use torchrun, not both" in ended.err


@pytest.mark.parametrize("more", ["--ray local", ""])
def test_a_gpu_is_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    if not more:
        monkeypatch.setenv("WORLD_SIZE", "2")
    options = "--task regression --steps 12 --lr 0.01 --device cuda -o study"
    ended = call("scale", "btt", *options.split(), *more.split(), cwd=tmp_path)
    assert ended.status == 2 and "for jobs of this machine" in ended.err
    assert not (tmp_path / "study").exists()
