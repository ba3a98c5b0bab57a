"""The program: `einc` and `python -m einc`. Ctrl-C while it loads ends it quietly."""

import sys


def main() -> None:
    """Loads the command line and runs it.

    Commands end by themselves; typer puts their options together before they can.
    """
    try:
        from einc.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
