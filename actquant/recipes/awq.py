"""AWQ (Lin et al., arXiv:2306.00978): columns that see large inputs are scaled up before rounding,
and their inputs down, where that costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.forward_order import allocate_forward_order
from actquant.encoders.feedback import diagonal, output_error
from actquant.recipes.recipe import Layer, Recipe, round_to_nearest, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics

MOMENTS = "second_moments"
EXPONENTS = np.linspace(0, 1, 21)
"""α of s = (rms of the input)^α that are tried; with 0 nothing is scaled."""
SMALLEST_INPUT = 1e-4
"""Of the largest, so that a column that saw nothing has a scale."""
TRIED_WEIGHTS = 1 << 14
"""Of each layer, in whole rows: what is tried 21 times."""


def scale_inputs(layers: Sequence[Layer], statistics: Statistics) -> np.ndarray:
    """Returns s [columns] with which the outputs of these layers, which share their input, lose
    least.

    What layer W loses is tr(D H D'), with D = W - Q(W diag(s)) diag(s)^-1 and H the second moments
    of its inputs; each counts as a share of tr(W H W').
    """
    import actquant_runtime

    moments = [statistics.moments(layer.name) for layer in layers]
    size = np.sqrt(np.maximum(np.mean([diagonal(spans) for spans in moments], axis=0), 0))
    size = np.maximum(size, SMALLEST_INPUT * size.max())
    if not size.max():
        return np.ones(len(size), np.float32)
    lost = np.zeros(len(EXPONENTS))
    for layer, spans in zip(layers, moments, strict=True):
        rows = max(1, TRIED_WEIGHTS // layer.weight.shape[1])
        weight = layer.weight[:: -(-len(layer.weight) // rows)]
        whole = output_error(weight, spans)
        for at, exponent in enumerate(EXPONENTS):
            scales = _scales(size, exponent)
            encoded = round_to_nearest(layer.name, weight * scales, layer.type_name, None).tensor
            decoded = actquant_runtime.dequantize(encoded.data, layer.type_name, len(scales))
            lost[at] += output_error(weight - decoded / scales, spans) / (whole or 1)
    return _scales(size, EXPONENTS[lost.argmin()])


def _scales(size: np.ndarray, exponent: float) -> np.ndarray:
    """Returns size^exponent, its largest and smallest as far from 1 (as in the authors' code)."""
    scales = size**exponent
    return (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)


AWQ = Recipe(
    name="awq",
    summary="rtn's types, columns scaled by the size of their inputs (AWQ)",
    allocate=within_budget(allocate_forward_order),
    matrices={"linear": (MOMENTS,)},
    scale_inputs=scale_inputs,
)
