"""`python -m einc`."""

from einc.cli import main

if __name__ == "__main__":
    main()
