"""A profile to a module: which of the layouts and backwards its code has.

In: a `Profile` with features. Out: a `Module`. Of all orientations of the products the
one with the cheapest copies is taken, and a backward by hand where one pays. Names and
shapes of the parameters follow from the structure and the sizes alone.
"""

from __future__ import annotations

from einc.analysis.profile import Profile
from einc.analysis.scaling import scales
from einc.codegen.choices import Backward, Dtype
from einc.codegen.chunks import LEAST, in_chunks
from einc.codegen.gradients import Gradients, all_gradients, is_chain
from einc.codegen.header import copies, figures
from einc.codegen.lowering import Lowering, lowerings
from einc.codegen.nodes import Module, Parameter, Router
from einc.codegen.results import is_cut, is_view
from einc.errors import InternalError
from einc.plan import Plan
from einc.sizes import Binding

MOST_FORWARDS = 4
"""Forwards of which the gradients are tried."""


def lower(
    profile: Profile,
    class_name: str,
    dtype: Dtype = "float32",
    backward: Backward = "manual",
    expand: bool = True,
) -> Module:
    """The module that computes a structure in the order of `profile.plan`.

    `dtype` is what the layouts are chosen for; the module takes any. The backward is
    autograd's own where none by hand pays, whatever `backward` says. Weights are
    expanded over many small matrices where that saves copies, unless `expand` forbids it.
    """
    if profile.figures is None:
        raise InternalError("code of what was analysed without features")
    binding, structure, plan = profile.figures.binding, profile.structure, profile.plan
    sizes = scales(binding)
    lowering = lowerings(binding, plan, dtype, by_hand=False, expand=expand)[0]
    body, chunks, written = tuple(lowering.body), None, None
    if backward != "autograd" and _pays(lowering, plan):
        found = _by_hand(lowerings(binding, plan, dtype, by_hand=True, expand=expand))
        if found is not None:
            outside, inside = in_chunks(*found, backward == "recompute")
            if lowering.tokens > inside.size:
                body, chunks = outside, inside
                lowering, written = found[0], found[1].copies
    arguments = ", ".join(f"{k} = {v}" for k, v in structure.arguments.items())
    return Module(
        name=class_name,
        title=f"{structure.name}({arguments})" if arguments else structure.name,
        d_in=binding.d_in,
        d_out=binding.d_out,
        figures=(
            *figures(profile),
            *copies(profile, lowering.copies, written, is_view(body) or is_cut(body)),
        ),
        parameters=tuple(
            Parameter(
                f.name,
                tuple(a.name for a in f.axes),
                binding.shape(f.axes),
                sizes[f.name],
                f.name in structure.normalized,
            )
            for f in structure.factors
        ),
        body=body,
        router=_router(binding),
        experts=tuple(lowering.experts),
        chunks=chunks,
    )


def _pays(lowering: Lowering, plan: Plan) -> bool:
    """Whether a backward by hand is faster, if there is one and there are chunks for it.

    Those chunks are written into a whole: a copy, unless the result is one anyway. That
    pays for a chain of single matrices only where one is expanded.
    """
    if lowering.tokens <= LEAST or not is_chain(plan):
        return False
    return lowering.writes_result or lowering.expands


def _by_hand(forwards: list[Lowering]) -> tuple[Lowering, Gradients] | None:
    """The cheapest forward with gradients; `forwards` ascend in their cost."""
    best, least = None, float("inf")
    for forward in forwards[:MOST_FORWARDS]:
        if forward.cost >= least:
            break
        for gradients in all_gradients(forward):
            if forward.cost + gradients.cost < least:
                best, least = (forward, gradients), forward.cost + gradients.cost
    return best


def _router(binding: Binding) -> Router | None:
    routed = binding.structure.routed
    if routed is None:
        return None
    assert binding.top is not None
    return Router(binding.sizes[routed], binding.top)
