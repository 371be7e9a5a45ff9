"""What is at a path, and what is said where it is not what was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from actquant.common.errors import ActquantError, UsageError

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def find_status(path: Path) -> os.stat_result | None:
    """Returns what is at a path, None for nothing.

    Raises UsageError for a path that cannot be followed (a loop of links, a folder without
    permission, a name that is too long), or that results could not name: no UTF-8.
    """
    try:
        str(path).encode()
        return path.stat()
    except FileNotFoundError:
        return None
    except UnicodeEncodeError as error:
        raise UsageError(f"{path}: the name is no UTF-8; rename it") from error
    except ValueError as error:  # NUL
        raise UsageError(f"{str(path)!r} is no path: {error}") from error
    except OSError as error:
        raise UsageError(f"{shortened(path)}: {error.strerror}") from error


def describe_kind(mode: int) -> str:
    """Returns what a file of this mode is, e.g. `a folder`."""
    return next((name for is_it, name in _KINDS if is_it(mode)), "no regular file")


def require_file(
    path: str | Path, wanted: str, error: type[ActquantError] = UsageError, *, folder: bool = False
) -> Path:
    """Returns the path if there is a regular file that may be read; with `folder`, also if there is
    a folder.

    wanted: what it should be, e.g. `a GGUF`. Raises `error` saying what is there instead, and
    UsageError for a path that cannot be followed.
    """
    return _require(Path(path), wanted, error, file=True, folder=folder)


def require_folder(path: str | Path, wanted: str, error: type[ActquantError] = UsageError) -> Path:
    """Returns the path if there is a folder that may be read; raises as `require_file`."""
    return _require(Path(path), wanted, error, file=False, folder=True)


def _require(
    path: Path, wanted: str, error: type[ActquantError], *, file: bool, folder: bool
) -> Path:
    found = find_status(path)
    if found is None:
        link = ", where a link leads" if path.is_symlink() else ""
        raise error(f"there is nothing at {path}{link}; give {wanted}")
    fits = (file and stat.S_ISREG(found.st_mode)) or (folder and stat.S_ISDIR(found.st_mode))
    if not fits:
        raise error(f"{path} is {describe_kind(found.st_mode)}; give {wanted}")
    if not may(path, os.R_OK):
        raise error(f"{path} cannot be read: this user has no permission")
    return path


def may(path: Path, mode: int) -> bool:
    """Returns whether the effective user has these permissions (`os.W_OK` and the like)."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def shortened(path: Path) -> str:
    """Returns a path as a message shows it."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-40:]}"
