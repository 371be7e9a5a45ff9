"""Who writes what: a file beside an output, or in a folder, that one process at a time holds."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actquant.common.errors import BusyError, OutputError
from actquant.common.files import TEMPORARY

LOCK = ".actquant.lock"
"""Of a folder."""


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Keeps other processes from writing `out` inside the block, and deletes what one that died
    left of it half-written.

    Raises BusyError naming who writes it, OutputError if nothing can be written beside it.
    """
    out = Path(out)
    with _held(out.with_name(f".{out.name}.lock"), f"{out} is being written"):
        for path in out.parent.iterdir():
            found = TEMPORARY.fullmatch(path.name)
            if found is not None and found["name"] == out.name:
                _remove(path)
        yield


@contextmanager
def sole_user(folder: Path, *patterns: str) -> Iterator[None]:
    """Keeps other processes from working in `folder`, which is made if it is not there, and deletes
    what one that died left half-written in it and in its folders.

    patterns: of more files that only a process that lives needs. Raises as `sole_writer`.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    with _held(folder / LOCK, f"{folder} is in use"):
        for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
            if TEMPORARY.fullmatch(path.name):
                _remove(path)
        for pattern in patterns:
            for path in folder.glob(pattern):
                _remove(path)
        yield


def holder(folder: Path) -> int | None:
    """Returns the process that works in a folder (`sole_user`), None if nobody does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(descriptor)
    finally:
        os.close(descriptor)
    return None


@contextmanager
def _held(path: Path, what: str) -> Iterator[None]:
    descriptor = _acquire(path, what)
    try:
        yield
    finally:
        # Deleted while it is held: whoever opened it meanwhile sees that its name is gone.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, what: str) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, path):
                _sign(descriptor, path)
                return descriptor
            os.close(descriptor)  # whoever held it has deleted it: once more
        except BlockingIOError:
            pid = _pid(descriptor)
            os.close(descriptor)
            by = "another process" if pid is None else f"process {pid}"
            raise BusyError(f"{what} by {by}; wait for it, or name another place") from None
        except OSError as error:
            os.close(descriptor)
            raise OutputError(f"{path.parent} cannot be written to: {error.strerror}") from error


def _sign(descriptor: int, path: Path) -> None:
    """Writes who holds the lock; where that fails, nothing else could be written either."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _is_named(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
