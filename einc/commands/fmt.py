"""`einc fmt`: one layout for .ein files."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from einc import asked, library, options, specs
from einc.errors import Diagnostic, SpecError, UsageError, counted
from einc.layout import laid_out
from einc.output import print_text, reporting, write_file


def fmt(files: options.Files, check_only: options.CheckOnly = False) -> None:
    """Example: einc fmt my.ein

    Lays files out in the one canonical way, in place and with their comments; standard
    input goes to standard output. Files with faults are left as they are.
    """
    with reporting():
        faults: list[Diagnostic] = []
        changed = kept = 0
        for path in [file for name in files for file in asked.spec_files(name)]:
            if path in library.NAMES:
                raise UsageError(f"`{path}` is of einc's library; name a file")
            try:
                source = specs.read(path)
                text = laid_out(source)
            except SpecError as error:
                faults += error.diagnostics
                continue
            if path == "-":
                is_new = text != source.text
                if not check_only:
                    print_text(text)
            else:
                is_new = Path(path).read_bytes() != text.encode()
                if is_new and check_only:
                    print(f"would lay out {path}", file=sys.stderr)
                elif is_new:
                    write_file(Path(path), text, force=True)
            changed, kept = changed + is_new, kept + (not is_new)
        if files != ["-"]:
            done = "would be laid out" if check_only else "laid out"
            told = [f"{counted(changed, 'file')} {done}"] * (changed > 0)
            told += [f"{counted(kept, 'file')} as before"] * (kept > 0)
            print(", ".join(told) or "no file laid out", file=sys.stderr)
        if faults:
            raise SpecError(faults)
        if check_only and changed:
            raise typer.Exit(1)
