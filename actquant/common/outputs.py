"""Where a command may write: never into what it reads, and over nothing that it did not make.

Everything here is looked at before anything is read or imported that takes long.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actquant.common.errors import OutputError, UsageError
from actquant.common.paths import describe_kind, find_status, may

ROOM_BYTES = 40
"""What temporary, lock and partial files add to a name."""
LONGEST_NAME_BYTES = 255 - ROOM_BYTES


@dataclass(frozen=True)
class Product:
    """A kind of file that a command makes: what it is called, and how one is known."""

    title: str
    is_ours: Callable[[Path], bool]


def check_output(
    out: Path, product: Product, inputs: Iterable[Path | None], *, force: bool = False
) -> None:
    """Raises UsageError or OutputError for a file that may not, or cannot, be written.

    It may not be or lie in one of the inputs (files and folders), whatever links lead there; be
    anything but a regular file; or be there already without being a `product`, unless `force` says
    so. Its folder must be there and let itself be written to.
    """
    out = Path(out)
    found = find_status(out)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{out} is a folder; give the path of the file to write")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UsageError(
            f"{out} is {describe_kind(found.st_mode)}; give the path of a file to write"
        )
    if len(os.fsencode(out.name)) > LONGEST_NAME_BYTES:
        raise UsageError(
            f"{out.name[:40]}… has {len(os.fsencode(out.name))} bytes; names of outputs have at "
            f"most {LONGEST_NAME_BYTES}"
        )
    _demand_apart(out, found, inputs)
    _demand_writable(out.parent)
    if found is not None and found.st_size and not force and not _is_ours(out, product):
        remedy = "" if product is NOTHING else ", or say --force to replace it"
        raise UsageError(f"{out} is there and is no {product.title}; name another file{remedy}")


def check_folder(folder: Path, inputs: Iterable[Path | None]) -> None:
    """Raises UsageError or OutputError for a folder of outputs that is no folder, is or lies in an
    input, or cannot be made or written to."""
    folder = Path(folder)
    found = find_status(folder)
    if found is not None and not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{folder} is {describe_kind(found.st_mode)}; give a folder")
    _demand_apart(folder, found, inputs)
    there = folder
    while find_status(there) is None:
        there = there.parent
    _demand_writable(there)


def _demand_apart(out: Path, found: os.stat_result | None, inputs: Iterable[Path | None]) -> None:
    place = Path(os.path.realpath(out))
    for given in inputs:
        if given is None or not os.path.lexists(given):
            continue
        source = Path(os.path.realpath(given))
        if place == source:
            raise UsageError(f"{out} is what is read ({given}); name another place")
        if source.is_dir() and place.is_relative_to(source):
            raise UsageError(f"{out} lies in what is read ({given}); name another place")
        if found is not None and stat.S_ISREG(found.st_mode):
            for file in _files(source):
                if os.path.samestat(found, file):
                    raise UsageError(
                        f"{out} is another name of a file that is read ({given}); name another "
                        "place"
                    )


def _files(source: Path) -> Iterator[os.stat_result]:
    """Yields the status of an input file, or of every file that an input folder leads to."""
    if not source.is_dir():
        yield source.stat()
        return
    for folder, _, names in os.walk(source):
        for name in names:
            try:
                yield os.stat(os.path.join(folder, name))
            except OSError:  # a link that leads nowhere
                continue


def _demand_writable(folder: Path) -> None:
    found = find_status(folder)
    if found is None:
        raise UsageError(f"there is no folder {folder} to write to; make it first")
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{folder} is {describe_kind(found.st_mode)}, no folder to write to")
    if not may(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written to: this user has no permission")


def _is_ours(path: Path, product: Product) -> bool:
    try:
        return product.is_ours(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error


def _is_model(path: Path) -> bool:
    """Looks at the first key, which our writer gives to the architecture."""
    with path.open("rb") as file:
        head = file.read(256)
    try:
        magic, _, _, _, length = struct.unpack_from("<4sIQQQ", head)
        key = head[32 : 32 + length]
        kind, size = struct.unpack_from("<IQ", head, 32 + length)
        value = head[44 + length : 44 + length + size]
    except struct.error:
        return False
    string = 8
    named = (b"GGUF", b"general.architecture", string, b"actquant")
    return (magic, key, kind, value) == named


def _is_json_with(*keys: str) -> Callable[[Path], bool]:
    def is_ours(path: Path) -> bool:
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and value.keys() >= set(keys)

    return is_ours


def _has_in_its_head(text: bytes) -> Callable[[Path], bool]:
    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            return text in file.read(1024)

    return is_ours


def _is_recording(path: Path) -> bool:
    """Looks at what lies beside a video, or at that itself."""
    beside = path.with_suffix(".json")
    return beside.is_file() and _is_json_with("actions", "latencies_ms")(beside)


MODEL = Product("GGUF of actquant's", _is_model)
EVALUATION = Product("result of `actquant eval`", _is_json_with("episodes", "provenance"))
RECORDING = Product("recording of `actquant eval`", _is_recording)
REPORT = Product("page of `actquant report`", _has_in_its_head(b"<title>Evaluation of "))
MADE = Product("note of `actquant sweep`", _is_json_with("made_from", "report"))
SWEEP = Product("report of `actquant sweep`", _is_json_with("checkpoint", "rows", "page"))
PAGE = Product("page of `actquant sweep`", _has_in_its_head(b"<title>Sweep of "))
CARD = Product("model card of `actquant push`", _has_in_its_head(b"library_name: actquant"))
DEMO = Product("report of `actquant demo`", _is_json_with("policy", "rows", "gif"))
FILM_COMMENT = b"actquant demo"
FILM = Product("film of `actquant demo`", _has_in_its_head(FILM_COMMENT))
NOTHING = Product("file that may be replaced", lambda _: False)
