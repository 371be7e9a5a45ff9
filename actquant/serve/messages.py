"""Messages on the wire: msgpack with arrays as openpi's client packs them.

An array is a map {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [...]}, a NumPy
scalar {b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from actquant.common.errors import ActquantError

KINDS = "biuf"
"""NumPy's letters for bool, signed, unsigned and floating-point numbers."""
MAX_DIMENSIONS = 8


class MessageError(ActquantError):
    """A client sent what is no message, or does not fit the policy."""


def pack(message: Any) -> bytes:
    """Packs maps, lists, numbers, texts and NumPy arrays of numbers."""
    return msgpack.Packer(default=_packed).pack(message)


def unpack(data: bytes) -> dict[str, Any]:
    """Unpacks a message whose top is a map with texts as keys; arrays are views of `data`.

    Raises MessageError for anything else.
    """
    try:
        message = msgpack.unpackb(data, object_hook=_restored)
    except MessageError:
        raise
    except Exception as error:  # msgpack raises its own and Python's, whatever the bytes lead to
        raise MessageError(f"no msgpack message: {type(error).__name__}: {error}") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise MessageError("a message is a map with texts as keys")
    return message


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        return {
            b"__ndarray__": True,
            b"data": np.ascontiguousarray(value).tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic) and value.dtype.kind in KINDS:
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _restored(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _dtype(value).type(value[b"data"])
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) <= 4 else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in KINDS:
        raise MessageError(f"an array of {name!r}: wanted numbers, e.g. '<f4' or '|u1'")
    return dtype


def _array(value: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(value), value.get(b"data"), value.get(b"shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"an array of shape {shape!r:.80}")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError(f"an array of shape {shape!r:.80}")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        size = len(data) if isinstance(data, bytes) else "no"
        raise MessageError(f"an array {dtype.str}{shape} with {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape)
