"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from actquant.common.errors import CheckpointError

REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
WANTED = ("*.json", "*.safetensors", "*.pt", "*.model", "*.txt", "*.jinja")
UNWANTED = ("training_state/*", "checkpoints/*", "runs/*")
"""What repositories keep of training; no policy is loaded from it."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that is here, and what it is called.

    revision: the commit it was taken from; None for a folder of one's own.
    """

    folder: Path
    name: str
    revision: str | None = None


def checkpoint_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that a policy may be loaded from."""
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")))
    return [
        folder / name
        for name in names
        if any(fnmatch(name, pattern) for pattern in WANTED)
        and not any(fnmatch(name, pattern) for pattern in UNWANTED)
    ]


def find_checkpoint(reference: str | Path) -> Checkpoint:
    """Finds a folder, or `organisation/name` or `organisation/name@revision` of the hub.

    A folder of that name goes first. What the cache of the hub holds is not fetched again; with
    HF_HUB_OFFLINE=1 nothing is.

    Raises CheckpointError if it is neither, or cannot be fetched.
    """
    folder = Path(reference)
    if folder.is_dir():
        return Checkpoint(folder, folder.resolve().name)
    match = REPOSITORY.fullmatch(str(reference))
    if match is None:
        raise CheckpointError(
            f"{reference} is no folder, and no repository of the hub (organisation/name, "
            "organisation/name@revision)"
        )
    snapshot = _fetch(match["id"], match["revision"])
    return Checkpoint(snapshot, match["id"], snapshot.name)


def _fetch(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    named = repository if revision is None else f"{repository}@{revision}"

    def snapshot(local_files_only: bool) -> Path:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            local_files_only=local_files_only,
        )
        return Path(folder)

    try:
        try:
            return snapshot(local_files_only=False)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            return snapshot(local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{named} is no folder here, not in the hub's cache, and the hub cannot be reached"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{named} cannot be fetched from the hub: {error}") from error
