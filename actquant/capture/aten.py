"""How each ATen operator of an exported program is said in the intermediate representation."""

from actquant.capture import aten_compute as _compute  # noqa: F401  registers its handlers
from actquant.capture import aten_layout as _layout  # noqa: F401  registers its handlers
from actquant.capture.aten_registry import CHECKS, FILLS, HANDLERS, PASS_THROUGH

__all__ = ["CHECKS", "FILLS", "HANDLERS", "PASS_THROUGH"]
