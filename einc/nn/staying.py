"""Why a dense layer of a model stays as it is.

In: a model. Out: its modules with all their names, and reasons: what a layer has that a
new one would not have, output heads, and parameters that several modules share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from einc.nn.adapter import Adapted

HEADS = ("lm_head", "head", "classifier", "score")
"""Names that output layers go by, where a model does not say which is its own."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
HOOKS_OF_WEIGHTS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Where torch keeps hooks of modules and of tensors: a new layer would not have them."""


def named(model: nn.Module) -> list[tuple[list[str], nn.Module]]:
    """Each module once, with all its names."""
    found: dict[int, tuple[list[str], nn.Module]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(id(module), ([], module))[0].append(name)
    return list(found.values())


def must_stay(model: nn.Module, name: str, module: nn.Module) -> str:
    """Why a layer cannot be changed, whoever asks."""
    if not name:
        return "it is the model itself, and has no place to put another in"
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads its weight directly"
    if isinstance(parent, Adapted):
        return "it is the dense layer of an adapter"
    if hasattr(module, "parametrizations"):
        return "it has parametrizations"
    weight: Any = module.weight
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "it is not initialized"
    if weight.dtype not in DTYPES and not weight.is_complex():
        return f"its weight is {weight.dtype}"
    if "forward" in vars(module):
        return "its forward is replaced"
    if any(getattr(module, kind, None) for kind in HOOKS):
        return "it has hooks"
    if any(getattr(weight, kind, None) for kind in HOOKS_OF_WEIGHTS):
        return "its weight has hooks"
    return ""


def heads(model: nn.Module) -> set[str]:
    """The output heads: those that the model names, else those of a usual name."""
    named = []
    for getter in ("get_output_embeddings", "get_classifier"):
        try:
            named.append(getattr(model, getter)())
        except (AttributeError, NotImplementedError, TypeError):
            continue
    found = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if any(module is head for head in named) or name.rpartition(".")[2] in HEADS:
            found.add(name)
    return found


def shared(model: nn.Module) -> dict[str, str]:
    """Layers of which another module has a parameter, too."""
    holders: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((name, own))
    found: dict[str, str] = {}
    for places in holders.values():
        for name, own in places:
            others = [f"`{other}`" for other, _ in places if other != name]
            if others:
                found[name] = f"shares its {own} with {', '.join(others)}"
    return found
