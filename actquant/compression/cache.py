"""Where programs, statistics, errors of types, encodings and tuned values stay, so that another
budget or recipe of the same policy finds them: an entry for each checkpoint, dataset and choice of
frames."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, ValidationError

from actquant.common.errors import CacheError
from actquant.common.files import hash_json, write_text
from actquant.common.locks import holder

VARIABLE = "ACTQUANT_CACHE"
ABOUT = "about.json"


class CacheEntry(BaseModel):
    """One entry: what it is of, what it takes, when it was used last (UTC)."""

    model_config = ConfigDict(extra="forbid")

    key: str
    path: str
    checkpoint: str
    dataset: str
    seed: int
    bytes: int
    last_used: str


class CacheReport(BaseModel):
    model_config = ConfigDict(extra="forbid")

    folder: str
    entries: list[CacheEntry]
    removed: list[CacheEntry]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)


class _About(BaseModel):
    checkpoint: str
    dataset: str
    seed: int


def cache_folder(given: str | Path | None = None) -> Path:
    """Returns the folder that is given, or else named by ACTQUANT_CACHE, or else the user's own."""
    named = given or os.environ.get(VARIABLE)
    return Path(named) if named else user_cache_path("actquant")


def open_entry(
    root: Path, made_from: Mapping[str, str], checkpoint: str, dataset: str, seed: int
) -> Path:
    """Returns the folder of what was made from these hashes, and notes that it is used."""
    folder = root / hash_json(dict(made_from))[:16]
    about = _About(checkpoint=checkpoint, dataset=dataset, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / ABOUT, about.model_dump_json())
    return folder


def read_cache(root: Path) -> CacheReport:
    """Returns the entries of a cache, the one used last first; no folder is an empty cache."""
    found = []
    for path in root.glob(f"*/{ABOUT}"):
        try:
            about = _About.model_validate_json(path.read_text())
        except ValidationError:
            continue
        used = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        found.append(
            CacheEntry(
                key=path.parent.name,
                path=str(path.parent),
                checkpoint=about.checkpoint,
                dataset=about.dataset,
                seed=about.seed,
                bytes=sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file()),
                last_used=used.isoformat(timespec="seconds"),
            )
        )
    found.sort(key=lambda entry: entry.last_used, reverse=True)
    return CacheReport(folder=str(root), entries=found, removed=[])


def clear_cache(root: Path, key: str | None = None) -> CacheReport:
    """Deletes one entry, or all of them; nothing in the folder that is no entry.

    Raises CacheError if there is no such entry, or a process works in it.
    """
    report = read_cache(root)
    chosen = [entry for entry in report.entries if key in (None, entry.key)]
    if key is not None and not chosen:
        known = ", ".join(entry.key for entry in report.entries) or "none"
        raise CacheError(f"{root} has no entry {key!r}; it has {known}")
    for entry in chosen:
        if (process := holder(Path(entry.path))) is not None:
            raise CacheError(
                f"entry {entry.key} is in use by process {process}; nothing is deleted"
            )
    for entry in chosen:
        shutil.rmtree(entry.path)
    left = [entry for entry in report.entries if entry not in chosen]
    return CacheReport(folder=str(root), entries=left, removed=chosen)
