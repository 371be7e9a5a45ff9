"""A policy file comes from the hub, whole, or one line says why not."""

import os
import shutil
from pathlib import Path

import pytest
from hub_commands import cached, refused, said
from hub_server import Repository

NAME, COMMIT = "some/policy", "1" * 40
FETCH = """
import sys
from actquant_runtime.hub import fetch, parse_hub_name
print(fetch(parse_hub_name(sys.argv[1])).path)
"""
NAMED = """
import sys
from actquant.serve.settings import named_models
print(*named_models(sys.argv[1:]).items())
"""


@pytest.fixture
def repository(hub, policy) -> Repository:
    made = Repository({"main": COMMIT}, {COMMIT: {"policy.gguf": policy.read_bytes()}})
    hub.repositories[NAME] = made
    return made


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub, repository, python):
    """The client writes what came in pieces of 10 MiB."""
    content = os.urandom(30_000_000)
    repository.commits[COMMIT] = {"large.gguf": content}
    hub.cut_after = [25_000_000]
    done = python("-c", FETCH, f"{NAME}:large.gguf")
    assert Path(done.stdout.strip()).read_bytes() == content and hub.cut_after == []
    (asked,) = hub.ranges
    assert 10_000_000 < int(asked.removeprefix("bytes=").removesuffix("-")) <= 25_000_000


def test_a_download_that_ends_leaves_nothing_half(hub, repository, actquant, policy, tmp_path):
    out, home = tmp_path / "out.gguf", tmp_path / "home"
    out.write_bytes(policy.read_bytes())
    hub.cut_after = [1000] * 100
    refused(actquant("pull", NAME, "--out", out, "--json"), "HubError")
    assert len(hub.cut_after) < 100
    assert "policy.gguf" not in {path.name for path in home.rglob("*")}
    assert not [name for name in cached(home) if "incomplete" in name]
    assert out.read_bytes() == policy.read_bytes()
    assert not list(tmp_path.glob(".out*"))
    hub.cut_after.clear()
    said(actquant("pull", NAME, "--out", out, "--json"))


def test_a_damaged_file_of_the_cache_is_fetched_again(hub, repository, actquant, policy, tmp_path):
    path = Path(said(actquant("pull", NAME, "--json"))["path"])
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(actquant("bench", NAME, "--n", "1", "--json"), "EvaluationError")
    assert said(actquant("pull", NAME, "--json"))["path"] == str(path)
    assert path.read_bytes() == policy.read_bytes()


def test_what_the_hub_itself_has_damaged_is_refused(hub, repository, actquant, tmp_path):
    content = bytearray(repository.commits[COMMIT]["policy.gguf"])
    content[-100] ^= 1
    repository.commits[COMMIT]["policy.gguf"] = bytes(content)
    out = tmp_path / "out.gguf"
    assert "damaged" in refused(actquant("pull", NAME, "--out", out, "--json"), "ModelFileError")
    assert not out.exists()
    fetched = [request for request in hub.requests if request.startswith("GET /some/policy/")]
    assert len(fetched) == 1


def test_several_files_are_listed_and_one_is_chosen(hub, repository, actquant, policy):
    files = repository.commits[COMMIT]
    files["small/policy.gguf"] = files["policy.gguf"]
    message = refused(actquant("inspect", NAME, "--json"), "HubError")
    assert "2 GGUFs: policy.gguf, small/policy.gguf" in message
    assert f"{NAME}:policy.gguf" in message and "--file" in message
    found = said(actquant("pull", NAME, "--file", "small/policy.gguf", "--json"))
    assert (found["file"], found["commit"]) == ("small/policy.gguf", COMMIT)
    assert said(actquant("inspect", f"{NAME}:small/policy.gguf", "--json"))["family"] == "smolvla"


def test_what_is_not_there_is_told(hub, repository, actquant):
    message = refused(actquant("pull", f"{NAME}:none.gguf", "--json"), "HubError")
    assert "has no file none.gguf; its GGUFs: policy.gguf" in message
    message = refused(actquant("pull", NAME, "--revision", "v9", "--json"), "HubError")
    assert message == f"{NAME} has no revision v9"
    message = refused(actquant("pull", "some/other", "--json"), "HubError")
    assert "no repository some/other" in message and "may not see it" in message
    message = refused(actquant("pull", "some/other", "--json", HF_TOKEN=""), "HubError")
    assert "private" in message and "HF_TOKEN" in message
    del repository.commits[COMMIT]["policy.gguf"]
    message = refused(actquant("bench", NAME, "--json"), "HubError")
    assert message.startswith(f"{NAME} has no GGUF; a checkpoint becomes one by")


def test_gated_and_private_repositories_want_a_token(hub, repository, actquant):
    repository.gated = True
    message = refused(actquant("pull", NAME, "--json", HF_TOKEN=""), "HubError")
    assert message.startswith(f"{NAME} is gated: ask for access") and "HF_TOKEN" in message
    said(actquant("pull", NAME, "--json"))
    repository.gated, repository.private = False, True
    message = refused(actquant("pull", NAME, "--json", HF_TOKEN="hf_other"), "HubError")
    assert "may not see it" in message and "hf_other" not in message


def test_wrong_words_are_a_wrong_command_line(actquant):
    for words in (["policy.gguf"], ["some/policy.gguf"], ["some/policy@v1", "--revision", "v2"]):
        refused(actquant("pull", *words, "--json"), "UsageError", 2)
    message = refused(actquant("bench", "some/policy.gguf", "--json"), "UsageError", 2)
    assert message == "there is nothing at some/policy.gguf; give a GGUF"


def test_without_the_hub_the_cache_serves(hub, repository, actquant):
    said(actquant("pull", NAME, "--json"))
    hub.requests.clear()
    said(actquant("inspect", NAME, "--json", HF_HUB_OFFLINE="1"))
    said(actquant("inspect", f"{NAME}:policy.gguf", "--json", HF_HUB_OFFLINE="1"))
    message = refused(actquant("inspect", "some/other", "--json", HF_HUB_OFFLINE="1"), "HubError")
    assert "is nothing here, not in the hub's cache, and HF_HUB_OFFLINE is set" in message
    assert hub.requests == []
    nowhere = "http://127.0.0.1:9"
    said(actquant("inspect", NAME, "--json", HF_ENDPOINT=nowhere))
    for name in ("some/other", "some/other:policy.gguf"):
        message = refused(actquant("pull", name, "--json", HF_ENDPOINT=nowhere), "HubError")
        assert "hub cannot be reached" in message


def test_a_local_file_wins(hub, repository, actquant, policy, tmp_path):
    (tmp_path / "here/some").mkdir()
    shutil.copy(policy, tmp_path / "here" / NAME)
    assert said(actquant("inspect", NAME, "--json"))["path"] == NAME
    assert hub.requests == []


def test_every_command_on_a_model_takes_a_name(hub, repository, actquant, python, tmp_path):
    assert said(actquant("verify", NAME, "--json"))["passed"]
    assert said(actquant("bench", NAME, "--n", "1", "--json"))["n"] == 1
    # What they say next is of the file: it does not fit the environment and the arm.
    out = tmp_path / "result.json"
    message = refused(
        actquant("eval", NAME, "--starts", "0", "--jobs", "1", "--out", out, "--json"),
        "EvaluationError",
    )
    assert message.startswith("the policy reads a state of 6 numbers")
    named = python("-c", NAMED, NAME, f"mine={NAME}:policy.gguf")
    assert named.returncode == 0, named.stderr
    assert "('policy', " in named.stdout and "('mine', " in named.stdout
    done = actquant(
        *("deploy", NAME, "--ip", "127.0.0.9", "--task", "x", "--yes", "--json"),
        *("--camera", "scene=zmq:127.0.0.9:5555:scene"),
        *("--camera", "wrist=zmq:127.0.0.9:5555:wrist", "--log", str(tmp_path / "log")),
    )
    assert "the policy's actions are action_0" in refused(done, "DeployError")
