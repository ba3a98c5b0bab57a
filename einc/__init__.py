"""einc: the einsum structure compiler.

A structured linear map is written as an einsum; einc says what it costs and what it
can express, and generates PyTorch code for it.
"""

__version__ = "0.1.0"

from einc.api import StructuredMap, load, parse
from einc.errors import EincError, SpecError, UsageError

__all__ = [
    "EincError",
    "SpecError",
    "StructuredMap",
    "UsageError",
    "__version__",
    "load",
    "parse",
]
