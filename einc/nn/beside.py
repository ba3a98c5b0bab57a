"""Layers of the user's own beside the generated module: FILE.py:NAME to a function.

In: what was asked for, and a generated module. Out: layers with the same weights, made by
functions that the user wrote. The files are the user's programs, and are run as such.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import nn

from einc.errors import UsageError
from einc.nn.contestants import NAMES, Contestant

Maker = Callable[[nn.Module], Any]
"""Of a generated module: a layer that computes the same; or the layer, and the entry of
the module's output that each of its own is, (out,)."""

FORM = "--beside takes FILE.py:NAME, a function of the generated module"


def makers(wanted: Iterable[str]) -> dict[str, Maker]:
    """The functions by name; `UsageError` where there is none to find, or two."""
    found: dict[str, Maker] = {}
    for text in wanted:
        file, _, name = text.rpartition(":")
        if not file or not name:
            raise UsageError(f"{FORM}, not {text!r}")
        if name in NAMES or name in found:
            raise UsageError(f"there is a layer {name!r} already: rename the function")
        made = getattr(_module(Path(file)), name, None)
        if not callable(made):
            raise UsageError(f"{file} has no function {name!r}")
        found[name] = made
    return found


def _module(path: Path) -> object:
    """What a file defines; its own folder is where it imports from first."""
    spec = spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"no Python file {str(path)!r}: {FORM}")
    module = module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} raises {_told(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


def contestants(
    made_by: Mapping[str, Maker], layer: nn.Module
) -> dict[str, Contestant]:
    """A layer of each function, in the dtype and on the device of `layer`."""
    found = {}
    example = next(layer.parameters())
    for name, make in made_by.items():
        try:
            own = make(layer)
        except Exception as error:
            raise UsageError(f"{name} raises {_told(error)}") from error
        own, order = own if isinstance(own, tuple) else (own, None)
        if not isinstance(own, nn.Module):
            raise UsageError(f"{name} returns no nn.Module, but {type(own).__name__}")
        if order is not None:
            order = torch.as_tensor(order, device=example.device)
        found[name] = Contestant(own.to(example), order=order, own=True)
    return found


def notes(made: Mapping[str, Contestant], layer: nn.Module) -> tuple[str, ...]:
    """Which of them train fewer parameters than the module, and so compute less."""
    own = _trained(layer)
    return tuple(
        f"{name} trains {count:,} parameters, and the module {own:,}"
        for name, one in made.items()
        if (count := _trained(one.layer)) < own
    )


def _trained(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters() if p.requires_grad)


def _told(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}"
