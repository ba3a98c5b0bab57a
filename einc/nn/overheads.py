"""What operations take besides their work: launches, autograd, new memory.

In: a device. Out: seconds, as a `Calibration` has them. The calls that are compared take
turns, and the least of several times stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from einc.calibration import Overheads
from einc.nn.machine import wait_for
from einc.nn.timing import Call, take_turns

FRESH = tuple(1 << i for i in range(8, 28))
"""Bytes that are taken anew."""
HELD = 8
"""Tensors that they are in, all of them held until the call ends."""
CHAIN = 32
"""Operations in a row whose backward is measured."""
ROUNDS, SHORT = 3, 5e-4
"""Of each grid; and seconds until which a call is repeated in one."""

Key = TypeVar("Key")


def least_of_each(calls: Mapping[Key, Call], device: str) -> dict[Key, float]:
    """The least seconds of each call, in turns."""
    keys = list(calls)
    named = {str(i): calls[key] for i, key in enumerate(keys)}
    wait = wait_for(device)
    # The least of them had the machine to itself.
    times = take_turns(named, wait=wait, rounds=ROUNDS, short=SHORT, alone=0.0)
    return {key: min(times[str(i)]) for i, key in enumerate(keys)}


def fresh(device: str, held: int) -> dict[int, float]:
    """Bytes a second of what is written for the first time, without the writing.

    By the bytes of `held` tensors together.
    """
    kept = torch.empty(FRESH[-1], dtype=torch.uint8, device=device).fill_(0)
    calls: dict[tuple[int, str], Call] = {}
    for n in FRESH:
        part = n // held

        def anew(part: int = part) -> list[torch.Tensor]:
            return [
                torch.empty(part, dtype=torch.uint8, device=device).fill_(1)
                for _ in range(held)
            ]

        def again(part: int = part) -> list[torch.Tensor]:
            parts = kept[: held * part].view(held, part)
            return [one.fill_(1) for one in parts.unbind()]

        calls[n, "anew"], calls[n, "again"] = anew, again
    found = least_of_each(calls, device)
    return {
        n: n / max(found[n, "anew"] - found[n, "again"], 1e-3 * found[n, "again"])
        for n in FRESH
    }


class _Nothing(torch.autograd.Function):
    """A view, as a function written in Python, of as much as generated ones are given."""

    @staticmethod
    def forward(layer: nn.Linear, x: torch.Tensor, *weights: torch.Tensor) -> Any:
        return x.view(1, 1), weights[0].view(1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[1])
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, *weights, _ = ctx.saved_tensors
        return None, gradients[0].view(x.shape), *(w.view(1, 1) for w in weights)


def overheads(device: str) -> Overheads:
    """What calls, views and autograd take, whatever the sizes."""
    one = torch.ones(1, 1, device=device)
    layer = nn.Linear(1, 1, device=device)

    weights = [one.clone().requires_grad_() for _ in range(2)]

    def chain(length: int, link: Callable[[Any], Any]) -> Call:
        leaf = one.clone().requires_grad_()

        def run() -> object:
            y = leaf
            for _ in range(length):
                y = link(y)
            return torch.autograd.grad(y, leaf, one)

        return run

    def view(x: torch.Tensor) -> torch.Tensor:
        return x.view(1, 1)

    apply: Any = _Nothing.apply

    def function(x: torch.Tensor) -> Any:
        return apply(layer, x, *weights)[0]

    with torch.no_grad():
        calls = {
            "layer": lambda: layer(one),
            "product": lambda: one @ one,
            "view": lambda: view(one),
        }
        found = least_of_each(calls, device)
    calls = {
        "short": chain(1, view),
        "long": chain(1 + CHAIN, view),
        "functions": chain(1 + CHAIN, function),
    }
    found |= least_of_each(calls, device)
    node = max(found["long"] - found["short"], 0.0) / CHAIN
    return Overheads(
        call=max(found["layer"] - found["product"], 0.0),
        view=found["view"],
        node=node,
        function=max(found["functions"] - found["short"], 0.0) / CHAIN,
        backward=max(found["short"] - node, 0.0),
    )
