import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import format_page
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_policies import build_tiny_smolvla
from toy_policy import make_dataset

import actquant.compression.pipeline as pipeline
import actquant.compression.proof as proof
from actquant.calibration.dataset import load_for_dataset
from actquant.calibration.frames import calibrate
from actquant.common.errors import (
    BudgetError,
    CheckpointError,
    DatasetError,
    ParityError,
    UsageError,
)
from actquant.compression.contents import FileContents
from actquant.compression.pipeline import compress
from actquant.compression.report import CompressionReport
from actquant.fidelity.action_error import held_out_action_error, measure_action_error
from actquant.format.model_file import read_model
from actquant.format.tensor_types import FORMATS
from actquant.recipes.settings import CompressionSettings
from actquant.tuning.settings import TuningSettings

SMALL = CompressionSettings(n_frames=8, n_held_out=4, draws=1, tuning=TuningSettings(minutes=0))
TUNED = replace(SMALL, tuning=TuningSettings(steps=12, minutes=60, batch_size=4, at_once=2))


@pytest.fixture(scope="module", autouse=True)
def _captured_once():
    """Loading and capturing the same checkpoint again would only cost time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "load_for_dataset", functools.cache(load_for_dataset))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_smolvla(tmp_path_factory.mktemp("policy") / "tiny", hidden=128)


@pytest.fixture(scope="module")
def made(checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory):
    """The paper's recipe half a bit above the minimum, with its work folder."""
    out = tmp_path_factory.mktemp("out") / "model.gguf"
    with pytest.raises(BudgetError) as caught:
        compress(checkpoint, out, dataset=dataset, bpw=0.5, recipe="paper", settings=SMALL)
    assert not out.exists()
    minimum = float(str(caught.value).split("feasible minimum is ")[1].split(",")[0])
    report = compress(
        checkpoint,
        out,
        dataset=dataset,
        bpw=minimum + 0.5,
        recipe="paper",
        work=f"{out}.work",
        settings=SMALL,
    )
    return report, minimum


def test_the_file_is_within_the_budget_and_says_what_it_is(made):
    report, minimum = made
    path = Path(report.path)
    assert report.file_bytes == path.stat().st_size
    assert report.whole_file_bpw == 8 * report.file_bytes / report.parameter_count
    slack = (report.bpw_budget - report.whole_file_bpw) * report.parameter_count / 8
    assert 0 <= slack < 0.02 * report.file_bytes
    model = read_model(path)
    assert model.metadata.parameter_count == report.parameter_count
    assert model.quantized_bits_per_weight == pytest.approx(report.quantized_tensor_bpw)
    assert {n: v["type"] for n, v in model.metadata.allocation.items()} == {
        t.name: t.type for t in report.tensors
    }
    provenance = model.metadata.provenance
    error = provenance["action_error"]
    assert error["n"] == 4 and error["mean"] == pytest.approx(report.held_out.to_reference, 1e-5)
    assert provenance["recipe"] == "paper" and len(provenance["dataset_sha256"]) == 64
    assert CompressionReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["held_out"]["n_frames"] == 4
    assert not list(path.parent.glob(".*"))


def test_its_json_is_the_documented_one(made):
    report, _ = made
    about = read_model(report.path).metadata
    documented = format_page.json_keys(0)
    assert set(about.provenance) == set(documented) - {
        *("checkpoint_revision", "checkpoint_license", "renames")
    }
    assert set(about.provenance["settings"]) <= set(format_page.names(documented["settings"]))
    assert all(set(entry) == set(format_page.json_keys(1)) for entry in about.allocation.values())
    assert all(set(case) == set(format_page.json_keys(2)) for case in about.golden)
    parameters = set(about.provenance["tensor_names"].values())
    assert set(about.allocation) <= parameters


def test_every_tensor_is_reported_and_the_coarse_ones_lose_more(made):
    report, _ = made
    assert len({t.type for t in report.tensors}) > 1
    assert all(0 <= t.error < 0.6 and t.score >= 0 for t in report.tensors)
    groups = {t.group for t in report.tensors}
    assert groups == {"vision", "language", "expert", "projection"}
    fine = [t.error for t in report.tensors if FORMATS[t.type].bits_per_weight > 4]
    coarse = [t.error for t in report.tensors if FORMATS[t.type].bits_per_weight < 3]
    if fine and coarse:
        assert np.mean(fine) < np.mean(coarse)


def test_golden_values_are_this_files_own_actions(made):
    report, _ = made
    golden = read_model(report.path).metadata.golden
    assert golden
    for item in golden:
        own, reference = np.array(item["actions"]), np.array(item["actions_reference"])
        assert own.shape == reference.shape and np.isfinite(own).all()
        assert 0 < np.abs(own - reference).max() < 10


def test_a_second_run_takes_over_what_is_finished(made, checkpoint, dataset, tmp_path):
    report, minimum = made
    work = Path(report.path + ".work")
    again = compress(
        checkpoint,
        tmp_path / "a.gguf",
        dataset=dataset,
        bpw=report.bpw_budget,
        work=work,
        recipe="paper",
        settings=SMALL,
    )
    assert set(again.reused) == {"mean_activations", "fisher", "encoding"}
    assert [t.model_dump() for t in again.tensors] == [t.model_dump() for t in report.tensors]
    other = compress(
        checkpoint,
        tmp_path / "b.gguf",
        dataset=dataset,
        bpw=minimum + 0.2,
        work=work,
        recipe="paper",
        settings=SMALL,
    )
    assert other.reused == ["mean_activations", "fisher"]
    assert other.file_bytes < again.file_bytes
    seeded = compress(
        checkpoint,
        tmp_path / "c.gguf",
        dataset=dataset,
        bpw=report.bpw_budget,
        work=work,
        recipe="paper",
        settings=SMALL,
        seed=1,
    )
    assert seeded.reused == []


def test_golden_values_that_have_become_too_long_are_left_out_from_the_end(
    made, checkpoint, dataset, tmp_path, monkeypatch
):
    report, _ = made
    whole = read_model(report.path).metadata.golden
    finish = FileContents.finish

    def finish_within_half(self, *arguments):
        half = len(json.dumps(whole)) // 2
        halved = replace(self, golden_bytes=self.golden_bytes - half)
        return finish(halved, *arguments)

    monkeypatch.setattr(FileContents, "finish", finish_within_half)
    work = Path(report.path + ".work")
    out = tmp_path / "model.gguf"
    again = compress(
        checkpoint,
        out,
        dataset=dataset,
        bpw=report.bpw_budget,
        work=work,
        recipe="paper",
        settings=SMALL,
    )
    assert again.file_bytes == out.stat().st_size and again.whole_file_bpw <= report.bpw_budget
    kept = read_model(out).metadata.golden
    assert kept == whole[: len(kept)] and 5 <= len(kept) < len(whole) == 16


def test_a_killed_encoding_goes_on_with_the_next_tensor(made, checkpoint, dataset, tmp_path):
    report, _ = made
    work = Path(report.path + ".work")
    stage = work / "encoded-paper"
    encoded = [stage / f"{t.name}.{t.type}.safetensors" for t in report.tensors]
    modified = {path: path.stat().st_mtime_ns for path in encoded}
    lost = encoded[::2]
    for path in lost:
        path.unlink()
    out = tmp_path / "model.gguf"
    again = compress(
        checkpoint,
        out,
        dataset=dataset,
        bpw=report.bpw_budget,
        work=work,
        recipe="paper",
        settings=SMALL,
    )
    assert again.reused == ["mean_activations", "fisher"]
    assert [t.model_dump() for t in again.tensors] == [t.model_dump() for t in report.tensors]
    for path, before in modified.items():
        assert (path.stat().st_mtime_ns == before) == (path not in lost)


def test_blocks_of_other_encoders_are_not_taken_over(
    made, checkpoint, dataset, tmp_path, monkeypatch
):
    report, _ = made
    work = tmp_path / "work"
    shutil.copytree(report.path + ".work", work)
    arguments = {"dataset": dataset, "bpw": report.bpw_budget, "recipe": "paper", "work": work}
    out = tmp_path / "model.gguf"
    same = compress(checkpoint, out, settings=SMALL, **arguments)
    assert same.reused == ["mean_activations", "fisher", "encoding"]
    monkeypatch.setattr("actquant.compression.pipeline.encoders_sha256", lambda: "others")
    other = compress(checkpoint, out, settings=SMALL, **arguments)
    assert other.reused == ["mean_activations", "fisher"]


def test_rtn_and_f16_go_the_same_way(made, checkpoint, dataset, tmp_path):
    report, _ = made
    out = tmp_path / "model.gguf"
    half = compress(checkpoint, out, dataset=dataset, recipe="f16", settings=SMALL)
    assert {t.type for t in half.tensors} == {"F16"} and half.bpw_budget is None
    assert half.held_out_action_error < 0.02
    rtn = compress(
        checkpoint,
        out,
        dataset=dataset,
        bpw=report.whole_file_bpw + 3,
        recipe="rtn",
        settings=SMALL,
    )
    assert rtn.whole_file_bpw <= report.whole_file_bpw + 3
    assert not {t.type for t in rtn.tensors} & {"IQ2_XXS", "IQ2_XS", "IQ3_S"}
    assert half.held_out_action_error < rtn.held_out_action_error
    assert rtn.reused == []
    measured = held_out_action_error(out, checkpoint, dataset, n_frames=4)
    assert measured == pytest.approx(rtn.held_out_action_error, rel=1e-4)


@pytest.mark.parametrize(
    ("recipe", "types", "limit"),
    [
        ("f32", {"F32"}, 1e-5),
        ("bf16", {"F32", "BF16"}, 0.05),
        ("q8_0", {"F32", "Q8_0"}, 0.05),
    ],
)
def test_uniform_recipes_take_a_dataset_and_no_budget(
    recipe, types, limit, checkpoint, dataset, tmp_path
):
    out = tmp_path / "model.gguf"
    report = compress(checkpoint, out, dataset=dataset, recipe=recipe, settings=SMALL)
    model = read_model(out)
    assert {t.type for t in model.tensors.values()} - {"I64", "I8"} == types
    assert {t.type for t in report.tensors} == {recipe.upper()} and report.bpw_budget is None
    assert report.held_out_action_error < limit
    assert report.file_bytes == out.stat().st_size and report.unreached == []
    assert model.metadata.provenance["recipe"] == recipe
    assert model.metadata.provenance["settings"]["bpw"] is None
    assert len(model.metadata.provenance["dataset_sha256"]) == 64


def test_the_policy_itself_has_no_action_error(checkpoint, dataset):
    loaded = load_for_dataset(checkpoint, dataset)
    frames = calibrate(loaded, dataset, n_held_out=3).held_out

    def act(observation, noise):
        return loaded.family.predict(loaded, [observation], torch.from_numpy(noise)[None])[0]

    error = measure_action_error(act, loaded, frames)
    assert error.to_reference < 1e-6
    assert error.l1_to_truth == pytest.approx(error.reference_l1_to_truth, rel=1e-5)


def test_nothing_is_written_when_the_program_does_not_agree(
    checkpoint, dataset, tmp_path, monkeypatch
):
    def disagree(*_, **__):
        raise ParityError("off by one")

    monkeypatch.setattr(proof, "check_parity", disagree)
    out = tmp_path / "model.gguf"
    out.write_text("older")
    with pytest.raises(ParityError):
        compress(
            checkpoint,
            out,
            dataset=dataset,
            bpw=8,
            recipe="paper",
            settings=SMALL,
            cache=tmp_path / "cache",  # without a proof that is kept
            force=True,
        )
    assert out.read_text() == "older"
    assert [p for p in tmp_path.iterdir() if p.is_file()] == [out]


def test_bad_input_is_named(checkpoint, dataset, tmp_path):
    out = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError):
        compress(tmp_path / "nothing", out, dataset=dataset, bpw=3)
    with pytest.raises(DatasetError):
        compress(checkpoint, out, dataset=tmp_path / "nothing", bpw=3)
    other = make_dataset(tmp_path / "other", episodes=2, length=2, action_dim=3)
    with pytest.raises(DatasetError, match="action: expected shape"):
        compress(checkpoint, out, dataset=other, bpw=3)
    with pytest.raises(BudgetError, match="known: actquant, paper"):
        compress(checkpoint, out, dataset=dataset, bpw=3, recipe="best")
    with pytest.raises(UsageError, match="folder"):
        compress(checkpoint, tmp_path, dataset=dataset, bpw=3)
    assert not out.exists()


@pytest.fixture(scope="module")
def ours(made, checkpoint, dataset, tmp_path_factory):
    """Our recipe at the budget of `made`, tuned, with its work folder."""
    folder = tmp_path_factory.mktemp("ours")
    out, work = folder / "model.gguf", folder / "work"
    options = {"dataset": dataset, "work": work, "settings": TUNED}
    return compress(checkpoint, out, bpw=made[0].bpw_budget, **options), options


def test_ours_has_less_action_error_than_the_papers_at_the_same_size(made, ours):
    paper, report = made[0], ours[0]
    assert report.recipe == "actquant"
    assert report.whole_file_bpw <= report.bpw_budget == paper.bpw_budget
    assert report.held_out_action_error < paper.held_out_action_error


def test_embeddings_and_convolutions_are_given_types_too(made, ours):
    added = {t.name for t in ours[0].tensors} - {t.name for t in made[0].tensors}
    assert {name.split(".")[-2] for name in added} == {"embed_tokens", "patch_embedding"}
    model = read_model(ours[0].path)
    quantized = [t.name for t in model.tensors.values() if t.quantized]
    assert len(quantized) == len(ours[0].tensors)


def test_every_type_is_measured_once(ours, checkpoint, tmp_path):
    report, options = ours
    measured = sorted((options["work"] / "type-errors-actquant").iterdir())
    assert len(measured) == len(report.tensors)
    modified = [path.stat().st_mtime_ns for path in measured]
    options = {**options, "settings": SMALL}
    again = compress(checkpoint, tmp_path / "model.gguf", bpw=report.bpw_budget - 0.3, **options)
    assert again.reused[:2] == ["action_jacobian", "guided_moments"] and again.tuning is None
    assert [path.stat().st_mtime_ns for path in measured] == modified
    assert again.file_bytes < report.file_bytes


def test_the_file_holds_what_tuning_found(ours, checkpoint, tmp_path):
    report, options = ours
    assert report.tuning is not None and report.tuning.kept and report.tuning.steps == 12
    assert report.tuning.error_after < report.tuning.error_before
    plain = tmp_path / "plain.gguf"
    compress(checkpoint, plain, bpw=report.bpw_budget, **{**options, "settings": SMALL})
    tuned, before = read_model(report.path), read_model(plain)
    short = {v: k for k, v in tuned.metadata.provenance["tensor_names"].items()}
    (found,) = (options["work"] / "tuned").iterdir()
    arrays = load_file(found)
    assert {n for n in arrays if n.startswith("values ")} and len(arrays) > len(report.tensors)
    for name, array in arrays.items():
        kind, _, parameter = name.partition(" ")
        value, untuned = (model.load(short[parameter]) for model in (tuned, before))
        if kind == "values":
            np.testing.assert_array_equal(value, array)
            assert not np.array_equal(value, untuned)
            continue
        block = FORMATS[tuned.tensors[short[parameter]].type].block_size
        factors = np.repeat(array, block, axis=1)[:, : value[0].size]
        expected = untuned.reshape(len(value), -1) * factors
        np.testing.assert_allclose(
            value.reshape(len(value), -1), expected, rtol=3e-3, atol=1e-3 * np.abs(expected).max()
        )


def test_a_size_in_bytes_is_a_budget(ours, checkpoint, tmp_path):
    report, options = ours
    options = {**options, "settings": SMALL}
    size = report.file_bytes - 2000
    found = compress(checkpoint, tmp_path / "model.gguf", target_size_bytes=size, **options)
    assert 0.98 * size < found.file_bytes <= size
    assert read_model(found.path).metadata.provenance["settings"]["size_bytes"] == size


def test_the_smallest_file_within_an_action_error_is_found(ours, checkpoint, tmp_path):
    _, options = ours
    options = {**options, "settings": SMALL}
    files = [
        compress(checkpoint, tmp_path / "model.gguf", max_action_error=limit, **options)
        for limit in (0.3, 0.1, 0.03)
    ]
    sizes = [found.file_bytes for found in files]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    for limit, found in zip((0.3, 0.1, 0.03), files, strict=True):
        assert found.held_out_action_error < 1.5 * limit  # of four frames that were not looked at
    with pytest.raises(BudgetError, match="no file of recipe actquant has an action error below"):
        compress(checkpoint, tmp_path / "none.gguf", max_action_error=1e-6, **options)
    assert not (tmp_path / "none.gguf").exists()


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"bpw": 3, "target_size_bytes": 1000}, "give one of bits per weight, a size"),
        ({"bpw": -1}, "must be bits per weight above 0"),
        ({"bpw": 3, "recipe": "q8_0"}, "q8_0 gives every matrix the type Q8_0"),
        ({"max_action_error": 0.1, "recipe": "rtn", "dataset": None}, "measured on a dataset"),
        ({}, "needs a budget"),
    ],
)
def test_a_goal_that_cannot_be_is_refused_before_anything_is_read(goal, said, dataset, tmp_path):
    options = {"dataset": dataset, **goal}
    with pytest.raises(BudgetError, match=said):
        compress(tmp_path / "nothing", tmp_path / "model.gguf", **options)
