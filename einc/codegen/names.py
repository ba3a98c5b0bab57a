"""Names of generated classes."""

from __future__ import annotations

import keyword

from einc.errors import UsageError


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
    if name in ("torch", "nn"):
        raise UsageError(f"the generated file imports `{name}` already")
    return name
