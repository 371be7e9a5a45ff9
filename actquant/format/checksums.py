"""Checksums of a file's keys and tensors (docs/format.md, "Checksums")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from actquant_runtime import checksum
from gguf import GGUFReader, ReaderTensor

HEADER_KEY, TENSORS_KEY = "actquant.checksum.header", "actquant.checksum.tensors"


def checksum_keys(tensors: Sequence[int]) -> list[tuple[str, str, Any]]:
    """Returns the keys of a file with these checksums of its tensors, in the file's order.

    That of the header is 0 until `seal_header`.
    """
    return [(HEADER_KEY, "u64", 0), (TENSORS_KEY, "u64[]", list(tensors))]


def tensor_checksum(data: np.ndarray) -> int:
    """Returns the checksum of an array's bytes, row by row."""
    return checksum(np.ascontiguousarray(data).reshape(-1).view(np.uint8))


def seal(path: str | Path) -> None:
    """Writes all checksums of a file that has their keys."""
    reader = GGUFReader(path, "r+")
    field = reader.fields[TENSORS_KEY]
    for index, tensor in zip(field.data, reader.tensors, strict=True):
        field.parts[index][0] = tensor_checksum(tensor.data)
    _seal_header(reader)


def seal_header(path: str | Path) -> None:
    """Writes the checksum of a file's keys; those of its tensors stay."""
    _seal_header(GGUFReader(path, "r+"))


def stored_tensor_checksums(reader: GGUFReader) -> list[int]:
    """Returns what a file says of its tensors, in their order."""
    field = reader.fields.get(TENSORS_KEY)
    return [] if field is None else list(field.contents())


def is_intact(tensor: ReaderTensor, expected: int) -> bool:
    """Returns whether a tensor has its checksum."""
    return tensor_checksum(tensor.data) == expected


def _seal_header(reader: GGUFReader) -> None:
    field = reader.fields[HEADER_KEY]
    field.parts[field.data[0]][0] = _header_checksum(reader)
    reader.data.flush()


def _header_checksum(reader: GGUFReader) -> int:
    """Returns it with the bytes of its own value taken as 0."""
    value = reader.fields[HEADER_KEY].parts[-1]
    header = np.array(reader.data[: reader.data_offset])
    begin = value.ctypes.data - reader.data.ctypes.data
    header[begin : begin + value.nbytes] = 0
    return checksum(header)
