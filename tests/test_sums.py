"""Sums of terms, tied factors and `normalize`: random structures against plain einsum.

The oracle builds W term by term, each by one einsum over unit vectors, and knows
nothing of plans: values, gradients, counts and rank bounds are held against it.
"""

from __future__ import annotations

import math
import string

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc.analysis.scaling import scales

SPLITS = {24: [(24,), (4, 6), (6, 4), (2, 3, 4)], 36: [(36,), (6, 6), (4, 9)]}
TOKENS = 6


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, int, int]:
    """A spec with exact sizes, and the features to bind it to."""
    whole = [draw(st.sampled_from(sorted(SPLITS))) for _ in range(2)]
    sizes: dict[str, int] = {}
    factors: dict[str, tuple[int, ...]] = {}
    lines: list[str] = []
    before: tuple[list[str], list[str]] | None = None
    for number in range(draw(st.integers(1, 3))):
        if before is None or draw(st.booleans()):
            before = tuple(
                [f"{letter}{number}{i}" for i in range(len(split))]
                for letter, split in zip(
                    "io", _splits(draw, whole, sizes, number), strict=True
                )
            )
        inputs, outputs = before
        inner = [f"r{number}{i}" for i in range(draw(st.integers(0, 2)))]
        sizes |= {name: draw(st.integers(1, 3)) for name in inner}
        known = [*inputs, *outputs, *inner]
        refs = [("x", inputs)]
        for _ in range(draw(st.integers(1, 3))):
            refs.append(_operand(draw, known, sizes, factors))
        held = {name for _, axes in refs for name in axes}
        missing = [name for name in outputs if name not in held]
        if missing:
            name = f"F{len(factors)}"
            factors[name] = tuple(sizes[i] for i in missing)
            refs.append((name, missing))
        right = " * ".join(f"{name}[{', '.join(axes)}]" for name, axes in refs)
        sign = "+=" if number else "="
        lines.append(f"y[{', '.join(outputs)}] {sign} {right}")
    used = " ".join(lines)
    lines += [f"{name} = {size}" for name, size in sizes.items() if name in used]
    if draw(st.booleans()):
        named = draw(st.sets(st.sampled_from(sorted(factors)), min_size=1))
        lines.append(f"normalize {', '.join(sorted(named))}")
    text = "structure s {\n  " + "\n  ".join(lines) + "\n}\n"
    # 23 is padded to 24, and 35 to 36.
    d_in, d_out = (n - draw(st.integers(0, 1)) for n in whole)
    return text, d_in, d_out


def _splits(draw, whole, sizes, number):
    found = [draw(st.sampled_from(SPLITS[features])) for features in whole]
    for letter, split in zip("io", found, strict=True):
        sizes |= {f"{letter}{number}{i}": size for i, size in enumerate(split)}
    return found


def _operand(draw, known, sizes, factors):
    """A new factor, or one that stands already where its sizes allow."""
    if factors and draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(factors)))
        axes: list[str] = []
        for size in factors[name]:
            fitting = [i for i in known if sizes[i] == size and i not in axes]
            if not fitting:
                break
            axes.append(draw(st.sampled_from(fitting)))
        else:
            return name, axes
    axes = draw(st.lists(st.sampled_from(known), unique=True, max_size=3))
    name = f"F{len(factors)}"
    factors[name] = tuple(sizes[i] for i in axes)
    return name, axes


def dense(binding, module) -> torch.Tensor:
    """W of a module, from its parameters alone: one einsum a term."""
    structure, nominal = binding.structure, scales(binding)
    total = torch.zeros(binding.d_out, binding.d_in, dtype=torch.float64)
    for term, (padded_in, _) in zip(structure.terms, binding.padded, strict=True):
        letters = dict(
            zip([a.name for a in term.axes], string.ascii_letters, strict=False)
        )
        operands = ["Z" + "".join(letters[a.name] for a in term.input)]
        units = torch.eye(binding.d_in, padded_in, dtype=torch.float64)
        tensors = [units.reshape(-1, *binding.shape(term.input))]
        for operand in term.operands:
            factor = getattr(module, operand.name)
            if operand.name in structure.normalized:
                rms = factor.square().mean().sqrt()
                ratio = rms / nominal[operand.name].std
                factor = factor / ratio.clamp(min=1.0)
                factor = factor * getattr(module, f"{operand.name}_scale").squeeze()
            tensors.append(factor)
            operands.append("".join(letters[a.name] for a in operand.axes))
        output = "Z" + "".join(letters[a.name] for a in term.output)
        images = torch.einsum(f"{','.join(operands)}->{output}", *tensors)
        total = total + images.reshape(binding.d_in, -1).T[: binding.d_out]
    return total


def built(text: str, d_in: int, d_out: int):
    """The profile at the shape, and a module with random parameters."""
    structure = einc.parse(text)
    profile = structure.analyze(d_in, d_out, tokens=TOKENS)
    # Costs of intermediates of these small examples can still be large.
    assume(profile.figures.work.forward < 1e6)
    module = structure.module_class(d_in, d_out, tokens=TOKENS)(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return profile, module


@settings(max_examples=150)
@given(specs())
def test_code_is_the_sum_of_its_terms(spec) -> None:
    profile, module = built(*spec)
    binding = profile.figures.binding
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(
        TOKENS, spec[1], dtype=torch.float64, generator=generator, requires_grad=True
    )
    weights = torch.randn(TOKENS, spec[2], dtype=torch.float64, generator=generator)
    results = []
    for compute in (
        lambda: module(x),
        lambda: x @ dense(binding, module).T + module.bias,
    ):
        module.zero_grad()
        x.grad = None
        y = compute()
        (y * weights).sum().backward()
        grads = [p.grad for p in module.parameters()]
        results.append([y.detach(), x.grad, *(g.clone() for g in grads)])
    for ours, plain in zip(*results, strict=True):
        scale = max(1.0, float(plain.abs().max()))
        assert float((ours - plain).abs().max()) <= 1e-9 * scale
    torch.testing.assert_close(module.to_dense(), dense(binding, module))


@settings(max_examples=100)
@given(specs())
def test_counts_are_what_torch_counts(spec) -> None:
    profile, module = built(*spec)
    document = profile.to_json()
    x = torch.randn(TOKENS, spec[1], dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = module(x)
    assert forward.get_total_flops() == round(document["flops"]["forward"] * TOKENS)
    with FlopCounterMode(display=False) as both:
        module(x).sum().backward()
    assert both.get_total_flops() == round(document["flops"]["training"] * TOKENS)
    scalars = document["params"]["scales"]
    numel = sum(p.numel() for p in module.parameters())
    assert numel == document["params"]["total"] + scalars + y.shape[1]


@settings(max_examples=100)
@given(specs())
def test_rank_is_at_most_the_bound(spec) -> None:
    profile, module = built(*spec)
    found = profile.figures.rank
    with torch.no_grad():
        singular = torch.linalg.svdvals(dense(profile.figures.binding, module))
    rank = int((singular > 1e-9 * singular[0]).sum()) if singular[0] else 0
    assert rank <= found.bound
    assert found.status in ("proved", "probable")
    assert rank == found.generic


@settings(max_examples=150)
@given(specs())
def test_printing_is_parsing_backwards(spec) -> None:
    structure = einc.parse(spec[0])
    assert einc.parse(str(structure)) == structure


def contract(text: str, *shape: int) -> str:
    source = einc.parse(f"structure s {{ {text} }}").source(*shape)
    return source[source.index("def contract") : source.index("def to_dense")]


def test_what_two_terms_share_is_computed_once() -> None:
    text = (
        "y[o] = x[i] * U[i, r] * V[r, o]\n"
        "y[o] += x[i] * U[i, r] * W[r, s] * Z[s, o]\n r = 4 s = 3"
    )
    assert contract(text, 64, 64).count("x @ self.U") == 1
    profile = einc.parse(f"structure s {{ {text} }}").analyze(64, 64)
    macs = 64 * 4 + 4 * 64 + 4 * 3 + 3 * 64
    assert profile.figures.work.forward == macs
    assert profile.figures.work.elementwise == 64


def test_two_lone_terms_are_not_called_generic() -> None:
    swap = einc.parse("structure s { y[a, b] = x[b, a] y[b, a] += x[b, a] a, b = 2 }")
    profile = swap.analyze()
    found = profile.figures.rank
    assert (found.generic, found.bound, found.status) == (3, 4, "probable")
    assert torch.linalg.matrix_rank(swap.module_class()().to_dense()) == 3


@pytest.mark.parametrize(
    ("text", "shape", "rank", "bound"),
    [
        ("y[o] = x[i] * U[i, r] * V[r, k] * U[k, s] * V[s, o] r, s = 2 k ~ d_in", 8, 2, 2),
        ("y[a, c] = x[b, c] * A[a, b] y[a, c] += x[a, e] * B[c, e]\na, b, c, e ~ d^(1/2)", 16, 16, 16),
    ],
)  # fmt: skip
def test_ranks_by_hand(text: str, shape: int, rank: int, bound: int) -> None:
    structure = einc.parse(f"structure s {{ {text} }}")
    profile = structure.analyze(shape, shape)
    assert profile.figures.rank.bound == bound
    W = structure.module_class(shape, shape)(dtype=torch.float64).to_dense()
    assert torch.linalg.matrix_rank(W) == rank


def test_tied_figures_are_bounds() -> None:
    structure = einc.parse(
        "structure s { y[o] = x[i] * U[i, r] * U[o, r] r ~ d^(1/2) }"
    )
    profile = structure.analyze(64, 64).to_json()
    assert profile["params"]["factors"] == {"U": 512}
    assert profile["rank"]["generic"] == 8
    assert profile["rank"]["method"].startswith("elimination of 64 x 64")
    assert profile["exponents"]["psi_status"] == "bound only"


def test_tied_sizes_agree_even_where_none_multiply_to_the_features() -> None:
    text = "y[p, q] = x[j, k] * A[j, p] * A[k, q] j, k ~ d_in^(1/2) p, q ~ d_out^(1/2)"
    for d_in, d_out in ((1000, 300), (1024, 1024), (7, 5), (2, 3), (997, 4)):
        structure = einc.parse(f"structure s {{ {text} }}")
        binding = structure.analyze(d_in, d_out).figures.binding
        sizes, ((padded_in, padded_out),) = binding.sizes, binding.padded
        assert sizes["j"] == sizes["k"] and sizes["p"] == sizes["q"]
        assert padded_in == sizes["j"] ** 2 >= d_in
        assert padded_out == sizes["p"] ** 2 >= d_out
        assert (
            sizes["j"] <= math.isqrt(d_in) + 2 and sizes["p"] <= math.isqrt(d_out) + 2
        )


def test_each_term_pads_for_itself() -> None:
    binding = einc.load("low_rank_plus_block").analyze(1009, 1013).figures.binding
    first, second = binding.padded
    assert first == (1009, 1013) and second[0] > 1009 and second[1] > 1013


def test_normalize_leaves_small_factors_alone() -> None:
    structure = einc.parse(
        "structure s { y[o] = x[i] * U[i, r] * V[r, o] r = 4 normalize U }"
    )
    module = structure.module_class(64, 48)(dtype=torch.float64)
    assert module.U_scale.shape == (1,) and not hasattr(module, "V_scale")
    assert float(module.U_scale) == 1.0
    x = torch.randn(3, 64, dtype=torch.float64)
    with torch.no_grad():
        module.U.mul_(0.5)
        plain = x @ module.U @ module.V + module.bias
        torch.testing.assert_close(module(x), plain)
        module.U.mul_(100.0)
        std = float(scales(structure.analyze(64, 48).figures.binding)["U"].std)
        rms = float(module.U.square().mean().sqrt())
        plain = x @ (module.U * std / rms) @ module.V + module.bias
        torch.testing.assert_close(module(x), plain)
        module.U.zero_()
    module(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert module.lr_multipliers("adamw")["U_scale"] == 1.0


def test_a_rank_that_another_term_uses_is_not_wasted() -> None:
    text = (
        "y[o] = x[i] * U[i, r] * V[r, o]\n"
        "y[g, q] += x[i] * U[i, r] * T[r, s] * D[s, g, q]\n"
        "r ~ d/8 s ~ d/16 g ~ d_out^(1/2)"
    )
    profile = einc.parse(f"structure s {{ {text} }}").analyze(256, 256)
    assert [w.code for w in profile.warnings] == []
