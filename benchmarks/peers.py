"""The same maps by other libraries, for `einc bench --beside benchmarks/peers.py:NAME`.

    pip install -c constraints.txt tensorly-torch scipy einops
    pip install --no-deps torch-structured

Each takes a generated module and returns a layer of the library with its weights, and
where their outputs stand in another order, that order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def tensorly(layer: nn.Module) -> nn.Module:
    """tensorly-torch's FactorizedLinear: for low_rank, kronecker and tensor_train."""
    import tltorch

    weights = {
        name: factor.detach().clone()
        for name, factor in layer.named_parameters()
        if name != "bias"
    }
    if set(weights) == {"U", "V"}:
        kind: Any = tltorch.CPTensorized
        u, v = weights["U"], weights["V"]
        shape, rank, factors = ((v.shape[1],), (u.shape[0],)), u.shape[1], [v.T, u]
    else:
        kind = tltorch.BlockTT
        a, b = weights["A"], weights["B"]
        if a.dim() == 2:
            a, b = a[..., None], b[None]
        j, p, rank = a.shape
        _, k, q = b.shape
        shape = ((p, q), (j, k))
        factors = [a.permute(1, 0, 2)[None], b.permute(0, 2, 1)[..., None]]
    # What is no parameter would have no gradient.
    factors = [nn.Parameter(factor.contiguous()) for factor in factors]
    if kind is tltorch.CPTensorized:
        weight = kind(torch.ones(rank), factors, shape, rank=rank)
    else:
        weight = kind(factors, tensorized_shape=shape, rank=(1, rank, 1))
    rows, columns = shape
    made = tltorch.FactorizedLinear(columns, rows, factorization=weight)
    made.bias = nn.Parameter(layer.bias.detach().clone())
    return made


def torch_structured(layer: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    """torch-structured's Monarch: for monarch, and btt as one with wider blocks."""
    from torch_structured.monarch.monarch_linear import MonarchLinear

    a, b = layer.A.detach(), layer.B.detach()
    if a.dim() == 3:  # no rank
        a, b = a[..., None], b[:, :, None]
    g, _, f, r = a.shape
    e = b.shape[-1]
    made = MonarchLinear(layer.in_features, layer.out_features, nblocks=g)
    # Its first factor is (g, r*f, a), and its second one (f, e, g*r).
    made.w1 = nn.Parameter(a.permute(0, 3, 2, 1).reshape(g, r * f, -1).contiguous())
    made.w2 = nn.Parameter(b.permute(0, 3, 1, 2).reshape(f, e, g * r).contiguous())
    # Its outputs stand as (e, f).
    order = torch.arange(f * e).reshape(f, e).T.reshape(-1)
    made.bias = nn.Parameter(layer.bias.detach()[order])
    return made, order
