"""`einc list` and `einc show`: the library."""

from __future__ import annotations

from typing import Annotated

import typer

from einc import library, options
from einc.errors import UsageError
from einc.output import print_json, print_text, reporting, show

SCHEMA = "einc.library/1"


def listing(as_json: options.Json = False, no_color: options.NoColor = False) -> None:
    """Example: einc list

    The structures of the library.
    """
    with reporting(as_json):
        structures = [library.structure(name) for name in library.NAMES]
        if as_json:
            rows = [
                {
                    "name": s.name,
                    "arguments": s.arguments,
                    "equations": list(s.equations),
                    "description": s.definition.doc,
                }
                for s in structures
            ]
            print_json({"schema": SCHEMA, "structures": rows})
            return
        from einc import report

        show(report.listing(structures), no_color)


def source(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a library structure")],
) -> None:
    """Example: einc show btt > my.ein

    The source of one structure of the library.
    """
    with reporting():
        if name not in library.NAMES:
            listed = ", ".join(library.NAMES)
            raise UsageError(f"the library has no `{name}`; it has {listed}")
        print_text(library.source(name).text)
