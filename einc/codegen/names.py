"""Names of generated classes."""

from __future__ import annotations

import builtins
import keyword

from einc.errors import UsageError

IMPORTED = frozenset(
    """
    torch nn math partial Iterator ClassVar ctypes hashlib os shlex shutil subprocess
    tempfile Path flop_registry register_flop_formula triton tl
    """.split()
)
"""What generated files import."""
CONSTANTS = frozenset({"COMPILER", "FLOAT32", "BFLOAT16"})
"""What they define in capitals."""


def class_name(structure: str, d_in: int, d_out: int) -> str:
    """The class of a structure at a shape.

    >>> class_name("low_rank", 1024, 4096)
    'LowRank1024x4096'
    """
    words = "".join(word[:1].upper() + word[1:] for word in structure.split("_"))
    return f"{words}{d_in}x{d_out}"


def check_class_name(name: str) -> str:
    """`name`, if Python takes it for a class. Raises `UsageError` otherwise."""
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise UsageError(f"`{name}` is not a name for a Python class")
    if name in IMPORTED:
        raise UsageError(f"the generated file imports `{name}` already")
    if name.startswith("_") or name in CONSTANTS or name in dir(builtins):
        raise UsageError(f"`{name}` means something else in the generated file")
    return name
