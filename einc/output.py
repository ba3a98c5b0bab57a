"""What the commands print and write: results to stdout, messages to stderr.

Exit status: 0 done, 1 the spec has faults, 2 the command was used wrongly or a file
cannot be read or written. What is shown to people comes from `report`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from einc.errors import Diagnostic, SpecError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID

DIAGNOSTICS_SCHEMA = "einc.diagnostics/1"
UNCUT = 10_000


@contextmanager
def reporting(as_json: bool = False) -> Iterator[None]:
    """Turns what went wrong into messages and an exit status."""
    try:
        yield
    except SpecError as error:
        if as_json:
            print_json(diagnostics_document(error.diagnostics))
        else:
            warn(error.diagnostics)
        raise typer.Exit(1) from None
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def warn(diagnostics: Iterable[Diagnostic]) -> None:
    """Prints diagnostics for people."""
    text = "\n\n".join(str(d) for d in diagnostics)
    if text:
        print(text, file=sys.stderr)


def diagnostics_document(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """The JSON of diagnostics."""
    return {
        "schema": DIAGNOSTICS_SCHEMA,
        "diagnostics": [d.to_json() for d in diagnostics],
    }


def print_text(text: str) -> None:
    """Prints a result as it is."""
    if sys.stdout is None:
        raise UsageError("cannot write the output: standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever read has seen enough: typer ends quietly
    except OSError as error:
        raise unwritten(error) from None


def unwritten(error: OSError) -> UsageError:
    """Of a result, and the end of what Python would try once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return UsageError(f"cannot write the output: {error.strerror}")


def print_json(document: dict[str, Any]) -> None:
    """Prints a JSON document."""
    print_text(json.dumps(document, indent=2) + "\n")


def show(
    renderable: RenderableType, no_color: bool, narrow: RenderableType | None = None
) -> None:
    """Prints for people: as wide as the terminal, uncut where there is none.

    `narrow` is shown where `renderable` would have to be wrapped. No figure is cut:
    what is wider than the terminal at the least is left so.
    """
    import io

    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    plain = no_color or bool(os.environ.get("NO_COLOR")) or not is_terminal
    plain = plain or os.environ.get("TERM") in ("dumb", "unknown")
    text = io.StringIO()
    if plain:
        console = Console(file=text, color_system=None, width=UNCUT, highlight=False)
    else:
        console = Console(file=text, force_terminal=True, highlight=False)
        uncut = console.options.update(width=UNCUT)
        if narrow is not None:
            if console.measure(renderable, options=uncut).maximum > console.width:
                renderable = narrow
        least = console.measure(renderable, options=uncut).minimum
        console.width = max(console.width, least)
    console.print(renderable)
    lines = text.getvalue().splitlines()
    print_text("".join(f"{line.rstrip()}\n" for line in lines))


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Says on a terminal what is waited for, once it takes over a second."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    from rich.console import Console

    status = Console(stderr=True).status(f"{text} (Ctrl-C stops it)")
    timer = Timer(1.0, status.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows on a terminal how much of what is done, and about how long it will take.

    What is called with a text, how many are done, and of how many.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    stop = TextColumn("(Ctrl-C stops it)")
    # Longer than rich's own half a minute: a step of a study takes that.
    with Progress(
        *columns,
        stop,
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=3600,
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done)

        yield tell


def _mode(target: Path) -> int:
    """A file's permissions, or those that a new one gets."""
    if os.path.exists(target):
        return os.stat(target).st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def check_free(path: Path, force: bool) -> None:
    """Raises `UsageError` where `write_file` would not write."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise UsageError(f"cannot write `{path}`: there is no folder `{folder}`")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write `{path}`: `{folder}` is read-only")
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise UsageError(f"cannot write `{path}`: it is not a file")
        if not force:
            raise UsageError(f"`{path}` exists; --force replaces it")


def write_file(path: Path, content: str | bytes, force: bool) -> None:
    """Writes a file whole or not at all; one that is there is kept unless `force`."""
    import tempfile

    check_free(path, force)
    target = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".einc-")
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.chmod(name, _mode(target))
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from None
