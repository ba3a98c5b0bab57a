"""What is the same in all generated files of routed structures, as text.

Helpers of the experts' functions, once a file, and the methods of a routed module.
"""

IMPORTS = """\
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import {counter}
"""

HELPERS = '''\
def _by_expert(
    chosen: torch.Tensor, gates: torch.Tensor, experts: int, chunk: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each expert with its places in `chosen`, `chunk` at a time: their tokens and gates.

    Place i is choice i % k of token i // k. All are there, whatever their number. The
    numbers go to the CPU: on a GPU the one synchronization of these functions.
    """
    expert, places = chosen.flatten().sort(stable=True)
    tokens, gate = places // chosen.shape[1], gates.flatten()[places, None]
    start = 0
    for r, count in enumerate(expert.bincount(minlength=experts).tolist()):
        for first in range(start, start + count, chunk):
            part = slice(first, min(first + chunk, start + count))
            yield r, places[part], tokens[part], gate[part]
        start += count


def _stacked(weight: torch.Tensor) -> torch.Tensor:
    """Contiguous. A transposition of two dimensions is the fastest way where one is."""
    return weight.reshape(weight.shape[0], -1).contiguous().view(weight.shape)


def _space(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The head of a buffer in a shape: chunks write where the last one did."""
    return buffer[: math.prod(shape)].view(shape)


def _total(weight: torch.Tensor) -> torch.Tensor:
    """Zeros for its gradient: what has few digits is summed over chunks in more."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.new_zeros(weight.shape, dtype=dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right."""
    if total.dtype == left.dtype:
        (total.baddbmm_ if total.dim() == 3 else total.addmm_)(left, right)
    else:
        total.add_(left @ right)


def _cast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors as autocast gives them to matrix products, where it is on."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _refuse_tangents(*tensors: torch.Tensor) -> None:
    """Forward-mode differentiation would find zeros: operators know backward alone."""
    forward_ad = torch.autograd.forward_ad
    if torch.compiler.is_compiling():  # tensors tell it nothing then
        found = forward_ad._current_level >= 0
    else:
        duals = [forward_ad.unpack_dual(t) for t in tensors]
        found = any(dual.tangent is not None for dual in duals)
    if found:
        raise RuntimeError("routed structures have no forward-mode derivative")


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _is_recomputing() -> bool:
    """Whether this runs in a backward, as a checkpointed forward does once more."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def _picked(values, chosen) -> torch.Tensor:
    """The values of each token that are chosen: (n, k)."""
    if not torch.compiler.is_compiling():
        return values.gather(-1, chosen)
    # Without gather: inductor has lost its gradient where others read the values, too.
    places = torch.arange(values.shape[-1], device=values.device)
    is_it = chosen.unsqueeze(-1) == places
    return torch.where(is_it, values.unsqueeze(-2), 0).sum(-1)


class _Latest:
    """The loss and the load of a batch. A copy has neither: a loss has a graph."""

    def __init__(self, loss=None, load=None) -> None:
        self.loss, self.load = loss, load

    def __reduce__(self):
        return _Latest, ()


def _shapes(x, gates, chosen, *others):
    return [t.new_empty(t.shape) for t in (x, gates, *others[:-1])]  # less grad


def _second_derivative(ctx, *grads):
    raise RuntimeError("routed structures have no second derivative")


def _operator(name: str, run, fake, gradient, macs: int):
    """`run` as an operator of torch, once in a process: equal names are equal code.

    torch.compile sees one node, whose numbers of tokens an expert are data, and
    torch's FlopCounterMode `macs` multiply-adds for each of them.
    """
    qualified = f"einc::{name}"
    if not hasattr(torch.ops.einc, name):
        schema = torch.library.infer_schema(run, mutates_args=())
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, "default", run)
        torch.library.register_fake(qualified, fake)
        torch.library.register_autograd(qualified, gradient, setup_context=_save)
        register_flop_formula(getattr(torch.ops.einc, name))(
            lambda x, gates, *shapes, **other: 2 * macs * math.prod(gates)
        )
    return getattr(torch.ops.einc, name)
'''

GROUPED_HELPERS = '''\
_HAS_GROUPED_PRODUCT = hasattr(nn.functional, "grouped_mm")  # new in torch


def _is_grouped(x: torch.Tensor) -> bool:
    """Whether the device has a grouped product: then nothing waits for the host."""
    return x.is_cuda and x.dtype == torch.bfloat16 and _HAS_GROUPED_PRODUCT


def _grouped_product(
    rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """(b, n, s) times (experts, b, s, c): rows before ends[r] with the weights of r.

    Or (n, s) times (experts, s, c).
    """
    b, n = rows[..., 0].shape if rows.dim() == 3 else (1, rows.shape[0])
    starts = n * torch.arange(b, device=rows.device)[:, None]
    if rows.dim() == 3:
        weights = weights.transpose(0, 1).flatten(0, 1)
    y = nn.functional.grouped_mm(
        rows.reshape(b * n, rows.shape[-1]),
        weights.contiguous(),
        offs=(starts + ends).flatten().to(torch.int32),
    )
    return y.reshape(*rows.shape[:-1], weights.shape[-1])


if _HAS_GROUPED_PRODUCT and torch.ops.aten._grouped_mm not in flop_registry:
    register_flop_formula(torch.ops.aten._grouped_mm)(
        lambda a, b, *shapes, **other: 2 * math.prod(a[-2:]) * b[-1]
    )
'''

FORWARD = """\
batch = x.shape[:-1]
x = x.reshape(-1, self.in_features)
y = self.contract(x, *self.route(x))
"""

AS_AUTOCAST = """\
device = x.device.type
if device != "meta" and torch.is_autocast_enabled(device):
    # Elementwise products are of all digits.
    dtype = torch.get_autocast_dtype(device)
    y = y.to(dtype) if y.dtype == torch.float32 else y
"""

GATES = """\
    chosen = logits.topk(self.top).indices
    gates = _picked(logits, chosen).softmax(-1)
"""

GATES_OF_ONE = """\
    chosen = logits.topk(1).indices
    gates = _picked(logits.softmax(-1), chosen)  # so that the router learns
"""

ROUTE = '''\
def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gates, in float32 or wider, and the experts of each token: (n, top)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        logits = x.to(wide) @ self.router.to(wide).T
'''

METHODS = '''\
    if self.training:
        self._record(logits, chosen)
    return gates, chosen

def _record(self, logits: torch.Tensor, chosen: torch.Tensor) -> None:
    """Keeps the loss and the load of a batch, until the next."""
    n = max(logits.shape[0], 1)
    share = logits.softmax(-1).sum(0) / n
    chosen = chosen.flatten()
    ones = torch.ones_like(chosen, dtype=share.dtype)
    load = torch.zeros_like(share).index_add(0, chosen, ones) / (n * self.top)
    log_partition = logits.logsumexp(-1).square().sum() / n
    loss = self.experts * (share * load).sum() + 0.1 * log_partition
    if not _is_recomputing():
        self._latest = _Latest(loss, load)

def auxiliary_loss(self) -> torch.Tensor:
    """The balance and router loss of the latest forward in training mode.

    experts * sum(share of probability * share of tokens) + 0.1 * the mean squared
    log-partition. RuntimeError where it was read already, and in eval mode.
    """
    loss = self._latest.loss
    if loss is None:
        raise RuntimeError("no forward in training mode since the last reading")
    self._latest = _Latest(load=self._latest.load)
    return loss

def routing_statistics(self) -> dict[str, object]:
    """Of the latest forward in training mode; RuntimeError without one.

    "load": each expert's share of the assignments; "entropy": the load's, in nats,
    log(experts) where it is even; "experts_in_use": those that had a token.
    """
    load = self._latest.load
    if load is None:
        raise RuntimeError("no forward in training mode yet")
    entropy = torch.special.entr(load).sum().item()
    in_use = int((load > 0).sum())
    return {"load": load, "entropy": entropy, "experts_in_use": in_use}

def train(self, mode: bool = True) -> nn.Module:
    """Changes the mode: the loss and the load of the batch before are gone."""
    self._latest = _Latest()
    return super().train(mode)
'''

TO_DENSE = """\
gates = gates.to(eye.device).expand(self.in_features, -1)
chosen = torch.arange(self.experts, device=eye.device).expand_as(gates)
return self.contract(eye, gates, chosen).T
"""
