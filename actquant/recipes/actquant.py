"""Ours: types by the error that each does to the executed actions, and error feedback in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.budget import TensorSize
from actquant.allocation.measured import allocate_measured, types_of
from actquant.calibration.sampling import SAMPLED_WEIGHTS
from actquant.encoders.blocks import Encoded
from actquant.encoders.feedback import (
    action_error,
    correlated_action_error,
    encode_spans,
    encode_with_feedback,
    factor_spans,
)
from actquant.recipes.recipe import Recipe, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics

JACOBIAN, MOMENTS, TABLE = "action_jacobian", "guided_moments", "embedding_jacobian"
"""What is collected (`calibration.accumulators.ACCUMULATORS`)."""


@dataclass(frozen=True)
class Curvature:
    """How much the actions change with a matrix.

    moments: the Hessian along each row, [span, span] of each span of columns; jacobian: [n,
    columns], of each weight of the rows, or of those rows that `rows` [n] names; sampled: whether
    those stand for all rows; if not, as of a table of tokens, the others do not move the actions.
    """

    moments: list[np.ndarray]
    jacobian: np.ndarray
    rows: np.ndarray | None = None
    sampled: bool = False


def curvature(name: str, statistics: Statistics) -> Curvature:
    """Returns what was collected of a matrix."""
    if statistics.holds(name, TABLE):
        found = statistics.of(name, TABLE)
        return Curvature([found["gradient_moments"]], found[JACOBIAN], found["rows"])
    found = statistics.of(name, JACOBIAN)
    rows = found.get("rows")
    moments = statistics.moments(name, MOMENTS)
    return Curvature(moments, found[JACOBIAN], rows, sampled=rows is not None)


def measure_errors(
    tensor: TensorSize, weight: np.ndarray, statistics: Statistics
) -> dict[str, float]:
    """Returns the action error of a tensor in each type it may have, encoded with feedback as it
    will be. Of an embedding the rows count that occurred; of a large matrix the sampled rows stand
    for all.

    Of more than SAMPLED_WEIGHTS weights, as a table may have, only every k-th row is encoded, and
    what it lost is scaled by what all rows have to lose: types lose about the same share of each.
    """
    import actquant_runtime

    found = curvature(tensor.name, statistics)
    share = 1.0
    if found.rows is not None:
        share = len(weight) / len(found.rows) if found.sampled else 1.0
        weight = weight[found.rows]
    whole = action_error(weight, np.zeros_like(weight), found.jacobian)
    some = slice(None, None, weight.size // SAMPLED_WEIGHTS or 1)
    weight, jacobian = np.ascontiguousarray(weight[some]), found.jacobian[some]
    measured = action_error(weight, np.zeros_like(weight), jacobian)
    share *= whole / measured if measured else 1.0
    factors, errors = factor_spans(tensor.name, found.moments), {}
    for entry in types_of(tensor):
        data = encode_spans(weight, entry.name, factors)
        decoded = actquant_runtime.dequantize(data, entry.name, weight.shape[1])
        lost = correlated_action_error(weight - decoded, jacobian, found.moments)
        errors[entry.name] = share * lost
    return errors


def encode(name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None) -> Encoded:
    """Encodes a weight with feedback by the Hessian along its rows."""
    assert statistics is not None, "the pipeline collects what the recipe names"
    found = curvature(name, statistics)
    return encode_with_feedback(
        name, weight, type_name, found.moments, found.jacobian, rows=found.rows
    )


ACTQUANT = Recipe(
    name="actquant",
    summary="types by the error of the executed actions, error feedback inside blocks, tuned",
    allocate=within_budget(allocate_measured),
    encode=encode,
    matrices={
        "linear": (JACOBIAN, MOMENTS),
        "convolution": (JACOBIAN, MOMENTS),
        "embedding": (TABLE,),
    },
    errors=measure_errors,
    tuned=True,
)
