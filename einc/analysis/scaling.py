"""Initialization and learning rates: what a factor's shape in its term asks for.

In: a `Binding`. Out: for each factor its fan-in, fan-out, standard deviation and
learning-rate multipliers. They follow from the structure and its sizes alone, never
from the plan: x is contracted with the factors in the x-first order with the fewest
multiply-adds, tokens left out. The spectral norm is then of order
sqrt(fan_out / fan_in) for each factor (muP's spectral condition, Yang et al. 2023,
arXiv 2310.17813), so typical inputs of unit RMS give outputs of unit RMS or below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from einc.network import Network, X, bits
from einc.order import fewest_macs_order
from einc.sizes import Binding
from einc.structure import Axis, Term


@dataclass(frozen=True)
class Scale:
    """How one factor starts and how fast it learns.

    `adamw` and `sgd` multiply the learning rate of the dense layer of the same
    features: (d_in / fan_in) / n, and (fan_out / fan_in) / (d_out / d_in) / n.
    """

    fan_in: int
    fan_out: int
    std: float
    adamw: Fraction
    sgd: Fraction


def scales(binding: Binding) -> dict[str, Scale]:
    """The scale of each factor, by name.

    >>> from einc.library import structure
    >>> from einc.sizes import bind
    >>> scales(bind(structure("dense"), 1024, 1024))["W"].std
    0.03125
    """
    terms = binding.structure.terms
    found: dict[str, Scale] = {}
    for term in terms:
        n = len(term.operands)
        for name, fan_in, fan_out in _fans(binding, term):
            if name in found and found[name].fan_in >= fan_in:
                continue  # a tied factor takes its largest fan-in
            std = math.sqrt(min(fan_in, fan_out)) / fan_in / math.sqrt(len(terms))
            d_in, d_out = binding.d_in, binding.d_out
            found[name] = Scale(
                fan_in,
                fan_out,
                std,
                Fraction(d_in, fan_in * n),
                Fraction(fan_out * d_in, fan_in * d_out * n),
            )
    return found


def _fans(binding: Binding, term: Term) -> Iterator[tuple[str, int, int]]:
    """Name, fan-in and fan-out of each operand.

    The fan-in is the product of the sizes of its indices that its step sums, the
    fan-out of those that its step brings; a routed index counts as 1.
    """
    network = Network(term, binding.structure.routed)
    joined = X
    for tensor in fewest_macs_order(binding, network):
        own = network.tensors[tensor]
        after = network.kept(joined | 1 << tensor)
        fan_in = _product(binding, network, own & ~after)
        fan_out = _product(binding, network, own & after & ~network.kept(joined))
        yield term.operands[tensor - 1].name, fan_in, fan_out
        joined |= 1 << tensor


def _product(binding: Binding, network: Network, mask: int) -> int:
    axes: list[Axis] = [network.axes[i] for i in bits(mask)]
    routed = binding.structure.routed
    return math.prod(binding.size(a) for a in axes if a.name != routed)
