"""Ours: types by the error that each does to the executed actions, and error feedback in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actquant.allocation.budget import TensorSize
from actquant.allocation.measured import allocate_measured, types_of
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.encoders.feedback import action_error, encode_with_feedback
from actquant.recipes.recipe import Recipe, within_budget

if TYPE_CHECKING:
    from actquant.calibration.statistics import Statistics

JACOBIAN, MOMENTS, TABLE = "action_jacobian", "second_moments", "embedding_jacobian"
"""What is collected (`calibration.accumulators.ACCUMULATORS`)."""
MEASURED_WEIGHTS = 1 << 18
"""ggml takes microseconds a weight for the smallest types, and there are many types to try."""


@dataclass(frozen=True)
class Curvature:
    """How much the actions change with a matrix.

    moments: [columns, columns], the Hessian along each row; jacobian: [n, columns], of each weight
    of the rows, or of those rows that `rows` [n] names.
    """

    moments: np.ndarray
    jacobian: np.ndarray
    rows: np.ndarray | None = None


def curvature(name: str, statistics: Statistics) -> Curvature:
    """Returns what was collected of a matrix."""
    if statistics.holds(name, TABLE):
        found = statistics.of(name, TABLE)
        return Curvature(found["gradient_moments"], found["action_jacobian"], found["rows"])
    moments = statistics.of(name, MOMENTS)[MOMENTS]
    return Curvature(moments, statistics.of(name, JACOBIAN)[JACOBIAN])


def measure_errors(
    tensor: TensorSize, weight: np.ndarray, statistics: Statistics
) -> dict[str, float]:
    """Returns the action error of a tensor in each type it may have, encoded by ggml with the
    action Jacobian as the importance. Of an embedding the rows count that occurred.

    Of a matrix with more than MEASURED_WEIGHTS weights only every k-th row is encoded, and what it
    lost is scaled to the whole by what all rows have to lose: types lose about the same share of
    each.
    """
    import actquant_runtime

    found = curvature(tensor.name, statistics)
    if found.rows is not None:
        weight = weight[found.rows]
    whole = action_error(weight, np.zeros_like(weight), found.jacobian)
    some = slice(None, None, -(-weight.size // MEASURED_WEIGHTS))
    weight, jacobian = np.ascontiguousarray(weight[some]), found.jacobian[some]
    measured = action_error(weight, np.zeros_like(weight), jacobian)
    share = whole / measured if measured else 1.0
    errors = {}
    for entry in types_of(tensor):
        encoded = encode_with_importance(tensor.name, weight, entry.name, jacobian)
        data = encoded.tensor.data
        decoded = actquant_runtime.dequantize(data, entry.name, weight.shape[1])
        errors[entry.name] = share * action_error(weight, decoded, jacobian)
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
