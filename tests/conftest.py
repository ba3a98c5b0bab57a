"""Settings of every test: hypothesis draws the same examples on every run, and
processes can be interrupted.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Tests run side by side, and torch's threads wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# It stands for what is not there (terminal.py).
collect_ignore = ["absent"]

# A shell's background jobs ignore it, and what they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "einc",
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("einc")


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "write the output of the documentation's commands anew (test_docs.py)"
    parser.addoption("--update-docs", action="store_true", help=text)
    text = "write the golden files anew (test_golden.py)"
    parser.addoption("--update-golden", action="store_true", help=text)
