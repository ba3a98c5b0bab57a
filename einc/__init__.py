"""einc: the einsum structure compiler."""

__version__ = "0.1.0"
