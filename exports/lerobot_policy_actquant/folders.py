"""Folders as LeRobot loads policies from, and which GGUF is meant by what is none."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from actquant_runtime.hub import ENDING, HubError, HubName, fetch, parse_hub_name

from .configuration_actquant import ActquantConfig, CompressedConfig

CONFIG = "config.json"


def find_gguf(reference: str | Path, revision: str | None = None) -> Path | None:
    """Returns the GGUF that a name stands for where LeRobot could not load it.

    That is a file, a folder without `config.json` that holds one GGUF, or a name on the hub that
    says which file or revision (`org/name@v2:FILE.gguf`). Returns None for any other.

    Raises FileNotFoundError for a GGUF that is not there, ValueError for a folder with several,
    actquant_runtime.hub.HubError if the hub does not give the file.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return None if (path / CONFIG).exists() else _only_gguf(path)
    if path.is_file():
        return path if path.suffix == ENDING else None
    name = parse_hub_name(reference)
    if name is None:
        if path.suffix == ENDING:
            raise FileNotFoundError(f"there is no model file {path.absolute()}")
        return None
    if name.file is None and name.revision is None:
        return None
    return fetch(HubName(name.repository, name.revision or revision, name.file)).path


def find_gguf_of_repository(reference: str | Path, revision: str | None = None) -> Path | None:
    """Returns the only GGUF of a hub's repository that has no `config.json`; None if the name is
    not one of a repository.

    Raises FileNotFoundError if there is not one, or the hub does not give it.
    """
    name = None if Path(reference).exists() else parse_hub_name(reference)
    if name is None:
        return None
    try:
        return fetch(HubName(name.repository, revision)).path
    except HubError as error:
        raise FileNotFoundError(
            f"{reference} is no policy of LeRobot's (no {CONFIG} was found), and none of "
            f"actquant's: {error}"
        ) from error


def folder_of(file: Path) -> Path:
    """Returns a folder from which LeRobot loads the policy in a GGUF; see `temporary_folder`."""
    return temporary_folder(ActquantConfig(model=str(file.absolute())))


def temporary_folder(config: CompressedConfig) -> Path:
    """Returns a folder of this process with `config.json` and the processors; LeRobot applies
    `--rename_map` only to processors that it reads from files. It is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="actquant-lerobot-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save(config, folder)
    return folder


def save(config: CompressedConfig, folder: Path, **changes: Any) -> None:
    """Writes `config.json`, with `changes`, and the processors."""
    from .processor_actquant import make_actquant_pre_post_processors

    saved = copy.copy(config)
    for name, value in {**changes, "pretrained_path": None, "pretrained_revision": None}.items():
        setattr(saved, name, value)
    saved._save_pretrained(folder)
    for pipeline in make_actquant_pre_post_processors(saved):
        pipeline.save_pretrained(folder)


def _only_gguf(folder: Path) -> Path | None:
    files = sorted(folder.glob(f"*{ENDING}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{folder} holds {len(files)} GGUFs: {names}; name one: {files[0]}")
    return files[0] if files else None
