"""Encoding tensors into ggml blocks, with the Fisher as the importance of every single weight."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gguf
import numpy as np
from rich.progress import Progress

from actquant.common.errors import QuantizationError
from actquant.common.progress import bar
from actquant.format.encoding import EncodedTensor
from actquant.format.tensor_types import get_format, row_bytes

BLOCK_WEIGHTS = 1 << 21
"""What one thread encodes at a time: 8 MB of float32, and its double-precision error."""
IMPORTANCE_FLOOR = 1e-3
"""No weight counts less than this share of its row's mean: the calibration frames have not seen
everything, and ggml's searches divide by sums of importance."""


@dataclass(frozen=True)
class Encoded:
    """An encoded weight and what it lost.

    error: sum F (w - w')^2 / sum F w^2, with F the importance it was encoded with (1 without).
    """

    tensor: EncodedTensor
    error: float


def importance(fisher: np.ndarray) -> np.ndarray:
    """Fisher [rows, columns] to importance of the same shape: each row scaled to a mean of 1, no
    weight below IMPORTANCE_FLOOR, and 1 throughout a row whose Fisher is zero.

    A row's scale does not matter, as ggml encodes row by row; its floor is relative to its mean.
    """
    fisher = fisher.astype(np.float64)
    mean = fisher.mean(axis=1, keepdims=True)
    scaled = np.divide(fisher, mean, out=np.ones_like(fisher), where=mean > 0)
    return np.maximum(scaled, IMPORTANCE_FLOOR).astype(np.float32)


def encode(
    name: str, weight: np.ndarray, type_name: str, weights_of_error: np.ndarray | None = None
) -> Encoded:
    """Encode one weight [rows, columns] float32 as a ggml type, on all cores.

    weights_of_error: importance [rows, columns], or None for plain rounding.

    Raises QuantizationError, naming the tensor, for NaN or infinity, for a type that needs
    importance and gets none, and where encoding yields anything that is not finite.
    """
    entry = get_format(type_name)
    if weights_of_error is not None:
        if weights_of_error.shape != weight.shape:
            raise QuantizationError(
                f"{name}: importance has shape {weights_of_error.shape}, expected {weight.shape}"
            )
    elif entry.needs_importance:
        raise QuantizationError(f"{name}: type {type_name} needs importance")
    rows, columns = weight.shape
    data = np.empty((rows, row_bytes(columns, type_name)), np.uint8)

    def encode_rows(start: int) -> tuple[float, float]:
        part = slice(start, start + step)
        counts = None if weights_of_error is None else weights_of_error[part]
        data[part], lost, whole = _encode_rows(name, weight[part], type_name, counts)
        return lost, whole

    # ggml encodes row by row, so blocks of rows are independent.
    step = max(1, BLOCK_WEIGHTS // max(1, columns))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = np.array(list(pool.map(encode_rows, range(0, rows, step)))).reshape(-1, 2)
    lost, whole = sums.sum(axis=0)
    return Encoded(
        EncodedTensor(type_name, data, weight.shape), float(lost / whole) if whole else 0.0
    )


def _encode_rows(
    name: str, weight: np.ndarray, type_name: str, counts: np.ndarray | None
) -> tuple[np.ndarray, float, float]:
    """(blocks, importance-weighted squared error, the same of the weight itself)."""
    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise QuantizationError(f"{name}: the weight holds NaN or infinity")
    if counts is not None and not (np.isfinite(counts).all() and (counts > 0).all()):
        raise QuantizationError(f"{name}: importance must be finite and positive")
    data, decoded = _round_trip(weight, type_name, counts)
    expected = (len(weight), row_bytes(weight.shape[1], type_name))
    if data.shape != expected:
        raise QuantizationError(f"{name}: {type_name} gave {data.shape} bytes, not {expected}")
    if not np.isfinite(decoded).all():
        raise QuantizationError(f"{name}: {type_name} cannot hold the weight (NaN or infinity)")
    factor = 1.0 if counts is None else counts.astype(np.float64)
    lost = float((factor * (weight.astype(np.float64) - decoded) ** 2).sum())
    return data, lost, float((factor * weight.astype(np.float64) ** 2).sum())


def _round_trip(
    weight: np.ndarray, type_name: str, weights_of_error: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if get_format(type_name).grid == "float":
        kind = gguf.GGMLQuantizationType[type_name]
        with np.errstate(over="ignore"):
            stored = gguf.quants.quantize(weight, kind)
        return stored.view(np.uint8), gguf.quants.dequantize(stored, kind)
    import actquant_runtime

    data = actquant_runtime.quantize(weight, type_name, importance=weights_of_error)
    return data, actquant_runtime.dequantize(data, type_name, weight.shape[1])


def quantize(
    weights: Mapping[str, np.ndarray],
    types: Mapping[str, str],
    fisher: Mapping[str, np.ndarray] | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Encoded]:
    """Encode every tensor of `types` (name -> ggml type).

    weights: name -> float32 [rows, columns]; fisher: name -> [rows, columns], or None for plain
    rounding.

    Raises QuantizationError as `encode` does, and for a tensor that has no weight.
    """
    missing: Sequence[str] = [name for name in types if name not in weights]
    if missing:
        raise QuantizationError(f"no weights for {', '.join(missing)}")
    encoded: dict[str, Encoded] = {}
    with bar(progress, "quantize", len(types)) as advance:
        for name, type_name in types.items():
            if fisher is not None and not np.isfinite(fisher[name]).all():
                raise QuantizationError(f"{name}: the Fisher holds NaN or infinity")
            counts = None if fisher is None else importance(fisher[name])
            encoded[name] = encode(name, weights[name], type_name, counts)
            advance(1)
    return encoded
