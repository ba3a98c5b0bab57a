"""einc as a user starts it: a process of its own, seen through pipes or a terminal.

A start takes half a second, so most tests call what it calls in this process, which
test_cli_streams.py shows to be the same.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "einc")
CONTROL = "\x1b"


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    """Settings of the terminal left out; einc is imported from this tree.

    What is in tests/absent is not there.
    """
    left_out = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    absent = str(ROOT / "tests" / "absent")
    path = os.pathsep.join(filter(None, (str(ROOT), absent, kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "TERM": "xterm-256color", **changes}


def run(*arguments: str, stdin: bytes = b"", cwd: Path = ROOT, **env: str) -> Ended:
    """Runs einc in pipes."""
    process = subprocess.run(
        (*COMMAND, *arguments),
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(**env),
        check=False,
    )
    out, err = process.stdout.decode(), process.stderr.decode()
    assert "Traceback" not in err, err
    return Ended(process.returncode, out, err)


def call(*arguments: str, stdin: bytes = b"", cwd: Path = ROOT) -> Ended:
    """Runs einc in this process."""
    from einc.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv = ["einc", *arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    status: object = None
    try:
        with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv, sys.stdin = before
    assert isinstance(status, int)
    return Ended(status, out.getvalue(), err.getvalue())


einc = cache(call)
"""For what reads no file that a test writes: each command is run once."""


def children(process: int) -> list[str]:
    """The numbers of the processes that one has started, on Linux."""
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def in_terminal(*arguments: str, columns: int = 80, **env: str) -> str:
    """What einc writes to a terminal of `columns` columns, line ends as `\\n`."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        (*COMMAND, *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=environment(**env),
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written
    return written.decode().replace("\r\n", "\n")
