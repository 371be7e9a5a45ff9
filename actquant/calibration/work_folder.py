"""Versioned artefacts in one work folder, so that every stage can be stopped, resumed, inspected.

One artefact is what one stage found for one item, usually a tensor: a safetensors file with arrays
and, in its metadata, a JSON header with the schema version, the stage, what it was made from (name
-> hash) and the stage's own small results. A file is written under a temporary name and renamed, so
a reader sees a whole artefact or none.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from actquant.common.errors import OutputError
from actquant.common.files import atomic_path
from actquant.common.interrupts import look_again

SCHEMA_VERSION = 3

Contents = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
"""(arrays by name, JSON-able results)"""


class Header(BaseModel):
    """What an artefact says about itself; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    stage: str
    item: str
    made_from: dict[str, str]
    info: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A stage's result for one item: `arrays` by name, `info` JSON-able."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class WorkFolder:
    """The folder in which the artefacts of one compression lie: a folder a stage, a file an item.

    made_from, of all methods: name -> hash of everything the artefact depends on. One that was made
    from anything else does not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: str, item: str) -> Path:
        return self.folder / stage / f"{item}.safetensors"

    def holds(self, stage: str, item: str, made_from: Mapping[str, str]) -> bool:
        """Returns whether there is a whole artefact of this schema, made from the same things."""
        return self._header(stage, item, made_from) is not None

    def load(self, stage: str, item: str, made_from: Mapping[str, str]) -> Artifact | None:
        """Returns the artefact if it `holds`."""
        header = self._header(stage, item, made_from)
        if header is None:
            return None
        try:
            with safe_open(str(self.path(stage, item)), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            return None
        return Artifact(arrays, header.info)

    def _header(self, stage: str, item: str, made_from: Mapping[str, str]) -> Header | None:
        path = self.path(stage, item)
        if not path.is_file():
            return None
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = Header.model_validate_json((file.metadata() or {})["header"])
        except (SafetensorError, ValidationError, KeyError):
            return None
        named = (header.schema_version, header.stage, header.item, header.made_from)
        return header if named == (SCHEMA_VERSION, stage, item, dict(made_from)) else None

    def save(
        self, stage: str, item: str, made_from: Mapping[str, str], contents: Contents
    ) -> Artifact:
        """Writes an artefact, replacing an older one only when the new one is whole.

        Raises OutputError if it cannot be written.
        """
        artifact = Artifact(dict(contents[0]), dict(contents[1]))
        header = Header(
            schema_version=SCHEMA_VERSION,
            stage=stage,
            item=item,
            made_from=dict(made_from),
            info=artifact.info,
        )
        contiguous = {name: np.ascontiguousarray(a) for name, a in artifact.arrays.items()}
        try:
            with atomic_path(self.path(stage, item)) as temporary:
                save_file(contiguous, temporary, metadata={"header": header.model_dump_json()})
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"{self.path(stage, item)} cannot be written: {error}; what is finished is kept"
            ) from error
        return artifact

    def build(
        self, stage: str, item: str, made_from: Mapping[str, str], make: Callable[[], Contents]
    ) -> tuple[Artifact, bool]:
        """Returns the stored artefact, or the one that `make` computes, and whether it was kept."""
        look_again()
        stored = self.load(stage, item, made_from)
        if stored is not None:
            return stored, True
        return self.save(stage, item, made_from, make()), False

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yields a path for a file that is only needed inside the block."""
        path = self.folder / name
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def discard(self, stage: str, item: str) -> None:
        """Deletes an artefact if there is one."""
        self.path(stage, item).unlink(missing_ok=True)
