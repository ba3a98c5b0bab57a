"""Times for people: seconds with their unit, and from how many tokens on one is faster."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from einc.errors import counted

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def unit(seconds: float) -> tuple[float, str]:
    """The unit in which three digits of seconds are at least 1, or the smallest."""
    return next((u for u in UNITS if float(_rounded(seconds)) >= u[0]), UNITS[-1])


def digits(value: float) -> str:
    """Three digits, and no exponent.

    >>> [digits(v) for v in (0.0123, 1.234, 56.78, 99.96, 1234.5)]
    ['0.0123', '1.23', '56.8', '100', '1,234']
    """
    rounded = _rounded(value)
    return f"{Decimal(rounded):f}" if abs(float(rounded)) < 100 else f"{value:,.0f}"


def _rounded(value: float) -> str:
    """To three digits, with an exponent."""
    return f"{value:.2e}"


def text(seconds: float) -> str:
    """Seconds in their unit.

    >>> text(0.00123)
    '1.23 ms'
    """
    scale, name = unit(seconds)
    return f"{digits(seconds / scale)} {name}"


def crossover(ratios: Mapping[int, float]) -> int | None:
    """The tokens from which on a ratio is below 1; ratios by tokens, ascending.

    None where it is not with the most tokens.

    >>> crossover({1: 0.5, 16: 2.0, 256: 0.9, 2048: 0.5})
    256
    """
    found = None
    for tokens, ratio in reversed([*ratios.items()]):
        if ratio >= 1:
            break
        found = tokens
    return found


def faster(ratios: Mapping[int, float], how: str) -> str:
    """Whether a time is below nn.Linear's; `how` the ratios are known.

    >>> faster({1: 0.5, 16: 2.0}, "measured")
    'faster than nn.Linear up to 1 token and not with more'
    """
    first = crossover(ratios)
    if first == next(iter(ratios)):
        return f"faster than nn.Linear at every {how} number of tokens"
    if first is not None:
        return f"faster than nn.Linear from {first:,} tokens on"
    below = [tokens for tokens, ratio in ratios.items() if ratio < 1]
    if not below:
        return f"faster than nn.Linear at no {how} number of tokens"
    if below == list(ratios)[: len(below)]:
        most = counted(below[-1], "token")
        return f"faster than nn.Linear up to {most} and not with more"
    listed = ", ".join(f"{tokens:,}" for tokens in below)
    return f"faster than nn.Linear from no number of tokens on, only at {listed}"
