"""What the docstring of a generated class says: figures, and what is copied.

In: a `Profile` with features. Out: lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from einc.analysis.profile import Profile, number
from einc.codegen.layout import Copy, layout_text


def copies(
    profile: Profile,
    forward: Sequence[Copy],
    backward: Sequence[Copy] | None,
    is_left: bool,
) -> list[str]:
    """The header's lines on what is written anew; of experts that is another matter.

    `backward` is None where it is autograd's; what `is_left` is y as a view, which is
    copied where no bias is added.
    """
    if profile.structure.route is not None:
        return []
    last = ["y, without a bias"] * is_left
    lines = [f"copies beside the products: {_listed(forward, *last)}"]
    if backward is not None:
        lines.append(f"copies in backward: {_listed(backward)}")
    return lines


def _listed(found: Sequence[Copy], *others: str) -> str:
    copies = [*(layout_text(copy.groups) for copy in found), *others]
    return "; ".join(copies) or "none"


def figures(profile: Profile) -> tuple[str, ...]:
    """Sizes, parameters, FLOPs, the order; a line each."""
    found = profile.figures
    assert found is not None
    binding, work = found.binding, found.work
    sizes = ", ".join(f"{name} = {size}" for name, size in binding.sizes.items())
    padded_in, padded_out = (max(pair) for pair in zip(*binding.padded, strict=True))
    lines = [f"{binding.d_in} -> {binding.d_out} features" + f": {sizes}" * bool(sizes)]
    if binding.is_padded:
        lines.append(f"padded to {padded_in} -> {padded_out} features")
    lines.append(
        f"{found.parameters.total:,} parameters ({found.parameter_share:.2%} of "
        "dense), without the bias"
    )
    flops = number(2 * work.matrix)
    training = number(2 * work.training_matrix)
    lines.append(
        f"{flops:,} FLOPs a token forward ({found.flop_share:.2%} of dense), "
        f"{training:,} with backward"
    )
    if binding.top is not None:
        lines.append(
            f"{found.parameters.active:,} parameters active in a token; "
            f"{number(2 * work.all_experts_matrix):,} FLOPs if all experts were computed"
        )
        router = found.parameters.router
        lines.append(
            f"router beside: {router:,} parameters, {2 * router:,} FLOPs a token"
        )
    if work.elementwise:
        lines.append(f"{number(work.elementwise):,} elementwise FLOPs a token beside")
    plan = profile.plan
    lines.append(f"order: {plan.kind}, planned for {plan.tokens:,} tokens a call")
    return tuple(lines)
