"""A repository of the hub is downloaded by the hub's own client, from a server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, serving

from actquant.weights.hub import declared_license

REPOSITORY = "some/tiny-policy"
MAIN, TAGGED = "1" * 40, "2" * 40
READ = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"weights",
    "action_head--100_checkpoint.pt": b"head",
    "tokenizer.model": b"pieces",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ x }}",
    "vlm/config.json": b'{"a": 1}',
    "README.md": b"# About",
}
LEFT = {
    "optimizer.bin": b"moments",
    "policy.gguf": b"GGUF",
    "training_state/optimizer.safetensors": b"moments",
    "checkpoints/000100/model.safetensors": b"older",
    "runs/events.json": b"{}",
}
FIND = """
import json, sys
from actquant.common.errors import CheckpointError
from actquant.weights.hub import find_checkpoint
try:
    found = find_checkpoint(sys.argv[1])
    print(json.dumps({"folder": str(found.folder), "name": found.name, "revision": found.revision}))
except CheckpointError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub():
    revisions = {"main": MAIN, "v2": TAGGED}
    with serving(HubServer(REPOSITORY, revisions, {**READ, **LEFT})) as server:
        yield server


def find(reference: str, url: str, home: Path) -> dict:
    """In a process of its own: the client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_ETAG_TIMEOUT": "30"}
    answer = subprocess.run(
        [sys.executable, "-c", FIND, reference],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def content(folder: str) -> dict[str, bytes]:
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("reference", "commit"),
    [(REPOSITORY, MAIN), (f"{REPOSITORY}@v2", TAGGED), (f"{REPOSITORY}@{TAGGED}", TAGGED)],
)
def test_what_a_policy_is_loaded_from_is_downloaded_and_nothing_else(
    hub, tmp_path, reference, commit
):
    found = find(reference, hub.url, tmp_path)
    assert (found["name"], found["revision"]) == (REPOSITORY, commit)
    assert content(found["folder"]) == READ
    fetched = {request.split("/resolve/")[1] for request in hub.requests if "/resolve/" in request}
    assert fetched == {f"{commit}/{name}" for name in READ}


def test_what_was_downloaded_is_not_fetched_again_and_serves_without_the_hub(hub, tmp_path):
    first = find(REPOSITORY, hub.url, tmp_path)
    hub.requests.clear()
    assert find(REPOSITORY, hub.url, tmp_path) == first
    assert not any(request.startswith("GET /some/") for request in hub.requests)
    url = hub.url
    hub.shutdown()
    hub.server_close()
    assert find(REPOSITORY, url, tmp_path) == first


def test_a_repository_that_is_not_there_is_told(hub, tmp_path):
    error = find("some/other-policy", hub.url, tmp_path)["error"]
    assert error.startswith("there is no repository some/other-policy on the hub, or ")
    asked = [request for request in hub.requests if "other-policy" in request]
    assert asked == ["GET /api/models/some/other-policy/revision/main"]


def test_a_revision_that_is_not_there_is_told(hub, tmp_path):
    error = find(f"{REPOSITORY}@v3", hub.url, tmp_path)["error"]
    assert error == f"{REPOSITORY} has no revision v3"


def test_a_hub_that_cannot_be_reached_is_said_to_be_so(hub, tmp_path):
    url = hub.url
    hub.shutdown()
    hub.server_close()
    error = find(REPOSITORY, url, tmp_path)["error"]
    assert error == (
        f"{REPOSITORY} is nothing here, not in the hub's cache, and the hub cannot be reached"
    )


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: apache-2.0\n---\n# A policy\n", "apache-2.0"),
        ("# A policy\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- license\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_what_the_card_declares(card, license, tmp_path):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert declared_license(tmp_path) == license
