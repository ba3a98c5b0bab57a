"""einc from Python: `load` or `parse` a structure, then ask it things.

>>> import einc
>>> btt = einc.load("btt", rank=2)
>>> btt.analyze(1024, 1024).figures.parameters.total
131072
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from einc import compiler, specs
from einc.analysis.profile import Profile
from einc.analysis.why import Reasons
from einc.codegen.choices import Backward, Dtype, Kernels
from einc.errors import UsageError
from einc.expressions import MAX_BITS
from einc.order import Order
from einc.source import Source
from einc.structure import Structure

if TYPE_CHECKING:
    from torch import nn

Argument = int | float | str | Fraction
"""A parameter's value; text such as "1/3" and floats are read as decimals, exactly."""


class StructuredMap:
    """A structure with its arguments, and what can be done with it.

    `str()` prints it as .ein. Two are equal if their definitions and arguments are.
    """

    def __init__(self, structure: Structure, arguments: Mapping[str, Fraction]) -> None:
        self.structure = structure
        self._arguments = dict(arguments)

    @property
    def name(self) -> str:
        return self.structure.name

    def __str__(self) -> str:
        return str(self.structure)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v}" for k, v in self.structure.arguments.items())
        return f"<einc structure {self.name}({arguments})>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StructuredMap):
            return NotImplemented
        return (
            self.structure.definition == other.structure.definition
            and self.structure.arguments == other.structure.arguments
        )

    def __hash__(self) -> int:
        return hash((self.structure.definition, *self.structure.arguments.items()))

    def analyze(
        self,
        d_in: int | None = None,
        d_out: int | None = None,
        tokens: int = compiler.DEFAULT_TOKENS,
        order: Order = "best",
        certify: bool = True,
    ) -> Profile:
        """The analysis at d_in x d_out features (symbolic where they are left out).

        Costs are per token and hold for calls of `tokens` tokens. Where no theorem
        says the rank, elimination does, in up to half a minute and 1 GB; `certify`
        False leaves it at the bound. Raises `SpecError` where exact sizes do not fit
        the features.
        """
        report = compiler.analyze(self.structure, d_in, d_out, tokens, order)
        return compiler.certify(report) if certify else report

    def why(self, order: Order = "best") -> Reasons | None:
        """Why its exponents are what they are, and which single changes move them.

        None where fixed sizes leave it without exponents.
        """
        return compiler.why(self.analyze(order=order, certify=False))

    def source(
        self,
        d_in: int | None = None,
        d_out: int | None = None,
        tokens: int = compiler.DEFAULT_TOKENS,
        order: Order = "best",
        class_name: str = "",
        dtype: Dtype = "float32",
        backward: Backward = "manual",
        kernels: Kernels = "torch",
    ) -> str:
        """A standalone Python file with one nn.Module for d_in x d_out features.

        Its layouts are chosen for calls of `tokens` tokens in `dtype`; it takes any.
        `backward` is by hand ("manual") where that saves copies; "recompute" does not
        keep what lies between x and y for it, "autograd" leaves it to torch. The
        kernels of "triton" are fused ones for GPUs, those of "native" in C for CPUs,
        beside the plain operations.
        """
        report = compiler.analyze(self.structure, d_in, d_out, tokens, order)
        module = compiler.module(report, class_name, dtype, backward, kernels)
        return compiler.source(self.structure, [module])

    def module_class(
        self,
        d_in: int | None = None,
        d_out: int | None = None,
        tokens: int = compiler.DEFAULT_TOKENS,
        order: Order = "best",
        class_name: str = "",
        dtype: Dtype = "float32",
        backward: Backward = "manual",
        kernels: Kernels = "torch",
    ) -> type[nn.Module]:
        """The class of `source`, compiled in this process; equal calls, one class."""
        from einc.nn.compile import class_of

        report = compiler.analyze(self.structure, d_in, d_out, tokens, order)
        return class_of(report, class_name, dtype, backward, kernels)

    def route(self, index: str, top: int) -> StructuredMap:
        """The same structure with `index` routed: a token takes `top` of its values.

        The same as writing `route index top N`. Raises `SpecError` where it cannot.
        """
        structure = compiler.compile_definition(
            self.structure.source,
            self.structure.definition,
            self._arguments,
            route=f"{index}:{top}",
        )
        return StructuredMap(structure, self._arguments)


def load(spec: str, /, **arguments: Argument) -> StructuredMap:
    """The structure that `spec` names, with `arguments` for its parameters.

    `spec` is a path, `path::name`, or the name of a structure of the library. Raises
    `SpecError` for faults of the text and `UsageError` for a file or a parameter
    that is not there.
    """
    exact = {name: exact_argument(name, value) for name, value in arguments.items()}
    return StructuredMap(compiler.load(spec, exact), exact)


def parse(text: str, name: str = "", /, **arguments: Argument) -> StructuredMap:
    """The structure in `text`; `name` says which, where it has several."""
    exact = {key: exact_argument(key, value) for key, value in arguments.items()}
    source = Source.of("<text>", text)
    definition = specs.choose(source, specs.parse(source), name, "<text>")
    structure = compiler.compile_definition(source, definition, exact)
    return StructuredMap(structure, exact)


MAX_ARGUMENT_LENGTH = 64


def exact_argument(name: str, value: Argument) -> Fraction:
    """A parameter's value as an exact rational. Raises `UsageError` otherwise."""
    text = str(value).strip()
    number, slash, divisor = text.partition("/")
    plain = set(text) <= set("0123456789./-+e")
    if plain and len(text) <= MAX_ARGUMENT_LENGTH:
        try:
            if slash or "e" not in text:
                exact = Fraction(number) / Fraction(divisor if slash else 1)
            else:
                exact = Fraction(repr(float(text)))
            parts = abs(exact.numerator), exact.denominator
            if max(parts).bit_length() <= MAX_BITS:
                return exact
            told = f"numerators and denominators go up to 2^{MAX_BITS}"
            raise UsageError(f"`{name}` has too many digits: {told}")
        except (ValueError, ZeroDivisionError, OverflowError):
            pass
    raise UsageError(
        f"`{name}` must be an integer, a fraction such as 1/3 or a decimal, "
        f"not `{text[:MAX_ARGUMENT_LENGTH]}`"
    )
