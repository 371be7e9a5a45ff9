"""Frames on disk as soon as they happen, so that a crash costs none but the one being written.

A journal is a folder: `header.json` (written whole, first), `frames.jsonl` (one JSON line a frame)
and `images.bin` (raw pixels, which each line points into). Pixels are written before the line that
names them, and every write is handed to the operating system before `append` returns: what is there
survives the end of the process by any signal, though not a power cut.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actquant.common.errors import RecordingError
from actquant.common.files import write_text

SCHEMA_VERSION = 1
_HEADER, _FRAMES, _IMAGES = "header.json", "frames.jsonl", "images.bin"


@dataclass(frozen=True)
class Header:
    """What an episode's frames have in common; `cameras` maps a name to its shape [H, W, 3]."""

    task: str
    rate_hz: float
    robot_type: str
    state_names: list[str]
    action_names: list[str]
    cameras: dict[str, list[int]]
    info: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Frame:
    """One executed action and what was seen before it.

    state: float32 [S]; action: float32 [A]; images: uint8 [H, W, 3] by camera; time_s: since the
    epoch; extra: any small JSON-able facts.
    """

    time_s: float
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """Appends frames to a folder of its own; see `read` for the way back."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Raises RecordingError if the folder is there already or cannot be written."""
        self.folder, self.header = Path(folder), header
        self.frame_count = 0
        try:
            self.folder.mkdir(parents=True)
            write_text(self.folder / _HEADER, json.dumps(vars(header)))
            # Unbuffered: what is written is the operating system's, or the write has failed.
            self._frames = (self.folder / _FRAMES).open("wb", buffering=0)
            self._images = (self.folder / _IMAGES).open("wb", buffering=0)
        except OSError as error:
            raise RecordingError(f"no journal can be written in {self.folder}: {error}") from error
        self._offset = 0

    def append(self, frame: Frame) -> None:
        """Raises RecordingError if it could not be written whole, e.g. because the disk is full;
        what was appended before stays readable."""
        try:
            pictures = {name: self._append_image(frame, name) for name in self.header.cameras}
            line = {
                "time_s": frame.time_s,
                "state": np.asarray(frame.state, np.float32).tolist(),
                "action": np.asarray(frame.action, np.float32).tolist(),
                "images": pictures,
                "extra": dict(frame.extra),
            }
            _write_all(self._frames, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise RecordingError(
                f"frame {self.frame_count} could not be written in {self.folder}: {error}"
            ) from error
        self.frame_count += 1

    def _append_image(self, frame: Frame, camera: str) -> list[int]:
        """Writes the pixels; [offset, CRC-32] of them."""
        image = np.ascontiguousarray(frame.images[camera], np.uint8)
        if list(image.shape) != list(self.header.cameras[camera]):
            raise RecordingError(
                f"{camera} gave a picture of {image.shape}, the journal is for "
                f"{tuple(self.header.cameras[camera])}"
            )
        data, offset = image.tobytes(), self._offset
        _write_all(self._images, data)
        self._offset += len(data)
        return [offset, zlib.crc32(data)]

    def close(self) -> None:
        self._frames.close()
        self._images.close()


def _write_all(file: Any, data: bytes) -> None:
    """Writes until all is there, or it fails: a raw file writes as much as there is space for."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def read(folder: Path) -> tuple[Header, Iterator[Frame]]:
    """Returns a journal's header, and its whole frames in order; the first torn one ends them.

    Raises RecordingError if the folder holds no journal of this version.
    """
    folder = Path(folder)
    try:
        header = Header(**json.loads((folder / _HEADER).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RecordingError(f"{folder} holds no journal: {error}") from error
    if header.schema_version != SCHEMA_VERSION:
        raise RecordingError(
            f"{folder} is a journal of version {header.schema_version}; this program reads "
            f"version {SCHEMA_VERSION}"
        )
    return header, _frames(folder, header)


def _frames(folder: Path, header: Header) -> Iterator[Frame]:
    lines, pixels = folder / _FRAMES, folder / _IMAGES
    if not (lines.exists() and pixels.exists()):
        return
    with lines.open("rb") as frames, pixels.open("rb") as images:
        for line in frames:
            frame = _frame(line, images, header)
            if frame is None:
                return
            yield frame


def _frame(line: bytes, images: Any, header: Header) -> Frame | None:
    """Returns the frame of a line, or None where the line or its pixels are torn."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    pictures: dict[str, NDArray[np.uint8]] = {}
    for camera, shape in header.cameras.items():
        offset, checksum = values["images"][camera]
        images.seek(offset)
        data = images.read(int(np.prod(shape)))
        if zlib.crc32(data) != checksum:
            return None
        pictures[camera] = np.frombuffer(data, np.uint8).reshape(shape)
    return Frame(
        time_s=values["time_s"],
        state=np.asarray(values["state"], np.float32),
        action=np.asarray(values["action"], np.float32),
        images=pictures,
        extra=values["extra"],
    )
