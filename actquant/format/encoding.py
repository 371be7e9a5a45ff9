"""Weights in ggml types, encoded already or when they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from actquant.common.errors import ModelFileError
from actquant.format.container import PlannedTensor

if TYPE_CHECKING:
    from actquant.program.ir import Node

MAX_RANK = 4


@dataclass(frozen=True)
class EncodedTensor:
    """A weight in a ggml type.

    type: ggml's name, e.g. `Q4_K`, `Q8_0`, `F16`; data: uint8 [rows, row_bytes], rows padded with
    zeros to the type's block; shape: the logical [rows, columns] before padding.
    """

    type: str
    data: np.ndarray
    shape: tuple[int, ...]

    def make(self) -> np.ndarray:
        return self.data


@dataclass(frozen=True)
class DeferredEncoding:
    """A weight that is encoded when it is its turn to be written; fields as of EncodedTensor."""

    type: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


Encoding = EncodedTensor | DeferredEncoding


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns [rows, columns] of a weight as a matrix: [out, in·kernel] of a convolution's."""
    return shape[0], math.prod(shape[1:])


def planned(
    n: Node, encoding: Encoding | None, float_type: str, values: np.ndarray | None = None
) -> PlannedTensor:
    """Returns how a tensor is written; float_type, values: of one that has no encoding."""
    if encoding is not None:
        return _as_encoded(n, encoding)
    if float_type == "BF16":
        return _as_encoded(n, _bfloat16(n))
    dtype = np.dtype({"i64": np.int64, "b8": np.int8}.get(n.dtype, np.float32))
    if dtype == np.float32 and float_type == "F16":
        dtype = np.dtype(np.float16)
    shape = n.shape if len(n.shape) <= MAX_RANK else tuple(d for d in n.shape if d != 1)
    if len(shape) > MAX_RANK:
        raise ModelFileError(f"a tensor of shape {list(n.shape)} has too many dimensions")
    shape = shape or (1,)

    def make() -> np.ndarray:
        array = n.tensor.detach().cpu().contiguous().numpy() if values is None else values
        return array.astype(dtype, copy=False).reshape(shape)

    return PlannedTensor(shape, dtype, make)


def _bfloat16(n: Node) -> DeferredEncoding:
    import torch

    shape = matrix_shape(n.shape)

    def make() -> np.ndarray:
        return n.tensor.reshape(shape).to(torch.bfloat16).view(torch.uint8).numpy()

    return DeferredEncoding("BF16", shape, make)


def _as_encoded(n: Node, encoding: Encoding) -> PlannedTensor:
    try:
        kind = GGMLQuantizationType[encoding.type]
    except KeyError as error:
        raise ModelFileError(f"{n.name}: ggml has no type {encoding.type}") from error
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = matrix_shape(n.shape)
    wanted = (rows, math.ceil(columns / block) * size)
    known = encoding.data if isinstance(encoding, EncodedTensor) else None
    fits = known is None or (known.dtype == np.uint8 and known.shape == wanted)
    if tuple(encoding.shape) != (rows, columns) or not fits:
        found = "" if known is None else f" in {known.dtype}{list(known.shape)}"
        raise ModelFileError(
            f"{n.name}: {encoding.type} of {list(encoding.shape)}{found}; "
            f"wanted {[rows, columns]} in uint8{list(wanted)}"
        )
    return PlannedTensor(wanted, np.dtype(np.uint8), encoding.make, kind)
