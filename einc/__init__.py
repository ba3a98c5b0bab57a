"""einc: the einsum structure compiler.

A structured linear map is written as an einsum; einc says what it costs and what it
can express, and generates PyTorch code for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from einc import nn
    from einc.api import StructuredMap, load, parse
    from einc.errors import EincError, SpecError, UsageError

__all__ = [
    "EincError",
    "SpecError",
    "StructuredMap",
    "UsageError",
    "__version__",
    "load",
    "nn",
    "parse",
]


def __getattr__(name: str) -> object:
    # Loaded when asked for, so that the command line can end quietly on Ctrl-C from
    # its first moment on.
    if name not in __all__:
        raise AttributeError(f"module `einc` has no attribute `{name}`")
    if name == "nn":
        import importlib

        return importlib.import_module("einc.nn")
    from einc import api, errors

    return getattr(api if hasattr(api, name) else errors, name)
