"""Who is compared: what stands in place of a model's linear layers.

In: SPECs as they are written. Out: `Contestant`s, plain values that carry the text of
their structure, so that a study does not change with the files that it came from; their
layers and profiles at a shape.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

from torch import nn

from einc import compiler, library, specs
from einc.analysis.profile import Profile
from einc.api import exact_argument
from einc.errors import UsageError
from einc.nn.compile import class_of
from einc.scale.layers import FeedForward, dense
from einc.scale.moe import FeedForwardMoE
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition, unparse

DENSE, FFN_MOE, MOE_EVERYWHERE = "dense", "ffn_moe", "moe_everywhere"
TOP = 2
"""The experts that a token takes of those of the baselines."""
EXPANSION = 4
"""Features between the layers of an MLP block, over the width."""
LONGEST = 150
"""Letters of a file's name."""
EXPERTS = "experts"
"""The parameter by which structures of the library call the number of experts."""


@dataclass(frozen=True)
class Contestant:
    """What a model's inner linear layers are.

    `text` is the .ein of one structure, or nothing for nn.Linear; `arguments` are for
    its parameters; with `experts` the MLP blocks are dense and routed as a whole, and
    the structure is left to the other layers.
    """

    name: str
    text: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    experts: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Contestant:
        given = tuple((str(k), str(v)) for k, v in value["arguments"].items())
        return cls(value["name"], value["text"], given, int(value["experts"]))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "text": self.text,
            "arguments": dict(self.arguments),
            "experts": self.experts,
        }

    @cached_property
    def structure(self) -> Structure | None:
        """What `text` means; None for nn.Linear. Raises `SpecError` for its faults."""
        if not self.text:
            return None
        source = Source.of(self.name, self.text)
        (definition,) = specs.parse(source).definitions
        given = {name: Fraction(value) for name, value in self.arguments}
        return compiler.compile_definition(source, definition, given)

    def layer(self, d_in: int, d_out: int, tokens: int) -> nn.Module:
        """One linear layer with a bias, planned for `tokens` tokens a call."""
        if self.structure is None:
            return dense(d_in, d_out)
        return class_of(profile(self, d_in, d_out, tokens))()

    def feed_forward(self, width: int, tokens: int) -> nn.Module:
        """An MLP block, routed as a whole or made of `layer`s."""
        hidden = EXPANSION * width
        if self.experts:
            return FeedForwardMoE(width, hidden, self.experts, TOP)
        return FeedForward(
            self.layer(width, hidden, tokens), self.layer(hidden, width, tokens)
        )


@cache
def profile(contestant: Contestant, d_in: int, d_out: int, tokens: int) -> Profile:
    """The analysis of a contestant's layer; it must have a structure."""
    assert contestant.structure is not None
    return compiler.analyze(contestant.structure, d_in, d_out, tokens)


# From the command line


def baselines(experts: int, attention: bool) -> list[Contestant]:
    """What is always there; `attention` says whether the task's model has any."""
    found = [Contestant(DENSE), Contestant(FFN_MOE, experts=experts)]
    if attention:
        text = library.source("dense_moe").text
        given = ((EXPERTS, str(experts)), ("active", str(TOP)))
        found.append(Contestant(MOE_EVERYWHERE, text, given, experts))
    return found


def named(
    written: Sequence[str], given: Mapping[str, Fraction], experts: int
) -> list[Contestant]:
    """The contestants of SPECs such as `btt`, `btt(rank=2)` or `own.ein::name`.

    Each takes of `given` what it has parameters for, and `experts` where it has one of
    that name; what stands in its parentheses goes before both. The library's `dense` is
    a baseline anyhow and left out. Raises `UsageError` where a name would stand twice,
    or for a parameter that none has.
    """
    found: list[Contestant] = []
    known: set[str] = set()
    for text in written:
        spec, own = _split(text)
        _, definition = specs.find(spec)
        known |= _parameters(definition)
        if spec == DENSE:
            continue
        found.append(_contestant(definition, own, given, experts))
    for name in given:
        if name not in known:
            raise UsageError(f"no structure here has a parameter `{name}`")
    return found


def safe(name: str) -> str:
    """A name without what a file system or a shell may mind, and not too long.

    >>> safe("btt(rank=2)-64-0")
    'btt_rank=2-64-0'
    """
    found = re.sub(r"[^A-Za-z0-9_.=-]+", "_", name.replace(")", ""))
    if len(found) <= LONGEST:
        return found
    return f"{found[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def check_names(contestants: Iterable[Contestant]) -> None:
    """Raises `UsageError` where two have one name, or files would."""
    names: set[str] = set()
    for contestant in contestants:
        name = safe(contestant.name).casefold()
        if name in names:
            raise UsageError(
                f"two contestants are called `{contestant.name}`: "
                f"{DENSE}, {FFN_MOE} and {MOE_EVERYWHERE} are always there, and others "
                "are told apart by name and arguments, as in `btt(rank=2)`"
            )
        names.add(name)


def _split(text: str) -> tuple[str, dict[str, Fraction]]:
    """A SPEC and the arguments in parentheses after it."""
    spec, bracket, inside = text.removesuffix(")").rpartition("(")
    if not bracket or not text.endswith(")") or "=" not in inside:
        return text, {}
    own: dict[str, Fraction] = {}
    for part in inside.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or name in own:
            raise UsageError(f"arguments are written as in btt(rank=2), not `{text}`")
        own[name] = exact_argument(name, value)
    return spec, own


def _contestant(
    definition: Definition,
    own: Mapping[str, Fraction],
    given: Mapping[str, Fraction],
    experts: int,
) -> Contestant:
    parameters = _parameters(definition)
    values = {EXPERTS: Fraction(experts), **given}
    values = {k: v for k, v in values.items() if k in parameters} | dict(own)
    shown = {k: v for k, v in values.items() if k in own or k in given}
    name = definition.name.text
    if shown:
        name += f"({', '.join(f'{k}={v}' for k, v in shown.items())})"
    arguments = tuple((k, str(v)) for k, v in values.items())
    return Contestant(name, unparse(definition), arguments)


def _parameters(definition: Definition) -> set[str]:
    return {p.name.text for p in definition.params}
