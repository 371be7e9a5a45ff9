"""From a weight to ggml blocks in which later weights of a row make up for the errors of earlier
ones."""

import numpy as np

from actquant.common.errors import QuantizationError
from actquant.common.machine import usable_cores
from actquant.encoders.blocks import Encoded
from actquant.format.encoding import EncodedTensor

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it: directions that the calibration frames have
not shown count a little too."""


def factor_inverse(second_moments: np.ndarray) -> np.ndarray:
    """Returns U, upper triangular, with H^-1 = U' U: [columns, columns] -> float32.

    H is the matrix of second moments of a layer's inputs, damped by DAMPING; of a layer whose
    inputs were all zero it is the identity.

    Raises QuantizationError if H is not finite.
    """
    if not np.isfinite(second_moments).all():
        raise QuantizationError("the second moments hold NaN or infinity")
    size = len(second_moments)
    mean = np.trace(second_moments) / size
    if mean <= 0:
        return np.eye(size, dtype=np.float32)
    # Scaled to a mean of 1: the choice of levels does not depend on the scale of H.
    damped = second_moments / mean + DAMPING * np.eye(size)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def encode_with_feedback(
    name: str,
    weight: np.ndarray,
    type_name: str,
    second_moments: np.ndarray,
    jacobian: np.ndarray,
    *,
    rows: np.ndarray | None = None,
) -> Encoded:
    """Encodes a weight [rows, columns] by LDLQ inside ggml's blocks.

    second_moments: [columns, columns], of the layer's inputs; jacobian: [rows, columns], how much
    the action error grows with each weight's squared error, by which `Encoded.error` is weighed;
    rows: those of the weight that the jacobian is of, None for all.

    Raises QuantizationError, naming the tensor, for what is not finite.
    """
    import actquant_runtime

    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise QuantizationError(f"{name}: the weight holds NaN or infinity")
    try:
        factor = factor_inverse(second_moments)
    except (QuantizationError, np.linalg.LinAlgError) as error:
        raise QuantizationError(f"{name}: {error}") from None
    data = actquant_runtime.quantize_with_feedback(
        weight, type_name, factor, threads=usable_cores()
    )
    decoded = actquant_runtime.dequantize(data, type_name, weight.shape[1])
    if not np.isfinite(decoded).all():
        raise QuantizationError(f"{name}: {type_name} cannot hold the weight (NaN or infinity)")
    seen = slice(None) if rows is None else rows
    lost = action_error(weight[seen], decoded[seen], jacobian)
    whole = action_error(weight[seen], np.zeros_like(weight[seen]), jacobian)
    tensor = EncodedTensor(type_name, data, weight.shape)
    return Encoded(tensor, lost / whole if whole else 0.0, guided=bool(jacobian.any()))


def action_error(weight: np.ndarray, decoded: np.ndarray, jacobian: np.ndarray) -> float:
    """Returns sum F_J (w - w')^2: the mean squared error of the actions, to first order, when one
    weight matrix alone is changed."""
    difference = weight.astype(np.float64) - decoded
    return float((jacobian * difference**2).sum())
