"""Where structures are on the map, and what is told of them there.

In: profiles. Out: a `Place` for each that has all three exponents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from einc import library
from einc.analysis.profile import Profile
from einc.structure import Structure
from einc.syntax import unparse
from einc.taxonomy import row


@dataclass(frozen=True)
class Place:
    """A structure on the map.

    `spec` is .ein text with the arguments as defaults, so that it gives the same
    figures again. `parameters`, `flops` and `rank` are text as in the taxonomy, and
    hold for `features`; all are empty where there are none. `own` is whether it is the
    user's and not the library's. Unless `psi_is_exact`, psi is an upper bound.
    """

    name: str
    equations: tuple[str, ...]
    omega: Fraction
    psi: Fraction
    nu: Fraction
    psi_is_exact: bool
    class_: str
    family: str | None
    features: str
    parameters: str
    flops: str
    rank: str
    spec: str
    own: bool


def places(profiles: Iterable[Profile]) -> tuple[list[Place], list[str]]:
    """Where structures are, and the names of those that are nowhere.

    A structure of fixed sizes does not grow and has no exponents; one without a
    factor has no omega and no nu.
    """
    found, left_out = [], []
    for profile in profiles:
        place = _place(profile)
        if place is None:
            left_out.append(profile.name)
        else:
            found.append(place)
    return found, left_out


def _place(profile: Profile) -> Place | None:
    structure, exponents = profile.structure, profile.exponents
    if exponents is None:
        return None
    omega, psi, nu = exponents.best.omega, exponents.best.psi, exponents.best.nu
    if omega is None or nu is None:
        return None
    *_, class_, family, parameters, flops, rank = row(profile)
    features = ""
    if profile.figures is not None:
        binding = profile.figures.binding
        features = f"{binding.d_in} x {binding.d_out}"
    return Place(
        profile.name,
        structure.equations,
        omega,
        psi,
        nu,
        exponents.psi_is_exact,
        class_,
        None if family == "novel" else family,
        features,
        parameters,
        flops,
        rank,
        _spec(structure),
        all(structure.source != library.source(name) for name in library.NAMES),
    )


def _spec(structure: Structure) -> str:
    params = zip(structure.definition.params, structure.parameters, strict=True)
    given = tuple(replace(param, default=argument.value) for param, argument in params)
    return unparse(replace(structure.definition, params=given))
