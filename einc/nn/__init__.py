"""Structured layers inside models: swap them in, start from dense weights, train."""

from einc.nn.adapter import Adapted, merge, unmerge
from einc.nn.projection import project
from einc.nn.swap import Restructuring, Row, restructure
from einc.nn.training import (
    Coordinates,
    auxiliary_loss,
    coord_check,
    param_groups,
    routing_statistics,
)

__all__ = [
    "Adapted",
    "Coordinates",
    "Restructuring",
    "Row",
    "auxiliary_loss",
    "coord_check",
    "merge",
    "param_groups",
    "project",
    "restructure",
    "routing_statistics",
    "unmerge",
]
