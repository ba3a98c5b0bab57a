"""Jobs on a Ray cluster: three nodes on this machine, of which one is lost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from terminal import COMMAND, call, environment, run

from einc.errors import UsageError
from einc.scale import tasks, training
from einc.scale.cluster import Cluster
from einc.scale.contestants import baselines, named
from einc.scale.job import Job, Result
from einc.scale.tasks import Source
from einc.scale.workers import Failure

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
PATIENCE = 60.0
TINY = "--task regression --widths 8,16 --depth 1 --seeds 1 --steps 100 --lr 0.01"
DENSE = baselines(8, False)[0]


class Nodes:
    """Three nodes of one core; the first, with the cluster's own processes, stays."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Local

        self._usual = {"num_cpus": 1, "object_store_memory": 100 << 20}
        head = {"include_dashboard": False, **self._usual}
        self._all = Local(initialize_head=True, head_node_args=head)
        self.address: str = self._all.address
        self._nodes: list[Any] = []
        self.mend()

    @property
    def mortal(self) -> list[str]:
        """The ids of those that can be lost."""
        return [node.node_id for node in self._nodes]

    def lose(self, identity: str) -> None:
        (which,) = [node for node in self._nodes if node.node_id == identity]
        self._nodes.remove(which)
        self._all.remove_node(which, allow_graceful=False)

    def mend(self) -> None:
        """Others in place of those that were lost."""
        while len(self._nodes) < 2:
            self._nodes.append(self._all.add_node(**self._usual))

    def end(self) -> None:
        self._all.shutdown()


@pytest.fixture(scope="module")
def everything() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.end()


@pytest.fixture
def nodes(everything: Nodes) -> Nodes:
    everything.mend()
    return everything


def job(seed: int, file: Path) -> Job:
    source = Source("text", str(file))
    return Job(DENSE, 8, seed, "run", 0.01, 12, 8, 1, 0.01, 1, source)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_finished_job_is_lost_or_repeated(nodes: Nodes, tmp_path: Path) -> None:
    """Two jobs end, two run, one on a node that is lost; only that begins again."""
    file, gate = tmp_path / "data.txt", tmp_path / "gate"
    file.write_text("what is read here alone")
    folder = str(tmp_path)

    def work(job: Job, data: bytes) -> Result:
        node = ray.get_runtime_context().get_node_id()
        with open(f"{folder}/{job.seed}.started", "a") as started:
            started.write(f"{node}\n")
        end = time.monotonic() + PATIENCE
        while job.seed > 1 and not os.path.exists(f"{folder}/gate"):
            assert time.monotonic() < end
            time.sleep(0.01)
        if job.seed == 6:
            raise ValueError("the sixth")
        return {"seed": job.seed, "data": data.decode()}

    def starts(seed: int) -> list[str]:
        path = tmp_path / f"{seed}.started"
        return path.read_text().split() if path.exists() else []

    jobs = [job(seed, file) for seed in range(8)]
    came: list[tuple[Job, Result | Failure]] = []
    with Cluster(work, nodes.address, threads=1) as cluster:
        assert cluster.places == 3
        running = cluster.run(jobs)
        came += [next(running), next(running)]
        assert {one.seed for one, _ in came} == {0, 1}
        until(lambda: bool(starts(2) and starts(3)))
        assert not starts(4)
        repeated = next(seed for seed in (2, 3) if starts(seed)[0] in nodes.mortal)
        (lost,) = starts(repeated)
        nodes.lose(lost)
        gate.touch()
        came += running

    assert sorted(one.seed for one, _ in came) == list(range(8))
    for one, outcome in came:
        if one.seed == 6:
            assert isinstance(outcome, Failure)
            assert outcome.error == "ValueError: the sixth"
            assert "Traceback" in outcome.story
        else:
            assert outcome == {"seed": one.seed, "data": "what is read here alone"}
    assert [len(starts(seed)) for seed in range(8)] == [
        2 if seed == repeated else 1 for seed in range(8)
    ]
    assert lost not in starts(repeated)[1:]


def test_a_study_goes_on_without_a_node(nodes: Nodes, tmp_path: Path) -> None:
    """Whole, with nothing but the report on stdout, and the numbers of one machine."""
    command = f"scale btt {TINY} -o study --json --ray {nodes.address}"
    started = subprocess.Popen(
        (*COMMAND, *command.split()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    folder = tmp_path / "study" / "jobs"
    until(lambda: bool(list(folder.glob("*.json"))) or started.poll() is not None)
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert 0 < len(before) < 6
    nodes.lose(nodes.mortal[0])
    out, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, err
    assert json.loads(out)["contestants"]
    assert len(list(folder.iterdir())) == 6
    assert {path: path.read_bytes() for path in before} == before
    source = tasks.sealed(Source("regression"))
    (btt,) = named(["btt"], {}, 8)
    same = Job(btt, 16, 0, "run", 0.01, 100, 8, 1, 0.01, 1, source)
    found = json.loads((folder / "btt-16-0.json").read_bytes())
    assert found["log"] == training.run(same, tasks.load(source))["log"]


def test_a_job_wants_no_more_than_a_node_has(nodes: Nodes) -> None:
    cluster = Cluster(training.perform, nodes.address, threads=2)
    with pytest.raises(UsageError, match="no node of the cluster has 2 cores"):
        cluster.__enter__()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "host:port"])
def test_an_address_that_does_not_answer(tmp_path: Path, address: str) -> None:
    command = f"scale btt {TINY} -o study --ray {address}"
    ended = call(*command.split(), cwd=tmp_path)
    assert ended.status == 2 and ended.out == ""
    assert f"cannot reach a Ray cluster at `{address}`" in ended.err


def test_without_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError\n")
    command = f"scale btt {TINY} -o study --ray auto"
    ended = run(*command.split(), cwd=tmp_path)
    assert ended.status == 2
    assert ended.err == "error: --ray needs Ray: pip install 'einc[ray]'\n"
