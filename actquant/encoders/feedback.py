"""From a weight to ggml blocks in which later weights of a row make up for the errors of earlier
ones."""

from collections.abc import Sequence

import numpy as np

from actquant.common.errors import QuantizationError
from actquant.common.machine import usable_cores
from actquant.encoders.blocks import Encoded
from actquant.format.encoding import EncodedTensor

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it: directions that the calibration frames have
not shown count a little too."""
DECODED_WEIGHTS = 1 << 22
"""How many are decoded at a time to see what was lost."""


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


def factor_spans(name: str, second_moments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns `factor_inverse` of each span of a tensor's columns.

    Raises QuantizationError, naming the tensor, for second moments that are not finite or of no
    vectors.
    """
    try:
        return [factor_inverse(moments) for moments in second_moments]
    except (QuantizationError, np.linalg.LinAlgError) as error:
        raise QuantizationError(f"{name}: {error}") from None


def encode_spans(weight: np.ndarray, type_name: str, factors: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the blocks [rows, bytes] of a finite weight [rows, columns] float32, encoded with the
    feedback of `factor_spans`."""
    import actquant_runtime

    parts, begin = [], 0
    for factor in factors:
        part = np.ascontiguousarray(weight[:, begin : begin + len(factor)])
        begin += len(factor)
        parts.append(
            actquant_runtime.quantize_with_feedback(part, type_name, factor, threads=usable_cores())
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def encode_with_feedback(
    name: str,
    weight: np.ndarray,
    type_name: str,
    second_moments: Sequence[np.ndarray],
    jacobian: np.ndarray,
    *,
    rows: np.ndarray | None = None,
) -> Encoded:
    """Encodes a weight [rows, columns] by LDLQ inside ggml's blocks.

    second_moments: of the layer's inputs, [span, span] of each span of columns, in order; errors
    are made up for within their span; jacobian: [rows, columns], how much the action error grows
    with each weight's squared error, by which `Encoded.error` is weighed; rows: those of the weight
    that the jacobian is of, None for all.

    Raises QuantizationError, naming the tensor, for what is not finite.
    """
    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise QuantizationError(f"{name}: the weight holds NaN or infinity")
    data = encode_spans(weight, type_name, factor_spans(name, second_moments))
    encoded = EncodedTensor(type_name, data, weight.shape)
    seen = np.arange(len(weight)) if rows is None else rows
    lost, whole = _errors(name, weight, encoded, jacobian, seen)
    return Encoded(encoded, lost / whole if whole else 0.0, guided=bool(jacobian.any()))


def _errors(
    name: str, weight: np.ndarray, encoded: EncodedTensor, jacobian: np.ndarray, seen: np.ndarray
) -> tuple[float, float]:
    """Returns the action error of the rows `seen`, which are those of the jacobian in order, and
    that of zeros in their place; decodes some rows at a time.

    Raises QuantizationError, naming the tensor, if any decoded weight is not finite.
    """
    import actquant_runtime

    data, type_name = encoded.data, encoded.type
    counts = np.zeros(len(weight), bool)
    counts[seen] = True
    lost = whole = 0.0
    step = max(1, DECODED_WEIGHTS // weight.shape[1])
    for begin in range(0, len(weight), step):
        some = slice(begin, begin + step)
        decoded = actquant_runtime.dequantize(data[some], type_name, weight.shape[1])
        if not np.isfinite(decoded).all():
            raise QuantizationError(f"{name}: {type_name} cannot hold the weight (NaN or infinity)")
        own = counts[some]
        expected, weighed = weight[some][own], jacobian[(seen >= begin) & (seen < begin + step)]
        lost += action_error(expected, decoded[own], weighed)
        whole += action_error(expected, np.zeros_like(expected), weighed)
    return lost, whole


def action_error(weight: np.ndarray, decoded: np.ndarray, jacobian: np.ndarray) -> float:
    """Returns sum F_J (w - w')^2: the mean squared error of the actions, to first order, when one
    weight matrix alone is changed."""
    difference = weight.astype(np.float64) - decoded
    return float((jacobian * difference**2).sum())


def correlated_action_error(
    difference: np.ndarray, jacobian: np.ndarray, second_moments: Sequence[np.ndarray]
) -> float:
    """Returns sum_r a_r d_r H d_r' with a_r = sum_c F_rc / tr(H), for a difference D [rows,
    columns] of a weight, the action Jacobian F of its elements and the second moments H of its
    inputs: `action_error` where errors of a row add up as the inputs that they meet do."""
    trace = sum(float(np.trace(moments)) for moments in second_moments)
    if trace <= 0:
        return 0.0
    scaled = difference * np.sqrt(jacobian.sum(axis=1, keepdims=True) / trace)
    return output_error(scaled.astype(np.float32), second_moments)


def output_error(difference: np.ndarray, second_moments: Sequence[np.ndarray]) -> float:
    """Returns tr(D H D'), the mean squared error of a layer's outputs, for a difference D [rows,
    columns] of its weight and the second moments of its inputs; in the larger of their types."""
    error, begin = 0.0, 0
    for moments in second_moments:
        part = difference[:, begin : begin + len(moments)]
        begin += len(moments)
        error += float(np.vdot(part @ moments, part))
    return error


def diagonal(second_moments: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean square of each of a layer's inputs: [columns]."""
    return np.concatenate([np.diag(moments) for moments in second_moments])
