"""The compiler on one screen: from SPEC to profile or source, one call a stage.

    text -> Spec -> Structure -> Binding -> Plan -> Profile -> Module -> source

What a SPEC is, and how it becomes a definition, is in `specs`. The code generator is
imported where it is called, so that a command that only analyses starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from einc import plan, sizes, specs
from einc.analysis.certificate import Watch, certified, no_watch
from einc.analysis.profile import Profile, profile
from einc.analysis.why import Reasons, reasons
from einc.codegen import names
from einc.codegen.choices import Backward, Dtype, Kernels
from einc.errors import UsageError
from einc.order import ORDERS, Order
from einc.plan import Plan
from einc.resolve import resolve
from einc.sizes import Binding
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition

if TYPE_CHECKING:
    from einc.codegen.nodes import Module

DEFAULT_TOKENS = 4096
MAX_TOKENS = (1 << 31) - 1

Arguments = Mapping[str, Fraction]


def load(spec: str, arguments: Arguments | None = None, route: str = "") -> Structure:
    """The structure that `spec` names, with its arguments; `route` is INDEX:TOP."""
    source, definition = specs.find(spec)
    return compile_definition(source, definition, arguments, route)


def compile_definition(
    source: Source,
    definition: Definition,
    arguments: Arguments | None = None,
    route: str = "",
) -> Structure:
    """Gives a definition its meaning, routed if asked for."""
    if route:
        source, definition = specs.routed(source, definition, route)
    return resolve(definition, source, arguments)


def bind(structure: Structure, d_in: int | None, d_out: int | None) -> Binding | None:
    """Integers for the sizes, or None where the features are left open."""
    features = sizes.features(structure, d_in, d_out)
    if features is None and d_out is not None:
        raise UsageError("output features alone say too little: give --in too")
    return None if features is None else sizes.bind(structure, *features)


def order(
    structure: Structure, binding: Binding | None, tokens: int, kind: Order
) -> Plan:
    """The order of contraction, for `tokens` tokens a call or by exponents."""
    if not 1 <= tokens <= MAX_TOKENS:
        raise UsageError(f"tokens must be from 1 to {MAX_TOKENS}, not {tokens}")
    if kind not in ORDERS:
        raise UsageError(f"the order is one of {', '.join(ORDERS)}, not {kind}")
    if binding is not None:
        return plan.plan(binding, tokens, kind)
    if kind not in ("best", "given"):
        raise UsageError(f"the order `{kind}` is opt_einsum's and needs features")
    return plan.plan_by_exponents(structure, kind)


def analyze(
    structure: Structure,
    d_in: int | None = None,
    d_out: int | None = None,
    tokens: int = DEFAULT_TOKENS,
    kind: Order = "best",
) -> Profile:
    """The whole analysis; symbolic where the features are left open.

    The rank is what theorems say: `certify` says the rest.
    """
    binding = bind(structure, d_in, d_out)
    return profile(structure, order(structure, binding, tokens, kind), binding)


def certify(report: Profile, watch: Watch = no_watch) -> Profile:
    """With the rank that elimination finds, where no theorem says it.

    Takes up to half a minute and 1 GB; raises KeyboardInterrupt where one stops it.
    """
    if report.figures is None:
        return report
    found = certified(report.figures.binding, report.figures.rank, watch)
    return replace(report, figures=replace(report.figures, rank=found))


def why(report: Profile) -> Reasons | None:
    """The reasons for its exponents; None where fixed sizes leave it without any."""
    if report.exponents is None:
        return None
    return reasons(report.structure, given=report.plan.kind == "given")


def module(
    report: Profile,
    class_name: str = "",
    dtype: Dtype = "float32",
    backward: Backward = "manual",
    kernels: Kernels = "torch",
    expand: bool = True,
) -> Module:
    """The generated module of what was analysed at one shape, as data.

    Its layouts are chosen for `dtype`; it computes in any. `backward` is by hand where
    that pays, with or without keeping intermediates, or autograd's. Where `expand`, a
    weight may be multiplied with many small matrices as they lie. With the kernels of
    "triton" it has a fused one for GPUs, with "native" one in C for CPUs: `UsageError`
    where the structure has none.
    """
    if report.figures is None:
        raise UsageError(f"structure `{report.name}` needs features to generate code")
    binding = report.figures.binding
    name = class_name or names.class_name(report.name, binding.d_in, binding.d_out)
    name = names.check_class_name(name)
    from einc.codegen.lower import lower

    lowered = lower(report, name, dtype, backward, expand)
    where = f"for `{report.name}` at {binding.d_in} x {binding.d_out}"
    if kernels == "triton":
        from einc.codegen.fusion import fused

        kernel = fused(report)
        if kernel is None:
            raise UsageError(
                f"there is no fused kernel {where}: it takes two contractions with sides "
                "up to 128, as Monarch and Block Tensor-Train have"
            )
        return replace(lowered, fused=kernel)
    if kernels == "native":
        from einc.codegen.native.kernel import native_kernel

        own = native_kernel(report, dtype)
        if own is None:
            raise UsageError(
                f"there is no native kernel {where}: it takes two factors and more, each "
                "multiplied with x in turn, in one term"
            )
        return replace(lowered, native=own)
    return lowered


def source(structure: Structure, modules: Sequence[Module]) -> str:
    """The text of a file with one class for each module."""
    from einc.codegen.emit import emit

    return emit(structure, modules)
