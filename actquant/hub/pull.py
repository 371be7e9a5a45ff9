"""A policy file of the hub to this machine, checked."""

from __future__ import annotations

import shutil
from pathlib import Path

from actquant_runtime import ModelFileError, Runtime
from actquant_runtime.hub import HubError, HubFile, HubName, fetch
from pydantic import BaseModel, ConfigDict

from actquant.common.files import atomic_path
from actquant.common.locks import sole_writer
from actquant.control.policy import model_sha256


class PullReport(BaseModel):
    """What was fetched.

    file: its path in the repository; commit: of the repository; path: where it is now.
    """

    model_config = ConfigDict(extra="forbid")

    repository: str
    commit: str
    file: str
    bytes: int
    path: str


def pull(name: HubName, out: Path | None = None) -> PullReport:
    """Downloads a file into the hub's cache, checks all its checksums, and copies it to `out`.

    A file of the cache that is damaged is downloaded once more.

    Raises HubError if it cannot be had, ModelFileError if it is damaged or no file of ours.
    """
    found = _sound(name)
    if out is not None:
        with sole_writer(out), atomic_path(out) as temporary:
            shutil.copyfile(found.path, temporary)
    assert found.name.file is not None
    return PullReport(
        repository=name.repository,
        commit=found.commit,
        file=found.name.file,
        bytes=found.path.stat().st_size,
        path=str(found.path if out is None else out),
    )


def _sound(name: HubName) -> HubFile:
    found = fetch(name)
    try:
        Runtime(found.path)  # looks at every checksum
    except ModelFileError as damage:
        if _is_the_hubs(found.path):
            raise
        try:
            found = fetch(found.name, again=True)
        except HubError:
            raise damage from None
        Runtime(found.path)
    return found


def _is_the_hubs(path: Path) -> bool:
    """Returns whether a file of the cache is as the hub has it: there its name is its SHA-256."""
    return path.resolve().name == model_sha256(path)
