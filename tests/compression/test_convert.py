"""Conversion without a dataset: streamed weights in, a proved file out."""

import functools
import json
import shutil
from pathlib import Path

import format_page
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_policies import CAMERAS, build_tiny_smolvla
from tokenizers import Tokenizer

import actquant.compression.pipeline as pipeline
from actquant.cli import tables
from actquant.common.errors import BudgetError, CheckpointError, ParityError
from actquant.compression.pipeline import compress
from actquant.compression.proof import LIMITS
from actquant.fidelity.reference_runner import ReferenceRunner
from actquant.format.golden import golden_input
from actquant.format.model_file import read_model
from actquant.policies import load_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return build_tiny_smolvla(tmp_path_factory.mktemp("policy") / "tiny", hidden=128)


@pytest.fixture(scope="module", autouse=True)
def _captured_once():
    """Loading and capturing the same checkpoint again would only cost time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "load_policy", functools.cache(load_policy))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_policy(checkpoint, control_rate_hz=10)


@pytest.mark.parametrize(
    ("recipe", "types"),
    [
        ("f32", {"F32"}),
        ("f16", {"F32", "F16"}),
        ("bf16", {"F32", "BF16"}),
        ("q8_0", {"F32", "Q8_0"}),
    ],
)
def test_uniform_recipes(recipe, types, checkpoint, loaded, tmp_path):
    out = tmp_path / "m.gguf"
    report = compress(checkpoint, out, recipe=recipe, control_rate_hz=10)
    model = read_model(out)
    assert {t.type for t in model.tensors.values()} - {"I64", "I8"} == types
    assert report.file_bytes == out.stat().st_size
    assert report.program_error.worst < LIMITS.get(recipe.upper(), 1e-4)
    assert report.file_error is not None and 0 < report.file_error.worst < 0.1
    for golden in model.metadata.golden:
        given = golden_input(
            loaded.interface, golden["seed"], golden["prompt"], golden["masked_cameras"]
        )
        expected = loaded.family.act(loaded, given.observation, given.noise)
        np.testing.assert_allclose(golden["actions_reference"], expected, rtol=1e-4, atol=1e-5)
        assert np.abs(np.array(golden["actions"]) - expected).max() < 0.2
    assert model.metadata.provenance["recipe"] == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_rtn_meets_its_budget_exactly_and_reports_every_error(checkpoint, tmp_path):
    out = tmp_path / "m.gguf"
    with pytest.raises(BudgetError) as caught:
        compress(checkpoint, out, recipe="rtn", bpw=0.5, control_rate_hz=10)
    minimum = float(str(caught.value).split("feasible minimum is ")[1].split(",")[0])
    report = compress(checkpoint, out, recipe="rtn", bpw=minimum + 1, control_rate_hz=10)
    assert report.whole_file_bpw <= minimum + 1
    assert report.program_error.worst < 1e-4
    stored = read_model(out).metadata.allocation
    assert stored == {
        t.name: t.model_dump(include={"type", "bits", "score", "error"}) for t in report.tensors
    }
    assert all(0 < t.error < 0.2 for t in report.tensors)
    lowest = compress(
        checkpoint, tmp_path / "low.gguf", recipe="rtn", bpw=minimum, control_rate_hz=10,
        verify="none",
    )  # fmt: skip
    assert lowest.whole_file_bpw <= minimum and lowest.file_error is None
    assert read_model(tmp_path / "low.gguf").metadata.golden == []


def test_its_provenance_is_the_documented_one(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A policy\n")
    compress(copy, tmp_path / "m.gguf", recipe="f16", control_rate_hz=10, verify="none")
    about = read_model(tmp_path / "m.gguf").metadata.provenance
    assert about["checkpoint_license"] == "apache-2.0"
    found = set(about)
    documented = set(format_page.json_keys(0))
    with_data = {"dataset", "dataset_sha256", "calibration_episodes", "held_out_episodes"}
    with_data |= {"renames", "action_error"}
    assert found == documented - with_data - {"checkpoint_revision"}


def test_the_weights_in_the_file_are_those_of_the_checkpoint(checkpoint, loaded, tmp_path):
    compress(checkpoint, tmp_path / "m.gguf", recipe="f32", control_rate_hz=10, verify="none")
    model = read_model(tmp_path / "m.gguf")
    names = model.metadata.provenance["tensor_names"]
    parameters = dict(loaded.policy.named_parameters())
    for short, name in names.items():
        found = torch.from_numpy(model.load(short))
        assert torch.equal(found, parameters[name].reshape(found.shape)), name
    runner = ReferenceRunner.from_file(tmp_path / "m.gguf")
    given = golden_input(loaded.interface, 7, "push the red block")
    expected = loaded.family.act(loaded, given.observation, given.noise)
    found = runner.act(given.observation, noise=given.noise)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_quick_verification_masks_a_camera_and_changes_the_length_of_the_prompt(
    checkpoint, loaded, tmp_path
):
    compress(checkpoint, tmp_path / "m.gguf", recipe="f16", control_rate_hz=10)
    first, second = read_model(tmp_path / "m.gguf").metadata.golden
    assert (first["masked_cameras"], second["masked_cameras"]) == ([], [CAMERAS[0]])
    tokenizer = Tokenizer.from_str(loaded.tokenizer_json)
    lengths = {len(tokenizer.encode(golden["prompt"]).ids) for golden in (first, second)}
    assert len(lengths) == 2


def test_the_summary_always_says_how_much_was_not_fused(checkpoint, tmp_path):
    report = compress(
        checkpoint, tmp_path / "m.gguf", recipe="f16", control_rate_hz=10, verify="none"
    )
    what, value = (list(map(str, c.cells)) for c in tables.compression(report)[0].columns)
    assert dict(zip(what, value, strict=True))["unfused"] == "0"
    report.capture.stages[0].unfused.update(sdpa=2, glu=1)
    summary, *_, warning = tables.compression(report)
    what, value = (list(map(str, column.cells)) for column in summary.columns)
    assert dict(zip(what, value, strict=True))["unfused"] == "3"
    assert "2 × sdpa, 1 × glu" in warning


def test_full_verification_stores_sixteen_golden_inputs(checkpoint, tmp_path):
    out = tmp_path / "m.gguf"
    compress(checkpoint, out, recipe="f16", control_rate_hz=10, verify="full")
    assert len(read_model(out).metadata.golden) == 16


def test_a_file_that_does_not_agree_does_not_appear(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "F16", 1e-9)
    with pytest.raises(ParityError, match="does not compute what PyTorch computes"):
        compress(checkpoint, tmp_path / "m.gguf", recipe="f16", control_rate_hz=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"recipe": "paper"}, BudgetError, "paper needs a dataset; without: rtn, f32, f16"),
        ({"recipe": "rtn"}, BudgetError, "needs a budget"),
        ({"recipe": "best"}, BudgetError, "known: actquant, paper, gptq, awq, imatrix, rtn"),
        ({"recipe": "f16", "verify": "hard"}, ParityError, "known: none, quick, full"),
        ({"recipe": "f16"}, CheckpointError, "does not say its control rate"),
        ({"recipe": "f16", "action_names": ("x",)}, CheckpointError, "7 elements, 1 names given"),
    ],
)
def test_what_is_missing_is_said_before_anything_slow(given, error, message, checkpoint, tmp_path):
    with pytest.raises(error, match=message):
        compress(checkpoint, tmp_path / "m.gguf", **given)
    assert not list(tmp_path.iterdir())


def test_a_repository_of_the_hub_is_found_in_its_cache(checkpoint, tmp_path, monkeypatch):
    """The cache is laid out as the hub's own client does it."""
    import huggingface_hub.constants as constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub"
    repository = cache / "models--some--tiny-policy"
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(checkpoint)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for reference in ("some/tiny-policy", f"some/tiny-policy@{commit}"):
        loaded = load_policy(reference, control_rate_hz=10)
        assert (loaded.name, loaded.revision) == ("some/tiny-policy", commit)
    compress(
        "some/tiny-policy", tmp_path / "m.gguf", recipe="f16", control_rate_hz=10, verify="none"
    )
    metadata = read_model(tmp_path / "m.gguf").metadata
    assert metadata.name == "tiny-policy"
    assert metadata.provenance["checkpoint"] == "some/tiny-policy"
    assert metadata.provenance["checkpoint_revision"] == commit
    with pytest.raises(CheckpointError, match="some/other is nothing here, not in"):
        load_policy("some/other")
    with pytest.raises(CheckpointError, match="some/tiny-policy@v2 is nothing here"):
        load_policy("some/tiny-policy@v2")
    with pytest.raises(CheckpointError, match="is no folder, and no repository"):
        load_policy("nothing/at/all")


def test_shards_convert_to_the_same_file(checkpoint, tmp_path):
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for file in checkpoint.iterdir():
        if file.name != "model.safetensors":
            (sharded / file.name).symlink_to(file)
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, sharded / file)
    index = {name: file for file, members in parts.items() for name in members}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    given = {"recipe": "q8_0", "control_rate_hz": 10, "verify": "none"}
    compress(checkpoint, tmp_path / "one.gguf", **given)
    compress(sharded, tmp_path / "two.gguf", **given)
    one, two = (read_model(tmp_path / f"{name}.gguf") for name in ("one", "two"))
    for name in one.tensors:
        assert np.array_equal(one.load(name), two.load(name))
