"""The map as one HTML page to turn, which asks the network for nothing.

In: places. Out: a text that is the same for the same places.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from einc.maps.places import Place


def page(places: Sequence[Place], title: str) -> str:
    """One HTML file, which needs no other and may fetch none, of `page.html`."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    values = {
        "title": html.escape(title),
        "rows": "".join(map(_row, places)),
        "data": _json(_data(places)),
        # Nothing runs but what the template has, whatever a text may hold.
        "script": _digest(template, "script"),
        "style": _digest(template, "style"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _digest(template: str, tag: str) -> str:
    """What a Content-Security-Policy calls the one element with this tag."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON in which no tag, comment or reference of HTML can begin."""
    text = json.dumps(value, indent=1)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _data(places: Sequence[Place]) -> dict[str, Any]:
    """What `page.html` shows: ranges of the axes, and the structures of each point."""
    groups: dict[tuple[Fraction, ...], list[int]] = {}
    for i, place in enumerate(places):
        groups.setdefault((place.omega, place.psi, place.nu), []).append(i)
    ends = {"omega": 0.5, "psi": 1.0, "nu": 1.0}
    return {
        "ranges": {
            name: [
                min([0, *(float(getattr(place, name)) for place in places)]),
                max([end, *(float(getattr(place, name)) for place in places)]),
            ]
            for name, end in ends.items()
        },
        "points": [
            {
                "at": [float(value) for value in at],
                "exponents": [str(value) for value in at],
                "structures": [_entry(places[i], i) for i in group],
            }
            for at, group in groups.items()
        ],
    }


def _entry(place: Place, row: int) -> dict[str, Any]:
    return {
        "row": row,
        "name": place.name,
        "equations": place.equations,
        "psi_is_exact": place.psi_is_exact,
        "class": place.class_,
        "family": place.family,
        "features": place.features,
        "parameters": _readable(place.parameters),
        "flops": _readable(place.flops),
        "rank": _readable(place.rank),
        "spec": place.spec,
        "own": place.own,
    }


def _row(place: Place) -> str:
    cells = [
        "your own" if place.own else "library",
        "; ".join(place.equations),
        str(place.omega),
        str(place.psi) if place.psi_is_exact else f"≤ {place.psi}",
        str(place.nu),
        place.class_,
        place.family or "novel",
        place.features,
        _readable(place.parameters),
        _readable(place.flops),
        _readable(place.rank),
    ]
    name = f'<th scope="row">{html.escape(place.name)}</th>'
    return f"<tr>{name}{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>\n"


def _readable(count: str) -> str:
    """A count of the taxonomy, its digits in groups of three."""
    return re.sub(r"\d+", lambda digits: f"{int(digits[0]):,}", count, count=1)
