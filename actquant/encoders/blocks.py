"""From a weight to ggml blocks, with or without an importance for every single weight."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import gguf
import numpy as np

from actquant.common.errors import QuantizationError
from actquant.common.files import hash_path
from actquant.common.machine import usable_cores
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

    error: sum F (w - w')^2 / sum F w^2, with F the importance it was encoded with (1 without);
    guided: whether anything told its weights apart.
    """

    tensor: EncodedTensor
    error: float
    guided: bool = False


@cache
def encoders_sha256() -> str:
    """Returns the hash of the native library that holds all encoders: another one may choose other
    blocks."""
    from actquant_runtime import _core

    return hash_path(Path(_core.__file__))


def make_importance(fisher: np.ndarray) -> np.ndarray:
    """Scales each row of a Fisher [rows, columns] to a mean of 1, no weight below IMPORTANCE_FLOOR.

    A row whose Fisher is zero becomes 1 throughout.

    A row's scale does not matter, as ggml encodes row by row; its floor is relative to its mean.
    """
    fisher = fisher.astype(np.float64)
    mean = fisher.mean(axis=1, keepdims=True)
    scaled = np.divide(fisher, mean, out=np.ones_like(fisher), where=mean > 0)
    return np.maximum(scaled, IMPORTANCE_FLOOR).astype(np.float32)


def encode(
    name: str, weight: np.ndarray, type_name: str, importance: np.ndarray | None = None
) -> Encoded:
    """Encodes one weight [rows, columns] float32 as a ggml type, on all cores.

    importance: [rows, columns], or None for plain rounding.

    Raises QuantizationError, naming the tensor, for NaN or infinity, for a type that needs
    importance and gets none, and where encoding yields anything that is not finite.
    """
    entry = get_format(type_name)
    if importance is not None:
        if importance.shape != weight.shape:
            raise QuantizationError(
                f"{name}: importance has shape {importance.shape}, expected {weight.shape}"
            )
    elif entry.needs_importance:
        raise QuantizationError(f"{name}: type {type_name} needs importance")
    rows, columns = weight.shape
    data = np.empty((rows, row_bytes(columns, type_name)), np.uint8)

    def encode_rows(start: int) -> tuple[float, float]:
        part = slice(start, start + step)
        own = None if importance is None else importance[part]
        data[part], lost, whole = _encode_rows(name, weight[part], type_name, own)
        return lost, whole

    # ggml encodes row by row, so blocks of rows are independent. Threads are on this level alone.
    step = max(1, BLOCK_WEIGHTS // max(1, columns))
    with ThreadPoolExecutor(usable_cores()) as pool:
        sums = np.array(list(pool.map(encode_rows, range(0, rows, step)))).reshape(-1, 2)
    lost, whole = sums.sum(axis=0)
    return Encoded(
        EncodedTensor(type_name, data, weight.shape), float(lost / whole) if whole else 0.0
    )


def _encode_rows(
    name: str, weight: np.ndarray, type_name: str, importance: np.ndarray | None
) -> tuple[np.ndarray, float, float]:
    """(blocks, importance-weighted squared error, the same of the weight itself)."""
    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise QuantizationError(f"{name}: the weight holds NaN or infinity")
    if importance is not None and not (np.isfinite(importance).all() and (importance > 0).all()):
        raise QuantizationError(f"{name}: importance must be finite and positive")
    data, decoded = _round_trip(weight, type_name, importance)
    expected = (len(weight), row_bytes(weight.shape[1], type_name))
    if data.shape != expected:
        raise QuantizationError(f"{name}: {type_name} gave {data.shape} bytes, not {expected}")
    if not np.isfinite(decoded).all():
        raise QuantizationError(f"{name}: {type_name} cannot hold the weight (NaN or infinity)")
    factor = 1.0 if importance is None else importance.astype(np.float64)
    lost = float((factor * (weight.astype(np.float64) - decoded) ** 2).sum())
    return data, lost, float((factor * weight.astype(np.float64) ** 2).sum())


def _round_trip(
    weight: np.ndarray, type_name: str, importance: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if get_format(type_name).grid == "float":
        kind = gguf.GGMLQuantizationType[type_name]
        with np.errstate(over="ignore"):
            stored = gguf.quants.quantize(weight, kind)
        return stored.view(np.uint8), gguf.quants.dequantize(stored, kind)
    import actquant_runtime

    data = actquant_runtime.quantize(weight, type_name, importance=importance, threads=1)
    return data, actquant_runtime.dequantize(data, type_name, weight.shape[1])


def encode_with_importance(
    name: str, weight: np.ndarray, type_name: str, fisher: np.ndarray
) -> Encoded:
    """Encodes a weight [rows, columns] with the importance that follows from its Fisher.

    Raises QuantizationError as `encode` does, and for a Fisher that is not finite.
    """
    if not np.isfinite(fisher).all():
        raise QuantizationError(f"{name}: the Fisher holds NaN or infinity")
    encoded = encode(name, weight, type_name, make_importance(fisher))
    return replace(encoded, guided=bool(fisher.any()))
