"""Lowers each ATen operator of an exported program to the intermediate representation."""

from actquant.capture.export import (  # noqa: F401  each registers its handlers
    aten_compute,
    aten_convolution,
    aten_index,
    aten_layout,
    aten_logic,
)
from actquant.capture.export.aten_registry import CHECKS, FILLS, HANDLERS, PASS_THROUGH

__all__ = ["CHECKS", "FILLS", "HANDLERS", "PASS_THROUGH"]
