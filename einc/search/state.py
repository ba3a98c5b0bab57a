"""What a search has seen, in a folder: so that a stopped one can go on.

In: a folder and the `Walk`s of a search. Out: the walks as they were when it stopped,
and the times measured. The file is replaced as a whole, never written in place.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from einc.errors import UsageError
from einc.search.walk import Settings, Walk

SCHEMA = "einc.search-state/2"
NAME = "search.json"


@dataclass
class State:
    """Where a search is kept, if anywhere, and the times it has measured.

    `times` are by the text of a structure.
    """

    folder: Path | None = None
    times: dict[str, float] = field(default_factory=dict)

    def load(self, settings: Settings, walks: Sequence[Walk]) -> None:
        """Brings walks to where they were. Raises `UsageError` for another search's.

        Also where they could not be saved: before anything is searched.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make `{self.folder}`: {error.strerror}") from None
        self._read(self.folder / NAME, settings, walks)
        self.save(settings, walks)

    def _read(self, path: Path, settings: Settings, walks: Sequence[Walk]) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
        try:
            kept = json.loads(data)
            if kept["schema"] != SCHEMA or kept.pop("digest") != _digest(kept):
                raise ValueError
            if kept["search"] != _described(settings):
                raise UsageError(
                    f"`{path}` is of a search with other options; use another folder"
                )
            for walk, known in zip(walks, kept["walks"], strict=True):
                _restore(walk, known)
            self.times = {str(k): float(v) for k, v in kept["times"].items()}
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
            raise UsageError(f"`{path}` is not the state of a search") from None

    def save(self, settings: Settings, walks: Sequence[Walk]) -> None:
        """Keeps how far walks are. Raises `UsageError` where it cannot be written."""
        if self.folder is None:
            return
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "search": _described(settings),
            "walks": [
                {
                    "done": sorted(walk.done),
                    "classes": walk.classes,
                    "structures": walk.structures,
                    "rows": walk.pool.rows.tolist(),
                }
                for walk in walks
            ],
            "times": self.times,
        }
        document["digest"] = _digest(document)
        path = self.folder / NAME
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(document), "utf-8")
            os.replace(new, path)
        except OSError as error:
            raise UsageError(f"cannot write `{path}`: {error.strerror}") from None


def _restore(walk: Walk, known: dict[str, Any]) -> None:
    rows = np.array(known["rows"], np.int8).reshape(-1, len(walk.space.indices))
    walk.pool.add(*walk.scored(rows, walk.parts))
    walk.done = {int(of_x) for of_x in known["done"]}
    walk.classes, walk.structures = int(known["classes"]), int(known["structures"])


def _digest(document: dict[str, Any]) -> str:
    """Of all else that is kept: rows that are missing look like none that are good."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _described(settings: Settings) -> dict[str, Any]:
    """What makes two searches the same, as JSON."""
    return {
        "features": list(settings.features or ()),
        "factors": settings.factors,
        "both": settings.both,
        "parts": settings.parts,
        "limits": sorted(map(str, settings.limits)),
        "objectives": [str(objective) for objective in settings.objectives],
        "pareto": settings.pareto,
        "tokens": settings.tokens,
    }
