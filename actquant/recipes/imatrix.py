"""llama.cpp's: the importance matrix (mean squares of a layer's inputs) and its type mixes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.llama_mixes import allocate_llama_mix
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.encoders.feedback import diagonal
from actquant.recipes.recipe import Recipe, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics

MOMENTS = "second_moments"


def encode(name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None) -> Encoded:
    """Encodes a weight with the mean square of each input as the importance of its column."""
    assert statistics is not None, "the pipeline collects what the recipe names"
    squares = diagonal(statistics.moments(name))
    return encode_with_importance(name, weight, type_name, np.tile(squares, (len(weight), 1)))


IMATRIX = Recipe(
    name="imatrix",
    summary="llama.cpp's importance matrix and type mixes",
    allocate=within_budget(allocate_llama_mix),
    encode=encode,
    matrices={"linear": (MOMENTS,)},
)
