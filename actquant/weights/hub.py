"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from actquant_runtime.hub import HubError, HubName, parse_hub_name, told_by_hub

from actquant.common.errors import CheckpointError

CARD = "README.md"
"""Of a repository; it says the checkpoint's licence."""
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
    name = parse_hub_name(reference)
    if name is None or name.file is not None:
        raise CheckpointError(
            f"{reference} is no folder, and no repository of the hub (organisation/name, "
            "organisation/name@revision)"
        )
    try:
        with told_by_hub(name):
            snapshot = _fetch(name)
    except HubError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(snapshot, name.repository, snapshot.name)


def declared_license(folder: Path) -> str | None:
    """Returns the licence that a checkpoint's model card names in its front matter; None for none,
    or where it cannot be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        found = ModelCard(text, ignore_metadata_errors=True).data.get("license")
    except (OSError, ValueError, TypeError, YAMLError):
        return None
    return found if isinstance(found, str) and found else None


def _fetch(name: HubName) -> Path:
    """Returns the snapshot of a repository, from the cache alone where the hub cannot be asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    def snapshot(wanted: Sequence[str], *, local_files_only: bool) -> Path:
        folder = snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=list(wanted),
            ignore_patterns=list(UNWANTED),
            local_files_only=local_files_only,
        )
        return Path(folder)

    try:
        return snapshot((*WANTED, CARD), local_files_only=False)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        return snapshot(WANTED, local_files_only=True)
