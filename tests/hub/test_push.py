"""A policy file goes to the hub with its card, in one commit, or nothing does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from actquant_runtime import Runtime, golden_observation
from hub_commands import TOKEN, refused, said
from huggingface_hub import ModelCard

from actquant.control.policy import model_sha256
from actquant.evaluation.evaluate import EpisodeRecord, EvaluationResult, Provenance, rate
from actquant.format.model_file import read_model, with_golden, with_metadata

NAME = "some/policy"
ACT = """
import sys
from actquant_runtime import Runtime, golden_observation
runtime = Runtime(sys.argv[1])
observation, noise = golden_observation(runtime.describe(), seed=3)
print(runtime.act(observation, noise=noise).tolist())
"""


@pytest.fixture
def result(policy, tmp_path) -> Path:
    episodes = [EpisodeRecord(task="stack", start=k, success=k != 1, steps=9) for k in range(4)]
    about = Provenance(
        **{"actquant_version": "0", "model": "policy.gguf", "model_sha256": model_sha256(policy)},
        **{"env": "ur3e", "starts": "0:4", "seed": 0, "steps_per_chunk": 6, "grey_camera": None},
        **{"wrong_instruction": False, "jobs": 1, "threads_per_job": 1},
        **{"machine": "", "date": "2026-11-29"},
    )
    overall = rate(episodes)
    found = EvaluationResult(
        tasks={"stack": overall},
        overall=overall,
        latency_ms=None,
        episodes=episodes,
        provenance=about,
    )
    path = tmp_path / "result.json"
    path.write_text(found.model_dump_json())
    return path


def files_of(hub, name=NAME, revision="main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.revisions[revision]]


def card_of(hub, name=NAME, revision="main") -> ModelCard:
    return ModelCard(files_of(hub, name, revision)["README.md"].decode())


def changed(result: Path, **values) -> Path:
    """A copy of a result whose provenance has other values."""
    content = json.loads(result.read_text())
    content["provenance"] |= values
    path = result.with_name("other.json")
    path.write_text(json.dumps(content))
    return path


def test_a_round_trip_gives_the_same_bytes_and_the_same_chunk(
    hub, actquant, python, policy, tmp_path
):
    pushed = said(actquant("push", policy, NAME, "--private", "--message", "first", "--json"))
    repository = hub.repositories[NAME]
    assert repository.private and repository.messages == ["first"]
    assert set(files_of(hub)) == {".gitattributes", "policy.gguf", "README.md"}
    assert files_of(hub)["policy.gguf"] == policy.read_bytes()
    assert pushed["commit"] == repository.revisions["main"]
    assert pushed["name"] == f"{NAME}:policy.gguf" and not pushed["dry_run"]
    assert {file["path"]: file["bytes"] for file in pushed["files"]} == {
        name: len(files_of(hub)[name]) for name in ("policy.gguf", "README.md")
    }

    out = tmp_path / "out.gguf"
    pulled = said(actquant("pull", f"{NAME}@main:policy.gguf", "--out", out, "--json"))
    assert pulled["commit"] == pushed["commit"] and pulled["path"] == str(out)
    assert out.read_bytes() == policy.read_bytes()
    acted = python("-c", ACT, NAME)
    runtime = Runtime(policy)
    observation, noise = golden_observation(runtime.describe(), seed=3)
    assert np.array_equal(json.loads(acted.stdout), runtime.act(observation, noise=noise))
    kept = Path(said(actquant("pull", NAME, "--json"))["path"])
    assert kept.is_relative_to(tmp_path / "home") and kept.read_bytes() == policy.read_bytes()


def test_the_token_is_sent_and_in_no_table(hub, actquant, policy):
    done = actquant("push", policy, NAME)
    assert done.returncode == 0 and hub.url in done.stdout
    written = [
        authorization
        for request, authorization in zip(hub.requests, hub.authorizations, strict=True)
        if request.startswith("POST /api/models") or "repos/create" in request
    ]
    assert len(written) >= 3 and set(written) == {f"Bearer {TOKEN}"}


def test_the_card_says_what_the_file_and_the_evaluation_say(hub, actquant, policy, result):
    said(actquant("push", policy, NAME, "--result", result, "--json"))
    card, model = card_of(hub), read_model(policy)
    assert card.data.library_name == "actquant" and card.data.pipeline_tag == "robotics"
    assert {"robotics", "gguf", "vision-language-action", "smolvla"} <= set(card.data.tags)
    assert card.data.license is None and "declared none" in card.text
    assert card.data.base_model is None and "a folder" in card.text
    (found,) = card.data.eval_results
    assert (found.dataset_type, found.metric_type, found.metric_value) == (
        *("ur3e", "success_rate"),
        0.75,
    )
    low, high = found.metric_args["wilson95"]
    assert found.metric_args["n"] == 4 and low < 0.75 < high
    assert (
        f"| ur3e | 0:4 | all | 4 | 3 | 75.0 % | [{100 * low:.1f}, {100 * high:.1f}] |" in card.text
    )
    assert f"| {model.bits_per_weight:.3f} |" in card.text
    assert "| vision | Q8_0 |" in card.text
    assert "on 2 observations" in card.text and "(n 2)" in card.text
    assert "not measured" in card.text and model_sha256(policy) in card.text
    assert f'Runtime("{NAME}:policy.gguf")' in card.text


def test_the_card_says_how_a_success_was_found(hub, actquant, policy, result):
    timing = {"latency": 200, "mode": "async", "step_ms": 100}
    late = changed(result, timing=timing, perturb={"light": 2})
    said(actquant("push", policy, NAME, "--result", late, "--json"))
    card = card_of(hub)
    told = "perturbed light=2, latency 200 ms, async"
    assert f"| ur3e ({told}) | 0:4 | all | 4 | 3 |" in card.text
    assert card.data.eval_results[0].dataset_name == f"ur3e, starts 0:4 of 1 task(s), {told}"


def test_licence_checkpoint_and_action_error_are_in_the_card(hub, actquant, policy, tmp_path):
    about = read_model(policy).metadata.provenance
    origin = {"checkpoint": "them/big", "checkpoint_revision": "1" * 40}
    error = {"mean": 0.125, "standard_error": 0.0625, "n": 64}
    file = tmp_path / "policy.gguf"
    shutil.copy(policy, file)
    with_metadata(
        file,
        provenance={**about, **origin, "checkpoint_license": "apache-2.0", "action_error": error},
    )
    said(actquant("push", file, NAME, "--json"))
    card = card_of(hub)
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "them/big")
    assert card.data.base_model_relation == "quantized"
    assert f"`them/big` at `{'1' * 40}`" in card.text
    assert "0.1250 ± 0.0625 on 64 held-out frames" in card.text


def test_a_dry_run_writes_the_card_and_asks_the_hub_nothing(hub, actquant, policy, tmp_path):
    file = tmp_path / "policy.gguf"
    shutil.copy(policy, file)
    for _ in range(2):  # the second replaces what is ours
        done = said(actquant("push", file, NAME, "--dry-run", "--json", HF_TOKEN=""))
        assert done["dry_run"] and done["commit"] is None
        assert [each["path"] for each in done["files"]] == ["policy.gguf", "README.md"]
    card = tmp_path / "policy.md"
    assert done["card"] == str(card) and f"{NAME}:policy.gguf" in card.read_text()
    assert done["files"][1]["bytes"] == card.stat().st_size
    assert hub.requests == [] and hub.repositories == {}
    card.write_text("notes of mine")
    message = refused(actquant("push", file, NAME, "--dry-run", "--json"), "UsageError", 2)
    assert "no model card" in message and card.read_text() == "notes of mine"


def damage(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(-100, 2)
        byte = stream.read(1)
        stream.seek(-100, 2)
        stream.write(bytes([byte[0] ^ 1]))


def fail_the_self_test(file: Path) -> None:
    golden = read_model(file).metadata.golden
    golden[0]["actions"][0][0] += 5.0
    with_golden(file, golden)


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (damage, "ModelFileError", "damaged"),
        (fail_the_self_test, "ParityError", "does not compute here"),
        (lambda file: with_golden(file, []), "ModelFileError", "golden"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_before_anything_is_uploaded(
    spoil, kind, message, hub, actquant, policy, tmp_path
):
    file = tmp_path / "policy.gguf"
    shutil.copy(policy, file)
    spoil(file)
    assert message in refused(actquant("push", file, NAME, "--json"), kind)
    assert hub.requests == []


def test_results_of_another_file_and_of_ablations_are_refused(hub, actquant, policy, result):
    other = changed(result, model_sha256="0" * 64)
    message = refused(
        actquant("push", policy, NAME, "--result", result, "--result", other, "--json"),
        "EvaluationError",
    )
    assert str(other) in message and model_sha256(policy)[:12] in message
    grey = changed(result, grey_camera="observation.images.scene")
    message = refused(actquant("push", policy, NAME, "--result", grey, "--json"), "EvaluationError")
    assert "ablation" in message
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy"], "'policy' is no repository"),
        (["some/policy@main"], "is no repository"),
        (["some/policy", "--revision", "a b"], "a branch has"),
    ],
)
def test_names_that_nobody_could_ask_for_are_a_wrong_command_line(
    arguments, message, actquant, policy
):
    told = refused(actquant("push", policy, *arguments, "--json"), "UsageError", 2)
    assert message in told


def test_who_may_not_write_is_told_why(hub, actquant, policy):
    message = refused(actquant("push", policy, NAME, "--json", HF_TOKEN=""), "HubError")
    assert "no token" in message and "HF_TOKEN" in message and hub.requests == []
    message = refused(actquant("push", policy, NAME, "--json", HF_TOKEN="hf_old"), "HubError")
    assert "does not know this token" in message and "hf_old" not in message
    assert hub.repositories == {}


def test_a_public_repository_does_not_become_private_by_a_word(hub, actquant, policy):
    said(actquant("push", policy, NAME, "--json"))
    before = dict(hub.repositories[NAME].revisions)
    message = refused(actquant("push", policy, NAME, "--private", "--json"), "HubError")
    assert "is public" in message and hub.repositories[NAME].revisions == before


def test_a_branch_is_made_and_main_stays(hub, actquant, policy):
    said(actquant("push", policy, NAME, "--revision", "next", "--json"))
    assert set(files_of(hub)) == {".gitattributes"}
    assert files_of(hub, revision="next")["policy.gguf"] == policy.read_bytes()
    assert f"{NAME}@next:policy.gguf" in card_of(hub, revision="next").text
    told = said(actquant("pull", NAME, "--revision", "next", "--json"))
    assert told["commit"] == hub.repositories[NAME].revisions["next"]


def test_an_upload_that_is_cut_off_leaves_nothing_and_can_be_done_again(hub, actquant, policy):
    said(actquant("push", policy, NAME, "--revision", "other", "--json"))
    before = dict(hub.repositories[NAME].revisions)
    hub.objects.clear()
    hub.cut_after = [100_000] * 100
    message = refused(actquant("push", policy, NAME, "--json"), "HubError")
    assert "hub cannot be reached" in message
    assert len(hub.cut_after) < 100  # it was cut off indeed
    assert hub.repositories[NAME].revisions == before and hub.objects == {}
    hub.cut_after.clear()
    said(actquant("push", policy, NAME, "--json"))
    assert files_of(hub)["policy.gguf"] == policy.read_bytes()


def test_a_card_of_ones_own_keeps_what_it_says_and_each_file_has_its_part(
    hub, actquant, policy, result, tmp_path
):
    said(actquant("push", policy, NAME, "--result", result, "--json"))
    card = card_of(hub)
    card.text = card.text.replace("# policy\n", "# Ours\n\nIt stacks cubes.\n", 1)
    card.data.license, card.data.tags = "mit", ["ours", *card.data.tags]
    files_of(hub)["README.md"] = str(card).encode()
    second = tmp_path / "second.gguf"
    shutil.copy(policy, second)
    with_metadata(second, provenance={**read_model(policy).metadata.provenance, "date": "later"})
    said(actquant("push", second, NAME, "--json"))
    said(actquant("push", policy, NAME, "--json"))  # the result is of the push before
    found = card_of(hub)
    assert "# Ours\n\nIt stacks cubes.\n" in found.text
    assert found.data.license == "mit" and found.data.tags == card.data.tags
    for name in ("policy.gguf", "second.gguf"):
        assert found.text.count(f"## {name}\n") == 1
        assert files_of(hub)[name] != b""
    assert not found.data.eval_results
    message = refused(actquant("pull", NAME, "--json"), "HubError")
    assert "2 GGUFs: policy.gguf, second.gguf" in message and "--file" in message
    assert said(actquant("pull", NAME, "--file", "second.gguf", "--json"))["file"] == "second.gguf"


def test_what_somebody_else_commits_meanwhile_is_not_undone(hub, actquant, policy):
    said(actquant("push", policy, NAME, "--json"))
    repository, theirs = hub.repositories[NAME], "2" * 40

    def commit() -> None:
        repository.commits[theirs] = {**files_of(hub), "README.md": b"# Theirs\n"}
        repository.revisions["main"] = theirs

    hub.before_commit = commit
    message = refused(actquant("push", policy, NAME, "--message", "x", "--json"), "HubError")
    assert "changed by somebody else" in message and repository.revisions["main"] == theirs


def test_a_card_whose_front_matter_is_broken_is_left_alone(hub, actquant, policy):
    said(actquant("push", policy, NAME, "--json"))
    files_of(hub)["README.md"] = b"---\ntags: [\n---\n# Mine\n"
    message = refused(actquant("push", policy, NAME, "--json"), "HubError")
    assert "front matter of README.md" in message
    assert files_of(hub)["README.md"].endswith(b"# Mine\n")
