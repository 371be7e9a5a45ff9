"""ggml's weight formats, and how the runtime was built."""

import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actquant_runtime import _core


def quantize(
    weights: ArrayLike, type: str, importance: ArrayLike | None = None, threads: int = 0
) -> NDArray[np.uint8]:
    """Quantizes each row of `weights` [r, c] with ggml's own encoder.

    `importance` [r, c], positive, weighs the squared error of every single weight; only its ratios
    within a row matter. Rows are zero-padded to whole blocks. Returns their bytes [r, row_bytes].
    """
    dense = np.ascontiguousarray(weights, np.float32)
    dense_importance = None if importance is None else np.ascontiguousarray(importance, np.float32)
    return _core.quantize(dense, type, dense_importance, threads)


def quantize_with_feedback(
    weights: ArrayLike, type: str, factor: ArrayLike, threads: int = 0
) -> NDArray[np.uint8]:
    """Quantizes each row of `weights` [r, c]; the weights after each one make up for its error.

    LDLQ (Chee et al., arXiv:2307.13304) inside ggml's blocks: `factor` [c, c] is the upper
    triangular Cholesky factor U of the inverse Hessian of a row, H^-1 = U' U. Rows are zero-padded
    to whole blocks. Returns their bytes [r, row_bytes], the same on any number of threads.
    """
    dense = np.ascontiguousarray(weights, np.float32)
    return _core.quantize_with_feedback(
        dense, type, np.ascontiguousarray(factor, np.float32), threads
    )


def dequantize(data: ArrayLike, type: str, n_cols: int) -> NDArray[np.float32]:
    """Returns the weights [r, n_cols] that the rows' bytes `data` [r, row_bytes] stand for."""
    return _core.dequantize(np.ascontiguousarray(data, np.uint8), type, n_cols)


def types() -> dict[str, dict[str, Any]]:
    """Returns block_size, type_size (bytes), bits_per_weight and needs_importance of every type."""
    return _core.types()


def build_info() -> dict[str, Any]:
    """Returns ggml's version, the instruction set of our kernels here, the CPU features compiled
    into ggml, the compiler, the devices that can be computed on, and the hardware threads."""
    return json.loads(_core.build_info())


def find_device(name: str) -> str:
    """Returns the name of the device that `Runtime(device=name)` takes, e.g. "vulkan0" for
    "vulkan". Raises ArgumentError, which names the devices there are, if there is no such."""
    return _core.find_device(name)
