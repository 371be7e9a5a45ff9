"""Writing a GGUF one tensor at a time, and exchanging its metadata without moving its data."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import WriterState
from rich.progress import Progress

from actquant.common.errors import ModelFileError
from actquant.common.files import atomic_path
from actquant.common.progress import bar
from actquant.format.checksums import checksum_keys, seal_header, tensor_checksum

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
MAX_NAME = 63

Key = tuple[str, str, Any]
"""(key, kind, value): kind is `str`, `u32`, `u64`, `f32` or an array, e.g. `str[]`."""

_ELEMENTS = {
    "u32[]": GGUFValueType.UINT32,
    "u64[]": GGUFValueType.UINT64,
    "f32[]": GGUFValueType.FLOAT32,
}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor whose data is made when it is its turn to be written.

    shape, dtype: of the array that `make` returns; type: its ggml type where that does not follow
    from the dtype (the array is then uint8 [rows, row_bytes]).
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]
    type: GGMLQuantizationType | None = None

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def file_bytes(architecture: str, keys: Sequence[Key], tensors: Mapping[str, PlannedTensor]) -> int:
    """Returns the size that `write_gguf` would give the file."""
    keys = [*keys, *checksum_keys([0] * len(tensors))]
    data = sum(_aligned(tensor.bytes) for tensor in tensors.values())
    return len(_header(architecture, keys, tensors)) + data


def write_gguf(
    path: Path,
    architecture: str,
    keys: Sequence[Key],
    tensors: Mapping[str, PlannedTensor],
    progress: Progress | None = None,
) -> Path:
    """Writes under a temporary name and moves into place; on failure nothing is left.

    Raises ModelFileError for a name that is too long, for data that is not as it was announced,
    and when the disk refuses.
    """
    empty = checksum_keys([0] * len(tensors))
    header = _header(architecture, [*keys, *empty], tensors)

    def write(file: BinaryIO) -> None:
        file.write(header)
        checksums = []
        total = sum(tensor.bytes for tensor in tensors.values())
        with bar(progress, f"write {path.name}", total) as advance:
            for name, tensor in tensors.items():
                array = tensor.make()
                if array.shape != tensor.shape or array.dtype != tensor.dtype:
                    raise ModelFileError(
                        f"{name}: the data is {array.dtype}{list(array.shape)}, announced was "
                        f"{tensor.dtype}{list(tensor.shape)}"
                    )
                array = np.ascontiguousarray(array)
                checksums.append(tensor_checksum(array))
                file.write(array.data)
                file.write(bytes(_aligned(tensor.bytes) - tensor.bytes))
                del array
                advance(tensor.bytes)
        file.seek(0)
        file.write(_header(architecture, [*keys, *checksum_keys(checksums)], tensors))

    return _replaced(path, write)


def replace_keys(
    path: Path,
    architecture: str,
    keys: Sequence[Key],
    tensors: Mapping[str, PlannedTensor],
    checksums: Sequence[int],
    data_offset: int,
) -> Path:
    """Gives a file other keys; its tensors, which begin at `data_offset`, stay as they are.

    checksums: those of the tensors, in their order.

    Keys that take as many bytes as the old ones are written in place; otherwise the file is written
    anew, its data copied by the kernel.
    """
    header = _header(architecture, [*keys, *checksum_keys(checksums)], tensors)
    if len(header) == data_offset:
        with path.open("r+b") as file:
            file.write(header)
        seal_header(path)
        return path

    def write(file: BinaryIO) -> None:
        file.write(header)
        file.flush()
        with path.open("rb") as source:
            _copy(source, file, data_offset, path.stat().st_size - data_offset)

    return _replaced(path, write)


def _copy(source: BinaryIO, target: BinaryIO, offset: int, count: int) -> None:
    with suppress(AttributeError, OSError):  # another system, or another file system
        while count:
            moved = os.copy_file_range(source.fileno(), target.fileno(), count, offset)
            if moved == 0:
                break
            offset, count = offset + moved, count - moved
    source.seek(offset)
    target.seek(0, os.SEEK_END)
    while count:
        block = source.read(min(count, 1 << 22))
        if not block:
            raise OSError("the file ends before its tensors do")
        target.write(block)
        count -= len(block)


def _replaced(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            write(file)
            file.flush()
            seal_header(temporary)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error
    return path


def _header(architecture: str, keys: Sequence[Key], tensors: Mapping[str, PlannedTensor]) -> bytes:
    """Everything before the data, with its padding."""
    writer = GGUFWriter(None, architecture)
    for key, kind, value in keys:
        _add_key(writer, key, kind, value)
    for name, tensor in tensors.items():
        if len(name) > MAX_NAME:
            raise ModelFileError(f"tensor name {name!r} is longer than {MAX_NAME} characters")
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.bytes, tensor.type)
    buffer = io.BytesIO()
    writer.fout = [buffer]  # pyright: ignore[reportAttributeAccessIssue]
    writer.state = WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header = buffer.getvalue()
    return header + bytes(_aligned(len(header)) - len(header))


def _add_key(writer: GGUFWriter, key: str, kind: str, value: Any) -> None:
    texts = {"str": [value], "str[]": value}.get(kind, [])
    if any("\0" in text for text in texts):
        raise ModelFileError(f"{key} has a NUL character, at which readers would cut it")
    if kind == "str":  # `add_string` leaves out an empty one
        writer.add_key_value(key, value, GGUFValueType.STRING)
    elif kind == "u32":
        writer.add_uint32(key, value)
    elif kind == "u64":
        writer.add_uint64(key, value)
    elif kind == "f32":
        writer.add_float32(key, value)
    elif value:  # an empty list is not written
        element = _ELEMENTS.get(kind)
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub_type=element)


def _aligned(size: int) -> int:
    return GGUFWriter.ggml_pad(size, ALIGNMENT)
