"""A policy file by its name on the Hugging Face hub, through the hub's own client and its cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actquant_runtime._core import ModelFileError

_NAME = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+?))?(:(?P<file>[^:\0]+\.gguf))?",
    re.ASCII,
)
ENDING = ".gguf"
INSTALL = "pip install 'actquant[hub]'"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


class HubError(ModelFileError):
    """The hub does not give, or take, what it is asked for; the message says what to do."""


@dataclass(frozen=True)
class HubName:
    """A policy file on the hub.

    revision: a branch, a tag or a commit, None for the main branch; file: its path in the
    repository, None for the only GGUF there.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repository}{revision}" + ("" if self.file is None else f":{self.file}")


@dataclass(frozen=True)
class HubFile:
    """A policy file in the hub's cache; commit: of the repository it was taken from."""

    name: HubName
    path: Path
    commit: str


def parse_hub_name(reference: str | Path) -> HubName | None:
    """Parses `organisation/name[@revision][:FILE.gguf]`.

    Returns None for any other text, and for one that ends in .gguf without a colon, which is a
    path.
    """
    found = _NAME.fullmatch(str(reference))
    if found is None or (found["file"] is None and str(reference).endswith(ENDING)):
        return None
    return HubName(found["repository"], found["revision"], found["file"])


def find_model(reference: str | Path) -> str | Path:
    """Returns the path of a policy file: what it is given, or what it fetched from the hub.

    A local path always wins. Where there is nothing, `organisation/name[@revision][:FILE.gguf]` is
    downloaded into the hub's cache, unless it is there already; with HF_HUB_OFFLINE=1 the cache
    alone is looked at.

    Raises HubError if the file cannot be had.
    """
    name = None if os.path.lexists(reference) else parse_hub_name(reference)
    return reference if name is None else fetch(name).path


def fetch(name: HubName, *, again: bool = False) -> HubFile:
    """Downloads a file into the hub's cache, unless it is there.

    again: download it though it is there. Raises HubError if there is no such file, several to
    choose from, or no way to get it.
    """
    with told_by_hub(name):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        file = name.file or _only_file(name)
        try:
            path = hf_hub_download(
                name.repository, file, revision=name.revision, force_download=again
            )
        except RemoteEntryNotFoundError as error:
            there = ", ".join(_files(name)) or "none"
            raise HubError(
                f"{HubName(name.repository, name.revision)} has no file {file}; its GGUFs: {there}"
            ) from error
    snapshot = Path(path).parents[file.count("/")]
    return HubFile(HubName(name.repository, name.revision, file), Path(path), snapshot.name)


def _only_file(name: HubName) -> str:
    files = _files(name)
    if not files:
        raise HubError(
            f"{name} has no GGUF; a checkpoint becomes one by `actquant compress {name}`"
        )
    if len(files) > 1:
        chosen = HubName(name.repository, name.revision, files[0])
        raise HubError(
            f"{name} has {len(files)} GGUFs: {', '.join(files)}; say which, e.g. {chosen} "
            f"(`actquant pull` takes it as --file {files[0]}, too)"
        )
    return files[0]


def _files(name: HubName) -> list[str]:
    """Returns the GGUFs of a repository; those in the cache where the hub cannot be asked."""
    from httpx import TransportError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        found = HfApi().list_repo_files(name.repository, revision=name.revision)
    except (OfflineModeIsEnabled, TransportError):
        folder = Path(
            snapshot_download(
                name.repository,
                revision=name.revision,
                allow_patterns=[],  # no file need be there
                local_files_only=True,
            )
        )
        found = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{ENDING}")]
    return sorted(file for file in found if file.endswith(ENDING))


@contextmanager
def told_by_hub(name: HubName) -> Iterator[None]:
    """Turns what the hub's client raises inside the block into HubError, in one line.

    Also where there is no client: it is no part of a core install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise HubError(
            f"{name} is no file here; to reach the Hugging Face hub: {INSTALL}"
        ) from error
    except HubError:
        raise
    except Exception as error:
        from httpx import HTTPError

        if not isinstance(error, HTTPError | OSError | RuntimeError | ValueError):
            raise
        raise HubError(explain_hub_error(error, name)) from error


def explain_hub_error(error: BaseException, name: HubName) -> str:
    """Returns one line on an error of the hub's client, with what to do about it."""
    from httpx import TransportError
    from huggingface_hub import errors, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    repository, known = name.repository, get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        remedy = "ask for access on its page" + ("" if known else f", then {LOG_IN}")
        return f"{repository} is gated: {remedy}"
    if isinstance(error, errors.RepositoryNotFoundError):
        hidden = "this token may not see it" if known else f"it is private: {LOG_IN}"
        return f"there is no repository {repository} on the hub, or {hidden}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {name.revision or 'main'}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            why = "does not know this token" if known else "wants to know who asks"
            if status == 403:
                why = f"does not let this token do that to {repository}"
            return f"the hub {why} ({_first_line(error)}); {LOG_IN}"
        if status == 412:
            return f"{repository} was changed by somebody else meanwhile; do it again"
        return f"the hub answered {status} for {name}: {_first_line(error)}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        nowhere = f"{name} is nothing here, not in the hub's cache, and"
        if HF_HUB_OFFLINE:
            return f"{nowhere} HF_HUB_OFFLINE is set"
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            return explain_hub_error(cause, name)
        return f"{nowhere} the hub cannot be reached"
    if isinstance(error, TransportError):
        return f"the hub cannot be reached for {name}: {_first_line(error)}"
    if error.__cause__ is not None:  # e.g. of a thread that uploads
        return explain_hub_error(error.__cause__, name)
    return f"{name}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    """Returns the first line of a message that is not empty, without its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
