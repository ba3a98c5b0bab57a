"""Training structured layers at the right scale: rates, losses, a coordinate check.

In: models. Out: groups for torch's optimizers, the routing loss and statistics of a
model, and how activations and updates grow with the width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from einc import plots
from einc.errors import UsageError
from einc.nn.adapter import Adapted
from einc.nn.dense import dense_of
from einc.report import coordinates, text

Optimizer = Literal["adamw", "sgd"]


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    optimizer: Optimizer = "adamw",
    base: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Groups of all parameters that need a gradient, for torch.optim.AdamW or SGD.

    Without `base` the rates of dense layers are `lr`, and a structured layer's are its
    multiples of it. `base` is the same model at the width that `lr` was tuned at (on
    the meta device, if you like), modules of the same names and structured or not: then
    all rates follow width muP, by the spectral condition (Yang, Simon and Bernstein
    2023). A weight of fan_in to fan_out features has lr * base_fan_in / fan_in under
    AdamW and lr * (fan_out / fan_in) / (base_fan_out / base_fan_in) under SGD; an
    embedding takes one input, a bias or a norm has one, whatever the width; so has what
    is added to tokens, a parameter of a module's own with a first dimension of 1. What
    a factor is computed from, by a parametrization or pruning, has the factor's rate;
    its norms have that of scalars.

    Decay is decoupled and acts as rate times decay. Weights with two dimensions or
    more have lr * weight_decay of it, whatever their rate; biases, norms and scalars
    none. A group has, beside what the optimizer takes, `names`, `multiplier` and
    `effective_decay`, which optimizers keep.

    For Muon: torch.optim.Muon orthogonalizes matrices of two dimensions. Give it the
    dense hidden weights alone; factors have three dimensions or more as a rule, and a
    factor of two has no better claim, so that all structured layers stay with AdamW
    and these groups.
    """
    if optimizer not in ("adamw", "sgd"):
        raise UsageError(f"the optimizer is adamw or sgd, not {optimizer}")
    if weight_decay < 0:
        raise UsageError(f"the weight decay is 0 or more, not {weight_decay}")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter, multiplier in _multiples(model, optimizer, base):
        decays = parameter.dim() >= 2 and weight_decay > 0
        group = groups.setdefault(
            (multiplier, decays),
            {
                "params": [],
                "lr": lr * multiplier,
                "weight_decay": weight_decay / multiplier if decays else 0.0,
                "names": [],
                "multiplier": multiplier,
                "effective_decay": lr * weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _multiples(
    model: nn.Module, optimizer: Optimizer, base: nn.Module | None
) -> Iterable[tuple[str, nn.Parameter, float]]:
    """Each parameter that needs a gradient, once, with the multiple of its rate."""
    bases = dict(base.named_modules()) if base is not None else {}
    named = dict(model.named_modules())
    parts = _parts(named)
    seen: set[int] = set()
    for prefix, module in named.items():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{prefix}.{name}" if prefix else name
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise UsageError(f"`{full}` is not initialized: run a forward first")
            where, whole = parts.get(id(parameter), (prefix, name))
            layer = named[where]
            if getattr(layer, whole).shape != parameter.shape:
                yield full, parameter, 1.0  # norms of a factor, as scalars
                continue
            other = layer if base is None else _base(bases, named, where)
            width = _width_multiple(*_fans(layer, other, whole), optimizer)
            yield full, parameter, _factors(layer, optimizer).get(whole, 1.0) * width


def _parts(named: Mapping[str, nn.Module]) -> dict[int, tuple[str, str]]:
    """By their ids the parameters that factors are computed from, and those factors.

    A factor is its layer's name and its own. What computes it is a parametrization,
    pruning, or one of torch's older norms.
    """
    found: dict[int, tuple[str, str]] = {}
    for where, layer in named.items():
        own = dict(layer.named_parameters(recurse=False))
        for factor in _factors(layer, "adamw"):
            parts = [own.get(f"{factor}{end}") for end in ("_orig", "_v", "_g")]
            if parametrize.is_parametrized(layer, factor):
                lists: Any = layer.parametrizations
                parts += lists[factor].parameters(recurse=False)
            found |= {id(part): (where, factor) for part in parts if part is not None}
    return found


def _base(
    bases: Mapping[str, nn.Module], named: Mapping[str, nn.Module], name: str
) -> nn.Module:
    """The base model's module of a name. Raises `UsageError` where it has none."""
    if name in bases:
        return bases[name]
    around = name.rpartition(".")[0]
    if isinstance(named.get(around), Adapted) and around in bases:
        return bases[around]  # the layer itself, which has no adapter there
    raise UsageError(f"the base model has no module `{name}`")


def _factors(module: Any, optimizer: Optimizer) -> dict[str, float]:
    """The multiples of a structured layer's own parameters; of another, none."""
    if not hasattr(module, "lr_multipliers"):
        return {}
    found: dict[str, float] = module.lr_multipliers(optimizer)
    return found


Fans = tuple[int, int]


def _fans(module: Any, base: Any, name: str) -> tuple[Fans, Fans]:
    """(fan_in, fan_out) of a parameter by what its module is, and the base's.

    The base of a structured layer may be dense: its features are what counts.
    """
    if hasattr(module, "lr_multipliers"):
        if name == "bias":
            return (1, module.out_features), (1, _features(base)[1])
        if name == "router":
            return (module.in_features, 1), (_features(base)[0], 1)
        if getattr(module, name).numel() == 1:
            return (1, 1), (1, 1)
        return _features(module), _features(base)
    if dense_of(module) is not None:
        if name == "bias":
            return (1, _features(module)[1]), (1, _features(base)[1])
        return _features(module), _features(base)
    return _plain_fans(module, name), _plain_fans(base, name)


def _features(module: Any) -> Fans:
    dense = dense_of(module)
    if dense is not None:
        return dense.d_in, dense.d_out
    return module.in_features, module.out_features


def _plain_fans(module: Any, name: str) -> Fans:
    parameter = getattr(module, name)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return 1, module.embedding_dim
    if parameter.dim() < 2:
        return 1, max(parameter.numel(), 1)
    is_convolution = isinstance(module, nn.modules.conv._ConvNd)
    if is_convolution and module.transposed:
        each = parameter[0, 0].numel()
        return parameter.shape[0] * each // module.groups, parameter.shape[1]
    if parameter.shape[0] == 1 and not is_convolution:  # a token or positions, added
        return 1, parameter.shape[-1]
    # Of convolutions the kernel counts as inputs.
    return parameter[0].numel(), parameter.shape[0]


def _width_multiple(fans: Fans, base: Fans, optimizer: Optimizer) -> float:
    fan_in, fan_out = (now / before for now, before in zip(fans, base, strict=True))
    return 1 / fan_in if optimizer == "adamw" else fan_out / fan_in


# Routing


def routed(model: nn.Module) -> dict[str, Any]:
    """The routed layers of a model, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "routing_statistics")
    }


def auxiliary_loss(model: nn.Module) -> torch.Tensor:
    """The mean of the routing losses of the latest forward, over its routed layers.

    Each is read once, as from the layers themselves. Raises RuntimeError where no
    layer has one: in eval mode, or before a forward. A layer that a forward left out
    offers that of an earlier one which was not read; `model.train()` clears them.
    """
    losses = []
    for layer in routed(model).values():
        try:
            losses.append(layer.auxiliary_loss())
        except RuntimeError:  # a layer that this forward left out
            continue
    if not losses:
        raise RuntimeError("no routed layer has had a forward in training mode")
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def routing_statistics(model: nn.Module) -> dict[str, dict[str, Any]]:
    """By name of the layer: load, entropy and experts in use of the latest forward.

    Layers that had none in training mode are left out.
    """
    found = {}
    for name, layer in routed(model).items():
        try:
            found[name] = layer.routing_statistics()
        except RuntimeError:
            continue
    return found


# The coordinate check


@dataclass(frozen=True)
class Coordinates:
    """Root mean squares by model, module and width; `str` is a table.

    `activations[model][module][width]` is of a module's output after the last step,
    `updates` of how far training has moved it from the first. In a model at the right
    scale neither grows nor falls as the width grows.
    """

    activations: dict[str, dict[str, dict[int, float]]]
    updates: dict[str, dict[str, dict[int, float]]]

    def slopes(self, what: Literal["activations", "updates"]) -> dict[str, float]:
        """By `model/module`: the power of the width with which it grows, fitted."""
        found = {}
        for model, modules in getattr(self, what).items():
            for name, by_width in modules.items():
                found[f"{model}/{name}"] = _slope(by_width)
        return found

    def __str__(self) -> str:
        return text(coordinates(self.activations, self.updates))

    def plot(self, path: str | Path) -> None:
        """Draws both against the width: .png, .svg or .pdf. Replaces the file."""
        found = Path(path)
        file_format = plots.file_format(found)
        found.write_bytes(
            plots.coordinates(self.activations, self.updates, file_format)
        )


def _slope(by_width: Mapping[int, float]) -> float:
    pairs = [(width, value) for width, value in by_width.items() if value > 0]
    if len(pairs) < 2:
        return 0.0
    x, y = torch.tensor(pairs, dtype=torch.float64).log().T
    return float(
        ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    )


def coord_check(
    models: Mapping[str, Callable[[int], nn.Module]],
    widths: Sequence[int],
    batch: Any,
    loss: Callable[[nn.Module, Any], torch.Tensor],
    *,
    lr: float = 1e-2,
    optimizer: Optimizer = "adamw",
    steps: int = 4,
    seed: int = 0,
) -> Coordinates:
    """Trains each model a few steps at each width and measures its modules' outputs.

    `models` has what makes a model of a width, by a name such as "dense" and "btt";
    the smallest width is the base that `lr` holds for. `loss(model, batch)` is
    minimized on the one batch. Measured are the outputs of dense, structured and
    embedding modules, before and after.
    """
    activations: dict[str, dict[str, dict[int, float]]] = {}
    updates: dict[str, dict[str, dict[int, float]]] = {}
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    for title, make in models.items():
        for width in sorted(widths):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = make(width)
                base = make(min(widths))
                torch.manual_seed(seed)
                first = _outputs(model, batch, loss)
                groups = param_groups(model, lr, 0.0, optimizer, base)
                step = kinds[optimizer](groups, weight_decay=0.0)
                for _ in range(steps):
                    step.zero_grad()
                    loss(model, batch).backward()  # type: ignore[no-untyped-call]
                    step.step()
                torch.manual_seed(seed)
                last = _outputs(model, batch, loss)
            for name, before in first.items():
                after = last[name]
                for table, value in ((activations, after), (updates, after - before)):
                    rows = table.setdefault(title, {}).setdefault(name, {})
                    rows[width] = float(value.square().mean().sqrt())
    return Coordinates(activations, updates)


def _outputs(
    model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The output of each module with weights, in one forward."""
    found: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        is_layer = dense_of(module) is not None or isinstance(module, nn.Embedding)
        if is_layer or hasattr(module, "lr_multipliers"):

            def keep(_: Any, __: Any, output: Any, name: str = name) -> None:
                found[name] = output.detach().clone()

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        loss(model, batch)
    for hook in hooks:
        hook.remove()
    return found
