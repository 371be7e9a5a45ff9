"""Files that appear under their name only when they are whole, and hashes of what is on disk."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 20
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""Names of what is not whole yet."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER_BYTES = 1024


def hash_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path) -> str:
    """Returns the SHA-256 of a file, or of the names and contents of all files below a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _temporary(target: Path) -> Path:
    """Returns a new name beside `target`; it does not grow where that is such a name itself."""
    whole = TEMPORARY.fullmatch(target.name)
    name = target.name if whole is None else whole["name"]
    return target.with_name(f".{name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; it replaces it if the block ends without error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:  # begins before the file does, so that a signal in between leaves none
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target`; it replaces it if the block ends without error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        temporary.mkdir()
        yield temporary
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Replaces a file by `text`, encoded as UTF-8, in one step."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def lfs_pointers(files: Iterable[Path]) -> list[Path]:
    """Returns those files that Git LFS left a pointer to, instead of their content."""

    def is_pointer(file: Path) -> bool:
        if not file.is_file() or file.stat().st_size > _LONGEST_POINTER_BYTES:
            return False
        with file.open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER

    return [file for file in files if is_pointer(file)]
