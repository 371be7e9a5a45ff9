"""Versioned artefacts in one work folder, so that every stage can be stopped, resumed, inspected.

One artefact is one safetensors file: arrays, and in its metadata a JSON header with the schema
version, the stage, what it was made from (name -> hash) and the stage's own small results. A file
is written under a temporary name and renamed, so a reader sees a whole artefact or none.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

SCHEMA_VERSION = 1
_CHUNK = 1 << 20


class Header(BaseModel):
    """What an artefact says about itself; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    stage: str
    made_from: dict[str, str]
    info: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A stage's result: `arrays` by name, `info` JSON-able, `made_from` name -> hash."""

    stage: str
    made_from: dict[str, str]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of what the artefact was made from: what a later stage names as its own source."""
        return hash_json([SCHEMA_VERSION, self.stage, self.made_from])


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_path(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files below a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`; it replaces `target` if the block ends without an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes a file that only its owner can read
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


class WorkFolder:
    """The folder in which the artefacts of one compression lie, one file per stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def load(self, stage: str, made_from: Mapping[str, str]) -> Artifact | None:
        """The stage's artefact if it is whole, of this schema and made from the same things."""
        path = self.path(stage)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = Header.model_validate_json((file.metadata() or {})["header"])
                if header.schema_version != SCHEMA_VERSION or header.stage != stage:
                    return None
                if header.made_from != dict(made_from):
                    return None
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValidationError, KeyError):
            return None
        return Artifact(stage, header.made_from, arrays, header.info)

    def save(
        self,
        stage: str,
        made_from: Mapping[str, str],
        arrays: Mapping[str, np.ndarray] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Write the stage's artefact, replacing an older one only when the new one is whole."""
        artifact = Artifact(stage, dict(made_from), dict(arrays or {}), dict(info or {}))
        header = Header(
            schema_version=SCHEMA_VERSION,
            stage=stage,
            made_from=artifact.made_from,
            info=artifact.info,
        )
        contiguous = {name: np.ascontiguousarray(a) for name, a in artifact.arrays.items()}
        with atomic_path(self.path(stage)) as temporary:
            save_file(contiguous, temporary, metadata={"header": header.model_dump_json()})
        return artifact

    def build(
        self,
        stage: str,
        made_from: Mapping[str, str],
        make: Callable[[], tuple[Mapping[str, np.ndarray], Mapping[str, Any]]],
    ) -> tuple[Artifact, bool]:
        """The stored artefact if it still holds, else the one `make` computes; and if it was kept.

        make: returns (arrays, info).
        """
        stored = self.load(stage, made_from)
        if stored is not None:
            return stored, True
        arrays, info = make()
        return self.save(stage, made_from, arrays, info), False

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A path for a file that is only needed inside the block."""
        path = self.folder / name
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def discard(self, stage: str) -> None:
        """Delete the stage's artefact if there is one."""
        self.path(stage).unlink(missing_ok=True)
