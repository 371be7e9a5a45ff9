"""Ours: types by the error that each does to the executed actions, and error feedback in blocks."""

import numpy as np

from actquant.allocation.budget import TensorSize
from actquant.allocation.measured import allocate_measured, types_of
from actquant.calibration.accumulators import ActionJacobian, SecondMoments
from actquant.calibration.statistics import Statistics
from actquant.encoders.blocks import Encoded, encode_with_importance
from actquant.encoders.feedback import action_error, encode_with_feedback
from actquant.recipes.recipe import Recipe, within_budget


def measure_errors(
    tensor: TensorSize, weight: np.ndarray, statistics: Statistics
) -> dict[str, float]:
    """Returns the action error of a tensor in each type it may have, encoded by ggml with the
    action Jacobian as the importance."""
    import actquant_runtime

    jacobian = statistics.of(tensor.name, ActionJacobian)["action_jacobian"]
    errors = {}
    for entry in types_of(tensor):
        encoded = encode_with_importance(tensor.name, weight, entry.name, jacobian)
        data = encoded.tensor.data
        decoded = actquant_runtime.dequantize(data, entry.name, weight.shape[1])
        errors[entry.name] = action_error(weight, decoded, jacobian)
    return errors


def encode(name: str, weight: np.ndarray, type_name: str, statistics: Statistics | None) -> Encoded:
    """Encodes a weight with feedback by the second moments of its layer's inputs."""
    assert statistics is not None, "the pipeline collects what the recipe names"
    moments = statistics.of(name, SecondMoments)["second_moments"]
    jacobian = statistics.of(name, ActionJacobian)["action_jacobian"]
    return encode_with_feedback(name, weight, type_name, moments, jacobian)


ACTQUANT = Recipe(
    name="actquant",
    summary="types by the error of the executed actions, error feedback inside blocks",
    allocate=within_budget(allocate_measured),
    encode=encode,
    statistics=(ActionJacobian, SecondMoments),
    errors=measure_errors,
)
