"""A policy file with its model card to a repository of the hub, in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actquant_runtime.hub import LOG_IN, HubError, HubName, parse_hub_name, told_by_hub
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RemoteEntryNotFoundError
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import EvaluationError, UsageError
from actquant.common.files import write_text
from actquant.common.tables import NOT_COMPARABLE
from actquant.control.policy import model_sha256
from actquant.evaluation.inspection import inspect_model
from actquant.evaluation.result import EvaluationResult
from actquant.fidelity.self_test import verify
from actquant.format.model_file import read_model
from actquant.hub.card import CardFacts, make_card

CARD = "README.md"


class PushedFile(BaseModel):
    """A file of a commit: its path in the repository."""

    model_config = ConfigDict(extra="forbid")

    path: str
    bytes: int


class PushReport(BaseModel):
    """What was uploaded, or would be.

    name: what `actquant pull` and the commands that take a MODEL call the file; sha256: of the
    GGUF; commit, url: of the commit, None for a dry run; card: where a dry run wrote the card.
    """

    model_config = ConfigDict(extra="forbid")

    repository: str
    revision: str
    name: str
    sha256: str
    files: list[PushedFile]
    dry_run: bool
    commit: str | None = None
    url: str | None = None
    card: str | None = None


def target_name(model: Path, repository: str, revision: str | None) -> HubName:
    """Returns what the file will be called. Raises UsageError if nobody could ask for that."""
    found = parse_hub_name(repository)
    if found is None or found != HubName(repository):
        raise UsageError(f"{repository!r} is no repository of the hub; give organisation/name")
    name = HubName(repository, revision, model.name)
    if parse_hub_name(str(name)) != name:
        raise UsageError(
            f"{name}: a branch has letters, digits and -_./ alone, and the file's name ends in "
            ".gguf and has no colon"
        )
    return name


def push(
    model: Path,
    repository: str,
    *,
    results: Sequence[Path] = (),
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    card: Path | None = None,
) -> PushReport:
    """Uploads a policy file and its model card; both appear in one commit, or nothing does.

    results: of `actquant eval`, for the card. private: who is not invited does not see the
    repository; revision: the branch, made where it is not there. card: write the card there and
    upload nothing (a dry run), without a word to the hub.

    Raises ParityError or ModelFileError for a file that fails its self-test or is damaged,
    EvaluationError for a result of another file, HubError if the hub does not take it.
    """
    target = target_name(model, repository, revision)
    if card is None and get_token() is None:
        raise HubError(f"there is no token to upload to {repository} with: {LOG_IN}")
    facts = _facts(model, target, results)
    made = PushReport(
        repository=repository,
        revision=revision or "main",
        name=str(target),
        sha256=facts.sha256,
        files=[],
        dry_run=card is not None,
    )
    if card is not None:
        text = _card_text(facts, None)
        write_text(card, text)
        made.card = str(card)
        made.files = _files(model, text)
        return made
    with told_by_hub(target):
        return _upload(model, facts, made, private=private, message=message)


def _facts(model: Path, target: HubName, results: Sequence[Path]) -> CardFacts:
    """Returns what the card says; refuses what must not be uploaded."""
    sha256 = model_sha256(model)
    shown = [_result(path, model, sha256) for path in results]
    verification = verify(model)  # opens it, which looks at all checksums
    verification.raise_if_failed()
    return CardFacts(
        name=target,
        sha256=sha256,
        observation_steps=read_model(model).metadata.interface.observation_steps,
        inspection=inspect_model(model),
        verification=verification,
        results=shown,
    )


def _result(path: Path, model: Path, sha256: str) -> EvaluationResult:
    result = EvaluationResult.load(path)
    about = result.provenance
    if about.model_sha256 != sha256:
        raise EvaluationError(
            f"{path} is of {about.model} with SHA-256 {about.model_sha256[:12]}…, not of {model} "
            f"with {sha256[:12]}…; evaluate this file"
        )
    if about.grey_camera is not None or about.wrong_instruction:
        raise EvaluationError(
            f"{path} is of an ablation (grey camera or wrong instruction), which says nothing of "
            "the policy's success; evaluate it without"
        )
    if about.marks:
        raise EvaluationError(
            f"{path} was found with {', '.join(about.marks)}: {NOT_COMPARABLE}, and the hub would "
            "do so"
        )
    return result


def _upload(
    model: Path, facts: CardFacts, made: PushReport, *, private: bool, message: str | None
) -> PushReport:
    api, target = HfApi(), facts.name
    repository = target.repository
    api.create_repo(repository, private=True if private else None, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise HubError(
            f"{repository} is there already and is public; make it private in its settings, or "
            "leave --private away"
        )
    if target.revision is not None:
        api.create_branch(repository, branch=target.revision, exist_ok=True)
    head = api.model_info(repository, revision=target.revision).sha
    text = _card_text(facts, _existing_card(api, repository, head))
    commit = api.create_commit(
        repository,
        [
            CommitOperationAdd(model.name, model),
            CommitOperationAdd(CARD, text.encode()),
        ],
        commit_message=message or f"{model.name} by actquant push",
        revision=target.revision,
        parent_commit=head,
    )
    return made.model_copy(
        update={
            "files": _files(model, text),
            "commit": commit.oid,
            "url": str(commit.commit_url),
        }
    )


def _card_text(facts: CardFacts, existing: str | None) -> str:
    return str(make_card(facts, existing)).rstrip() + "\n"


def _existing_card(api: HfApi, repository: str, commit: str | None) -> str | None:
    try:
        path = api.hf_hub_download(repository, CARD, revision=commit)
    except RemoteEntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")


def _files(model: Path, card: str) -> list[PushedFile]:
    return [
        PushedFile(path=model.name, bytes=model.stat().st_size),
        PushedFile(path=CARD, bytes=len(card.encode())),
    ]
