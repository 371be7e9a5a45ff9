"""GPTQ (Frantar et al., arXiv:2210.17323): one type, errors made up for by later columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.forward_order import allocate_forward_order
from actquant.encoders.blocks import Encoded
from actquant.encoders.feedback import diagonal, encode_with_feedback
from actquant.recipes.recipe import Recipe, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics

MOMENTS = "second_moments"


def encode(name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None) -> Encoded:
    """Encodes a weight with feedback by the second moments of its layer's inputs; its error is that
    of the layer's outputs, correlations of inputs left out."""
    assert statistics is not None, "the pipeline collects what the recipe names"
    moments = statistics.moments(name)
    squares = np.tile(diagonal(moments), (len(weight), 1))
    return encode_with_feedback(name, weight, type_name, moments, squares)


GPTQ = Recipe(
    name="gptq",
    summary="rtn's types with error feedback (GPTQ) in ggml's blocks",
    allocate=within_budget(allocate_forward_order),
    encode=encode,
    matrices={"linear": (MOMENTS,)},
)
