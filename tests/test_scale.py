"""What a study trains: models, their compute, tasks and single jobs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc.errors import UsageError
from einc.nn import auxiliary_loss
from einc.scale import compute, pixels, regression, tasks, text, training
from einc.scale.contestants import Contestant, baselines, named, profile
from einc.scale.job import Job
from einc.scale.layers import dense
from einc.scale.moe import FeedForwardMoE
from einc.scale.sequences import Sequences
from einc.scale.tasks import Source, Task

SPECS = ("btt(rank=2)", "kronecker", "low_rank", "monarch", "btt_moe(experts=4)")
OWN = """
structure own(k = 2) {
  y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]
  g, a ~ d_in^(1/2)
  f, e ~ d_out^(1/2)
  r = k
}
"""
CONTESTANTS = {one.name: one for one in (*baselines(4, True), *named(SPECS, {}, 4))}
DENSE = CONTESTANTS["dense"]


def letters() -> Sequences:
    """A short text, in short sequences."""
    words = "".join(f"{i:x} of {i * i:x}, " for i in range(4000))
    return replace(text.load(words.encode()), context=16, sequences=8)


TASKS: dict[str, Task] = {
    "regression": replace(regression.load(), tokens=64),
    "text": letters(),
}


def job(contestant: Contestant = DENSE, kind: str = "text", **changes: object) -> Job:
    usual = Job(contestant, 16, 0, "run", 2**-8, 12, 16, 1, 0.01, 1, Source(kind))
    return replace(usual, **changes)  # type: ignore[arg-type]


# Compute


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", CONTESTANTS)
def test_flops_are_those_that_torch_counts(kind: str, name: str) -> None:
    """Exactly; but torch sees the products that experts compute again in backward."""
    task, contestant = TASKS[kind], CONTESTANTS[name]
    model = task.model(contestant, 48, 2)
    _stir(model)
    batch = task.batch(torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(model, batch).backward()
    again = 0
    for module in model.modules():
        if hasattr(module, "lr_multipliers"):
            shape = int(module.in_features), int(module.out_features)  # type: ignore
            figures = profile(contestant, *shape, task.tokens).figures
            assert figures is not None
            again += 2 * figures.work.recomputed_matrix * task.tokens
    assert (again > 0) == ("btt_moe" in name)
    own = compute.flops_per_step(model, contestant, task.tokens, task.context)
    assert type(own) is int
    assert counter.get_total_flops() == own + again


def test_flops_of_a_dense_regressor_by_hand() -> None:
    """Two products of the input layer, three of others."""
    model = TASKS["regression"].model(DENSE, 16, 3)
    products = 2 * 8 * 16 + 3 * (3 * 2 * 16 * 64 + 16)
    assert compute.flops_per_step(model, DENSE, 100, 1) == 2 * 100 * products


@pytest.mark.parametrize("name", ["dense", "ffn_moe", "btt_moe(experts=4)", "monarch"])
def test_active_parameters_are_those_that_one_point_moves(name: str) -> None:
    contestant, task = CONTESTANTS[name], replace(TASKS["regression"], tokens=1)
    model = task.model(contestant, 16, 2)
    _stir(model)
    loss = task.loss(model, task.batch(torch.Generator().manual_seed(0)))
    if "moe" in name:
        loss = loss + auxiliary_loss(model)
    loss.backward()
    moved = sum(
        0 if p.grad is None else int((p.grad != 0).sum()) for p in model.parameters()
    )
    found = compute.parameters(model, contestant, 1)
    assert found["active"] == moved
    assert found["total"] == sum(p.numel() for p in model.parameters())
    assert (found["active"] < found["total"]) == ("moe" in name)


def _stir(model: nn.Module) -> None:
    """No parameter is zero, so that routers choose and gradients flow."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


# The standard mixture of experts


def test_blocks_are_routed_token_by_token() -> None:
    torch.manual_seed(0)
    block = FeedForwardMoE(8, 32, 5, 2)
    _stir(block)
    x = torch.randn(3, 7, 8, requires_grad=True)
    y = block(x)
    rows = x.reshape(-1, 8)
    gates, chosen = block.route(rows)
    for i, row in enumerate(rows):
        pairs = zip(gates[i], chosen[i].tolist(), strict=True)
        expected = sum(gate * block.experts[e](row) for gate, e in pairs)
        torch.testing.assert_close(y.reshape(-1, 8)[i], expected)
    assert len(set(chosen.flatten().tolist())) == 5


def test_blocks_choose_as_generated_layers_do() -> None:
    block = FeedForwardMoE(8, 32, 5, 2)
    layer = einc.load("dense_moe", experts=5, active=2).module_class(8, 8)()
    assert not block.router.weight.any() and not layer.router.any()
    router, x = torch.randn(5, 8), torch.randn(64, 8)
    with torch.no_grad():
        block.router.weight.copy_(router)
        layer.router.copy_(router)
    for own, other in zip(block.route(x), layer.route(x), strict=True):
        torch.testing.assert_close(own, other)
    mine, theirs = block.routing_statistics(), layer.routing_statistics()
    torch.testing.assert_close(mine.pop("load"), theirs.pop("load"))
    assert mine == pytest.approx(theirs)
    own, other = block.auxiliary_loss(), layer.auxiliary_loss()
    torch.testing.assert_close(own, other)
    with pytest.raises(RuntimeError):
        block.auxiliary_loss()


def test_dense_layers_begin_as_the_structure_dense_does() -> None:
    torch.manual_seed(0)
    for shape in ((64, 1024), (1024, 64)):
        theirs = einc.load("dense").module_class(*shape)().to_dense()
        own = dense(*shape)
        assert own.weight.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
        assert not own.bias.any()


# Tasks


def test_training_text_has_nothing_of_the_validation_text() -> None:
    """Each block has a letter of its own."""
    size = 1000
    blocks = 20 * 2
    told = "".join(chr(0x4E00 + block) * size for block in range(blocks))
    found = text.load(told.encode())
    assert len(found.training) + len(found.held_out) == len(told)
    assert len(found.held_out) == 2 * size
    assert not found.held_out.any() and found.training.all()
    assert found.symbols == blocks - 2 + 1


def test_rare_characters_share_a_symbol() -> None:
    common = "ab" * 200_000
    found = text.load((common[:1000] + "Z" + common).encode())
    assert found.symbols == 3
    assert found.training.unique().tolist() == [0, 1, 2]


def test_a_window_and_the_next_symbols() -> None:
    task = letters()
    x, y = task.batch(torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (8, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    whole = bytes(task.training.tolist())
    for row, last in zip(x.tolist(), y[:, -1].tolist(), strict=True):
        assert bytes([*row, last]) in whole


def test_validation_windows_do_not_overlap() -> None:
    held_out = torch.arange(250, dtype=torch.uint8)
    task = Sequences(held_out, held_out, 250, 9, 4)
    places = torch.cat([x for x, _ in task.validation()])
    assert len(places) == 25
    assert places.unique().numel() == places.numel()


def test_the_standard_library_is_a_text() -> None:
    source = tasks.sealed(Source("text"))
    assert source == tasks.sealed(source)
    names = [path.name for path in text.library()]
    assert "argparse.py" in names and "test_argparse.py" not in names


def test_other_data_are_refused(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some words " * 4000)
    source = tasks.sealed(Source("text", str(path)))
    assert tasks.load(source).context == text.CONTEXT
    path.write_text("other words " * 4000)
    tasks.load.cache_clear()
    with pytest.raises(UsageError, match="not what the study began with"):
        tasks.load(source)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\xff" * 30_000, "no UTF-8"), (b"too short", "20,000 are needed")],
)
def test_what_is_no_text(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        text.load(data)


def test_too_much_text(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 100)
    monkeypatch.setattr(text, "MAX_BYTES", 99)
    with pytest.raises(UsageError, match="has over"):
        text.read(str(tmp_path / "a.txt"))
    with pytest.raises(UsageError, match="cannot read"):
        text.read(str(tmp_path / "b.txt"))


def test_pixels_are_those_of_the_pictures() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    task = tasks.load(tasks.sealed(Source("pixels")))
    pictures = torch.tensor(digits.images).long().flatten(1)
    x, y = task.batch(torch.Generator().manual_seed(0))
    assert (x[:, 0] == pixels.LEVELS).all()
    training = {tuple(p) for i, p in enumerate(pictures.tolist()) if i % 5 != 4}
    assert {tuple(row) for row in y.tolist()} <= training
    validation = [row for _, part in task.validation() for row in part.tolist()]
    assert len({tuple(row) for row in validation} - training) > 100
    every_fifth = pictures[4::5].tolist()
    assert all(row in every_fifth for row in validation)


def test_pixels_need_scikit_learn(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'einc\[scale\]'"):
        pixels.read()


def test_the_teacher_is_one_and_normalized() -> None:
    task, again = regression.load(), regression.load()
    assert all(map(torch.equal, task.weights, again.weights))
    x = torch.randn(20_000, regression.FEATURES)
    y = regression.answer(task.weights, x)
    assert y.mean().item() == pytest.approx(0, abs=0.1)
    assert y.std().item() == pytest.approx(1, abs=0.1)
    *hidden, last, shift = task.weights
    point = x[0]
    for weight in hidden:
        point = (weight @ point).clamp(min=0)
    torch.testing.assert_close(y[0], last @ point + shift)


# Jobs


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", ["dense", "ffn_moe", "btt_moe(experts=4)"])
def test_equal_jobs_have_equal_logs(kind: str, name: str) -> None:
    """Bit for bit, and whatever the state of torch's generator."""
    task, one = TASKS[kind], job(CONTESTANTS[name], kind)
    torch.manual_seed(1)
    first = training.run(one, task)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert training.run(one, task)["log"] == first["log"]
    assert torch.equal(torch.get_rng_state(), state)
    for change in ({"seed": 1}, {"stage": "tune"}, {"lr": 2**-7}):
        assert training.run(replace(one, **change), task)["log"] != first["log"]


def test_a_log_is_of_compute() -> None:
    task = TASKS["text"]
    result = training.run(job(steps=30), task)
    log = result["log"]
    assert result["status"] == "finished"
    assert log["step"] == training.points(30) and log["step"][-1] == 30
    assert log["flops"] == [step * result["flops_per_step"] for step in log["step"]]
    assert log["loss"][-1] < log["loss"][0] < math.log(task.symbols)  # type: ignore


def test_a_loss_is_that_of_a_run_which_ends_there() -> None:
    long, short = (
        training.run(job(kind="regression", steps=steps), TASKS["regression"])["log"]
        for steps in (40, 20)
    )
    known = dict(zip(long["step"], long["loss"], strict=True))
    shared = [step for step in short["step"] if step in known]
    assert len(shared) > 5
    losses = dict(zip(short["step"], short["loss"], strict=True))
    assert all(losses[step] == known[step] for step in shared)


def test_what_diverges_says_so() -> None:
    one = job(kind="regression", lr=1e30)
    result = training.run(one, TASKS["regression"])
    assert result["status"] == "diverged"
    assert all(map(math.isfinite, result["log"]["loss"]))
    assert len(result["log"]["loss"]) == len(result["log"]["step"]) < 3


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", ["dense", "btt(rank=2)", "btt_moe(experts=4)"])
def test_a_model_is_all_on_one_device(kind: str, name: str) -> None:
    """On "meta" as on a GPU: tensors of two devices do not mix."""
    task = TASKS[kind]
    model = task.model(CONTESTANTS[name], 16, 1).to("meta")
    batch = task.batch(torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="device"):
        task.loss(model, batch)
    task.loss(model, training.moved(batch, "meta")).backward()
    assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {
        "meta"
    }


@pytest.mark.parametrize("name", CONTESTANTS)
def test_all_models_begin_at_the_same_loss(name: str) -> None:
    """That of equal odds: heads start at zero."""
    task = TASKS["text"]
    loss = training.validation_loss(task.model(CONTESTANTS[name], 16, 1), task)
    assert loss == pytest.approx(math.log(task.symbols), rel=1e-5)  # type: ignore


@pytest.mark.parametrize("name", CONTESTANTS)
def test_rates_follow_the_width(name: str) -> None:
    """Four times the width: hidden weights have a quarter of the rate, or a factor
    what its own fan-in asks for; inputs, biases and norms the same."""
    task, contestant = TASKS["text"], CONTESTANTS[name]
    one = job(contestant, width=64, lr=0.5)
    model = task.model(contestant, 64, 1)
    rates = {
        n: group["lr"]
        for group in training.optimizer(model, one, task).param_groups
        for n in group["names"]
    }
    assert set(rates) == {n for n, _ in model.named_parameters()}
    assert rates["head.weight"] == 0.5 / 4
    assert rates["embed.weight"] == rates["places.weight"] == 0.5
    assert rates["blocks.0.norm1.weight"] == rates["head.bias"] == 0.5
    for prefix, module in model.named_modules():
        if prefix.endswith(("up", "down", "query", "out")):
            layer = getattr(module, "lr_multipliers", lambda _: {"weight": 1.0})
            for factor, multiple in layer("adamw").items():
                if factor != "bias":
                    assert rates[f"{prefix}.{factor}"] == 0.5 * multiple / 4
    if name == "ffn_moe":
        assert rates["blocks.0.mlp.router.weight"] == 0.5 / 4


def test_a_structure_of_ones_own_is_what_it_says(tmp_path) -> None:
    """The same as the library's with the same equation."""
    path = tmp_path / "own.ein"
    path.write_text(OWN)
    (own,) = named([str(path)], {}, 8)
    task = TASKS["text"]
    assert (
        training.run(job(own), task)["log"]
        == training.run(job(CONTESTANTS["btt(rank=2)"]), task)["log"]
    )
