"""What one may ask of the code generator, by name."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["float32", "bfloat16"]
"""What layouts and kernels are chosen for."""

Backward = Literal["autograd", "manual", "recompute"]
"""Autograd's own, or by hand where that pays, with or without keeping intermediates."""

Kernels = Literal["torch", "triton", "native"]
"""Plain operations, and beside them a fused kernel for GPUs or one in C for CPUs."""
