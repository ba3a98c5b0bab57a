"""The program: `einc` and `python -m einc`. Ctrl-C while it loads ends it quietly."""

import sys


def main() -> None:
    """Loads the command line and runs it."""
    try:
        from einc.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
