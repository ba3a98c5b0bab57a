"""`einc explain`: what a diagnostic means."""

from __future__ import annotations

from typing import Annotated

import typer

from einc import explain as explanations
from einc.errors import FAULTS
from einc.output import print_text, reporting


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="such as E209 or W103")
    ] = None,
) -> None:
    """Example: einc explain E209

    What a diagnostic means, with a wrong and a right example; all codes without one.
    """
    with reporting():
        if code is not None:
            print_text(explanations.page(code))
            return
        lines = [f"{code}  {explanations.title(code)}\n" for code in sorted(FAULTS)]
        print_text("".join(lines))
