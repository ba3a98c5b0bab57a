"""Predicted times: that they follow from a calibration, whose rates are made up here.

What a machine really does is no matter of these tests.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import terminal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import Case, any_case
from terminal import Ended
from test_imports import command, imports_of
from torch.utils._python_dispatch import TorchDispatchMode

from einc import calibration, compiler, library, predict, predict_report, times
from einc.analysis.profile import Profile
from einc.calibration import LAYOUTS, Calibration, Machine, Overheads, Rates, Table
from einc.codegen.operations import linear, work
from einc.codegen.recorder import MatrixProduct
from einc.codegen.strided import Copy, Strided
from einc.errors import UsageError
from einc.report import text

FLOPS, COPIED, COMPUTED, TURNED = 1e9, 1e6, 1e5, 1e3
MACHINE = Machine(
    "cpu",
    "a processor",
    threads=2,
    torch="2",
    allocator="glibc's default",
    matmul={"float32": FLOPS, "bfloat16": 4 * FLOPS},
    copy=COPIED,
    launch=1e-6,
)
NOTHING = Overheads(call=0.0, view=0.0, node=0.0, function=0.0, backward=0.0)


def rates(flops: float) -> Rates:
    """The same at all sizes."""
    return Rates(
        {layouts: Table({(1, 1, 1, 1): flops}) for layouts in LAYOUTS},
        copy=Table({(1,): COPIED}),
        elementwise=Table({(1,): COMPUTED}),
        transpose=Table({(1, 1): TURNED}),
        interleaved=0.0,
        apart=0.0,
    )


FLAT = Calibration(
    MACHINE,
    {"float32": rates(FLOPS), "bfloat16": rates(4 * FLOPS)},
    alone={},
    together={},
    overheads=NOTHING,
)
"""Seconds in it are sums that can be done by hand."""


def report(spec: str, d_in: int, d_out: int, tokens: int) -> Profile:
    return compiler.analyze(library.structure(spec), d_in, d_out, tokens)


def prediction(
    spec: str, d: int, shown: tuple[int, ...], of: Calibration = FLAT
) -> predict.Prediction:
    found = report(spec, d, d, 1)
    assert found.figures is not None
    return predict.prediction(found.figures.binding, of, shown)


def row(found: Profile, tokens: int, kind: Any, of: Calibration = FLAT) -> predict.Row:
    return predict.predicted(found, tokens, "float32", kind, of)


# Seconds


def test_dense():
    """As nn.Linear: the product begins from the bias."""
    n, i, o = 8, 64, 32
    product = 2 * n * i * o / FLOPS
    bias = 4 * n * o / COMPUTED
    forward = row(report("dense", i, o, n), n, "forward")
    assert forward.module.total == pytest.approx(product + bias)
    assert forward.dense.total == pytest.approx(product + bias)
    trained = row(report("dense", i, o, n), n, "training")
    summed = 4 * (n * o + o) / COMPUTED
    assert trained.module.total == pytest.approx(3 * product + bias + summed)
    assert trained.dense.total == pytest.approx(3 * product + bias + summed)
    assert trained.ratio == trained.module.total / trained.dense.total
    assert forward.module.bound == "bytes"


def test_low_rank():
    n, d = 8, 64
    found = report("low_rank", d, d, n)
    assert found.figures is not None
    r = found.figures.binding.sizes["r"]
    products = 2 * n * r * (d + d) / FLOPS
    bias = 4 * n * d / COMPUTED
    assert row(found, n, "forward").module.total == pytest.approx(products + bias)
    summed = 4 * (n * d + d) / COMPUTED
    trained = row(found, n, "training").module.total
    assert trained == pytest.approx(3 * products + bias + summed)


def test_monarch():
    """Two products, and one copy of y, whose runs are of 8."""
    n, d = 16, 64
    found = report("monarch", d, d, n)
    products = 2 * n * 2 * d * 8 / FLOPS
    biased = 4 * n * d / COMPUTED  # the second product begins from it
    copied = 4 * 2 * n * d / COPIED
    forward = row(found, n, "forward").module
    assert forward.total == pytest.approx(products + biased + copied)
    # So slow are copies here that products wait for their operands, too.
    assert forward.by_bound["bytes"] == forward.total
    fast = replace(FLAT.rates["float32"], copy=Table({(1,): 1e15}))
    quick = row(found, n, "forward", replace(FLAT, rates={"float32": fast})).module
    assert quick.by_bound["arithmetic"] == pytest.approx(products)
    forward = row(report("monarch", d, d, 8 * n), 8 * n, "forward").module
    assert forward.total == pytest.approx(8 * (products + biased + copied))


def test_overheads_and_new_memory():
    n, d = 8, 64
    found = report("low_rank", d, d, n)
    plain = {kind: row(found, n, kind).dense.total for kind in ("forward", "training")}
    overheads = Overheads(call=1.0, view=0.0, node=10.0, function=100.0, backward=1e3)
    slow = replace(FLAT, overheads=overheads)
    forward, trained = (row(found, n, k, slow).dense for k in ("forward", "training"))
    assert forward.total == pytest.approx(plain["forward"] + 1.0)
    # The transposition of the weight, and the product.
    assert trained.total == pytest.approx(plain["training"] + 1.0 + 2 * 10.0 + 1e3)
    assert forward.bound == trained.bound == "launches"
    # y takes 4 n d bytes: at the rate of the largest size that is no larger.
    for size, rate in ((1, 1e3), (4 * n * d, 1e3), (4 * n * d + 1, 5e2)):
        expected = 4 * n * d / (1e3 if size <= 4 * n * d else 5e2)
        for fresh in (
            replace(FLAT, alone={1: 5e2, size: rate}),
            replace(FLAT, together={1: 5e2, size: rate}),
        ):
            total = row(found, n, "forward", fresh).dense.total
            assert total == pytest.approx(plain["forward"] + expected)


def test_each_layout_has_its_rate():
    n, d = 8, 64
    slow = {name: Table({(1, 1, 1, 1): FLOPS / 2}) for name in LAYOUTS}
    of = {
        "float32": replace(
            FLAT.rates["float32"], products=slow | {"nt": Table({(1, 1, 1, 1): FLOPS})}
        )
    }
    calibrated = replace(FLAT, rates=of)
    found = report("low_rank", d, d, n)
    # nn.Linear's weight is transposed, those of the structure are not.
    halved = row(found, n, "forward", calibrated)
    plain = row(found, n, "forward")
    assert halved.dense.total == plain.dense.total
    assert halved.module.total > plain.module.total


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(library.NAMES),
    st.integers(1, 500),
    st.integers(1, 500),
)
def test_more_tokens_take_longer(name: str, tokens: int, more: int):
    found = report(name, 64, 64, 64)
    for kind in ("forward", "training"):
        few, many = (row(found, n, kind) for n in (tokens, 40 * (tokens + more)))
        assert few.module.total < many.module.total
        assert few.dense.total < many.dense.total


def test_structures_that_do_less_take_less():
    free = {
        name: replace(of, elementwise=Table({(1,): 1e15}))
        for name, of in FLAT.rates.items()
    }
    found = prediction("low_rank", 1024, (1, 4), replace(FLAT, rates=free))
    assert [(r.dtype, r.kind, r.tokens) for r in found.rows] == [
        (dtype, kind, n)
        for dtype in ("float32", "bfloat16")
        for kind in ("forward", "training")
        for n in (1, 4)
    ]
    assert all(r.ratio < 1 for r in found.rows)
    assert all("every predicted number" in told for told in found.sentences("a"))
    # It adds its bias apart.
    slow = prediction("dense", 64, (1,))
    told = slow.to_json("a")
    assert {one["tokens"] for one in told["faster_from"]} == {None}


def test_routed_structures():
    found = report("btt_moe", 64, 64, 32)
    trained = row(found, 32, "training").module.total
    assert 0 < row(found, 32, "forward").module.total < trained
    cuda = replace(FLAT, machine=replace(MACHINE, device="cuda"))
    with pytest.raises(UsageError, match="CPUs alone"):
        row(found, 32, "forward", cuda)


# Operations: they are those that torch does


class Kernels(TorchDispatchMode):
    """Counts matrix products by their sizes, and what is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[int, int, int, int]] = Counter()
        self.copied = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ):
        aten = torch.ops.aten
        packet = func.overloadpacket
        if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
            left, right = args[-2:]
            batch = left.shape[0] if left.dim() == 3 else 1
            self.products[batch, *left.shape[-2:], right.shape[-1]] += 1
        result = func(*args, **(kwargs or {}))
        if packet in (aten.clone, aten._to_copy):
            self.copied += result.numel()
        return result


def products(counted: Any) -> Counter[tuple[int, int, int, int]]:
    found: Counter[tuple[int, int, int, int]] = Counter()
    for operation, count in counted.operations.items():
        if isinstance(operation, MatrixProduct):
            sizes = operation.batch, operation.m, operation.k, operation.n
            found[sizes] += count
    return found


def copied(counted: Any) -> int:
    """Elements, without those that a product copies for itself."""
    return sum(
        count * operation.elements
        for operation, count in counted.operations.items()
        if isinstance(operation, Copy)
    )


def check(found: Profile, tokens: int) -> None:
    """With autograd's own backward, of which torch says all it does."""
    from einc.nn.compile import class_of

    assert found.figures is not None
    binding = found.figures.binding
    module = compiler.module(found, backward="autograd")
    layer = class_of(found, backward="autograd")()
    counted = work(module, tokens)
    x = torch.randn(tokens, binding.d_in, requires_grad=True)
    with torch.no_grad(), Kernels() as kernels:
        layer(x)
    assert kernels.products == products(counted.forward)
    pull = torch.randn(tokens, binding.d_out)
    with Kernels() as kernels:
        torch.autograd.grad(layer(x), [x, *layer.parameters()], pull)
    assert kernels.products == products(counted.training)


@pytest.mark.parametrize("shape", [(256, 256), (192, 760)], ids=str)
@pytest.mark.parametrize(
    "name", [n for n in library.NAMES if library.structure(n).route is None]
)
def test_products_of_the_library_are_those_that_torch_does(
    name: str, shape: tuple[int, int]
):
    check(report(name, *shape, 5), 5)


@settings(max_examples=40, deadline=None)
@given(any_case())
def test_products_are_those_that_torch_does(case: Case):
    if case.route is None:
        found = case.load().analyze(case.d_in, case.d_out, tokens=3, certify=False)
        check(found, 3)


def test_those_of_a_backward_by_hand():
    """The same products, in more and smaller parts, and in less memory."""
    found = report("monarch", 1024, 1024, 2048)
    by_hand, autograd = (
        work(compiler.module(found, backward=backward), 2048).training
        for backward in ("manual", "autograd")
    )
    macs = [
        sum(b * m * k * n * count for (b, m, k, n), count in products(one).items())
        for one in (by_hand, autograd)
    ]
    assert macs[0] == macs[1] == 3 * 2048 * 65536
    assert copied(by_hand) <= copied(autograd)
    taken = [
        sum(size * count for size, count in one.fresh.items())
        for one in (by_hand, autograd)
    ]
    assert taken[0] < taken[1]


def test_those_of_nn_linear():
    layer = torch.nn.Linear(24, 40)
    x = torch.randn(6, 24, requires_grad=True)
    counted = linear(24, 40, 6)
    with torch.no_grad(), Kernels() as kernels:
        layer(x)
    assert kernels.products == products(counted.forward)
    with Kernels() as kernels:
        torch.autograd.grad(layer(x), [x, *layer.parameters()], torch.randn(6, 40))
    assert kernels.products == products(counted.training)


# Strides


@given(st.data())
def test_views_are_those_of_torch(data: st.DataObject):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    tensor = torch.empty(shape).permute(order)
    array = Strided.contiguous(*shape).permute(order)
    assert array.strides == tensor.stride() and array.shape == tensor.shape
    wanted = data.draw(st.permutations(shape))
    cut = data.draw(st.integers(0, len(wanted)))
    wanted = [*wanted[:cut], -1] if cut < len(wanted) else wanted
    try:
        expected = tensor.view(wanted)
    except RuntimeError:
        assert array.view(wanted) is None
        return
    found = array.view(wanted)
    assert found is not None and found.shape == expected.shape
    big = [i for i, size in enumerate(found.shape) if size > 1]
    assert [found.strides[i] for i in big] == [expected.stride(i) for i in big]


@pytest.mark.parametrize(
    ("shape", "order", "rows", "columns"),
    [
        ((64, 32), (0, 1), 1, 1),
        ((64, 32), (1, 0), 64, 32),  # a transposition
        ((8, 16, 64), (1, 0, 2), 1, 1),  # runs of 64
        ((8, 16, 64), (0, 2, 1), 16, 64),
        ((8, 16, 64), (2, 0, 1), 8 * 16, 64),
        ((8, 16, 64), (2, 1, 0), 8 * 16, 64),
        ((8, 16, 4), (1, 0, 2), 8, 64),  # runs too short to be one
    ],
)
def test_copies(shape: Any, order: Any, rows: int, columns: int):
    tensor = Strided.contiguous(*shape).permute(order)
    found = tensor.copy()
    assert (found.elements, found.rows, found.columns) == (tensor.size, rows, columns)


# Tables


def test_a_table_is_linear_in_logarithms():
    table = Table({(m, n): m * n**2 for m in (1, 8) for n in (1, 16)})
    assert table.at(4, 2) == pytest.approx(4 * 2**2)
    assert table.at(3, 5) == pytest.approx(3 * 5**2)
    # Beyond the grid it is flat.
    assert table.at(100, 16) == pytest.approx(8 * 16**2)


def test_a_hole_has_the_rate_of_what_is_smaller():
    points = {(m, n): m * n for m in (1, 8) for n in (1, 16)}
    del points[8, 16]
    # Of the two sizes the larger one is smaller there.
    assert Table(points).at(8, 16) == pytest.approx(8)


# Files


def test_json_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = replace(FLAT, alone={64: 1e9, 128: 2e9}, together={64: 1e9})
    assert calibration.stored("cpu") is None
    path = calibration.save(kept)
    assert path == tmp_path / "einc" / "calibration-cpu.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert calibration.load("cpu") == calibration.load(str(path)) == kept
    assert calibration.stored("cpu") == kept
    assert json.loads(path.read_text())["schema"] == "einc.calibration/1"


def test_a_relative_cache_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/somebody")
    expected = Path("/home/somebody/.cache/einc/calibration-cuda.json")
    assert calibration.place("cuda") == expected


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "einc").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="cannot write"):
        calibration.save(FLAT)


CEILINGS, COPIES = "matmul_flops_per_second", "copy_bytes_per_second"


def damages() -> dict[str, str]:
    whole = FLAT.to_json()
    products = {"products_flops_per_second": {"nn": [[1, 1, 1, 1, 1e9]]}}
    first, machine = whole["dtypes"]["float32"], whole["machine"]
    overheads = whole["overheads_seconds"]
    changes: dict[str, Any] = {
        "schema": {"schema": "einc.calibration/2"},
        "a part": {"overheads_seconds": {}},
        "layouts": {"dtypes": {"float32": {**first, **products}}},
        "no rate": {"machine": {**whole["machine"], "launch_seconds": 0}},
        "no number": {"machine": {**whole["machine"], "launch_seconds": float("nan")}},
        "no table": {"dtypes": {"float32": {**first, "copy_bytes_per_second": []}}},
        "a list": {"dtypes": []},
        "no dtypes": {"dtypes": {}},
        "a dtype of tomorrow": {"dtypes": {"float32": first, "float64": first}},
        "a dtype without ceiling": {
            "machine": {**machine, CEILINGS: {"bfloat16": 1e9}}
        },
        "a device of tomorrow": {"machine": {**machine, "device": "tpu"}},
        "control codes": {"machine": {**machine, "processor": "\x1b[31mred"}},
        "no size": {"dtypes": {"float32": {**first, COPIES: [[0, 1e9], [9, 1e9]]}}},
        "no seconds": {"overheads_seconds": dict.fromkeys(overheads, 1e308)},
    }
    found = {name: json.dumps({**whole, **change}) for name, change in changes.items()}
    return {**found, "no JSON": "{", "nothing": "", "another": "[]", "bytes": "\ufffd"}


@pytest.mark.parametrize("name", damages())
def test_a_damaged_file(tmp_path: Path, name: str):
    path = tmp_path / "calibration.json"
    path.write_text(damages()[name])
    with pytest.raises(UsageError, match="einc bench --calibrate"):
        calibration.load(str(path))


def test_differences():
    other = replace(MACHINE, threads=1, torch="3")
    assert FLAT.differences(MACHINE) == []
    assert FLAT.differences(other) == ["threads: 1, not 2", "torch: 3, not 2"]


# Words


@pytest.mark.parametrize(
    ("faster", "first", "sentence"),
    [
        ({1, 16, 256}, 1, "at every measured number of tokens"),
        ({16, 256}, 16, "from 16 tokens on"),
        ({1, 256}, 256, "from 256 tokens on"),
        ({1, 16}, None, "up to 16 tokens and not with more"),
        ({16}, None, "from no number of tokens on, only at 16"),
        (set(), None, "at no measured number of tokens"),
    ],
)
def test_from_how_many_tokens_on(faster: set[int], first: int | None, sentence: str):
    ratios = {n: 0.5 if n in faster else 1.0 for n in (1, 16, 256)}
    assert times.crossover(ratios) == first
    assert times.faster(ratios, "measured") == f"faster than nn.Linear {sentence}"


def test_other_numbers_of_tokens_are_told_beside_the_powers_of_two():
    for tokens, told in ((300, "tokens and at 300; bound"), (16, "tokens; bound")):
        shown = predict_report.shown(prediction("low_rank", 64, (tokens,)), "low_rank")
        assert told in text(shown)


def test_numbers_are_rounded_before_their_form_is_chosen():
    digits = {99.96: "100", 9.996: "10.0", 1e-5: "0.0000100", 0.0: "0.00"}
    digits |= {-99.96: "-100", math.inf: "inf", math.nan: "nan"}
    assert {value: times.digits(value) for value in digits} == digits
    texts = {
        0.09997: "100 ms",
        0.9999999: "1.00 s",
        9.996e-7: "1.00 us",
        0.0: "0.00 ns",
    }
    assert {seconds: times.text(seconds) for seconds in texts} == texts


# The command


@pytest.fixture
def stored(tmp_path: Path) -> str:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(FLAT.to_json()))
    return str(path)


def analyze(*arguments: str) -> Ended:
    return terminal.call("analyze", *arguments, cwd=Path.cwd())


def test_the_command_as_json(stored: str):
    given = ("btt", "--in", "64", "--tokens", "32")
    ended = analyze(*given, "--device", stored, "--json")
    assert (ended.status, ended.err) == (0, "")
    found = ended.json["predicted"]
    assert list(found) == ["machine", "rows", "faster_from", "sentences"]
    assert found["machine"] == MACHINE.to_json()
    rows = found["rows"]
    assert [(r["dtype"], r["pass"], r["tokens"]) for r in rows] == [
        (dtype, kind, n)
        for dtype in ("float32", "bfloat16")
        for kind in ("forward", "training")
        for n in (1, 16, 32, 256, 2048)
    ]
    for one in rows:
        assert one["ratio"] == one["seconds"]["module"] / one["seconds"]["dense"]
        assert one["bound"] == max(one["parts"], key=one["parts"].get)
        assert sum(one["parts"].values()) == pytest.approx(one["seconds"]["module"])
    profile = report("btt", 64, 64, 16)
    expected = predict.predicted(profile, 16, "bfloat16", "training", FLAT)
    assert expected.to_json() in rows
    assert "predicted" not in analyze(*given, "--json").json


def test_the_command_for_people(stored: str):
    ended = analyze("btt", "--in", "64", "--device", stored)
    assert (ended.status, ended.err) == (0, "")
    for told in ("predicted", "float32, training", "bound by", "a processor"):
        assert told in ended.out
    assert ended.out.count("faster than nn.Linear") == 4


def test_no_torch_is_needed(stored: str):
    asked = command("analyze", "btt", "--in", "64", "--device", stored)
    assert not imports_of(asked) & {"torch", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("btt --in 64 --device cpu", "`einc bench --calibrate`"),
        ("btt --in 64 --device cuda", "`einc bench --calibrate --device cuda`"),
        ("btt --in 64 --device no/such.json", "no calibration `no/such.json`"),
        ("btt --in 64 --device .", "cannot read `.`"),
        ("btt --device STORED", "give --in"),
    ],
)
def test_what_cannot_be_predicted(
    stored: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = analyze(*arguments.replace("STORED", stored).split())
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
