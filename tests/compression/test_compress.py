import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("actquant_runtime")

import format_page
from tiny_policies import build_tiny_smolvla
from toy_policy import make_dataset

import actquant.compression.compress as compress_module
from actquant.common.errors import (
    BudgetError,
    CheckpointError,
    DatasetError,
    ModelFileError,
    ParityError,
)
from actquant.compression.assemble import Assembly
from actquant.compression.compress import (
    CompressionReport,
    Settings,
    compress,
    held_out_action_error,
)
from actquant.fidelity.action_error import load_for_dataset, measure_action_error
from actquant.format.model_file import read_model
from actquant.format.tensor_types import FORMATS

SMALL = Settings(n_frames=8, n_held_out=4, draws=1)


@pytest.fixture(scope="module", autouse=True)
def _captured_once():
    """Loading and capturing the same checkpoint again would only cost time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(compress_module, "load_for_dataset", functools.cache(load_for_dataset))
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
        compress(checkpoint, dataset, 0.5, out, settings=SMALL)
    assert not out.exists()
    minimum = float(str(caught.value).split("feasible minimum is ")[1].split(",")[0])
    report = compress(checkpoint, dataset, minimum + 0.5, out, settings=SMALL)
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
    assert provenance["recipe"] == "paper" and len(provenance["dataset_sha256"]) == 64
    assert CompressionReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["held_out"]["n_frames"] == 4
    assert not list(path.parent.glob(".*"))


def test_its_json_is_the_documented_one(made):
    report, _ = made
    about = read_model(report.path).metadata
    documented = format_page.json_keys(0)
    assert set(about.provenance) == set(documented) - {"checkpoint_revision", "verified"}
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
        checkpoint, dataset, report.bpw_budget, tmp_path / "a.gguf", work=work, settings=SMALL
    )
    assert {"sensitivity", "curvature"} < set(again.reused)
    assert [t.model_dump() for t in again.tensors] == [t.model_dump() for t in report.tensors]
    other = compress(
        checkpoint, dataset, minimum + 0.2, tmp_path / "b.gguf", work=work, settings=SMALL
    )
    assert other.reused == ["sensitivity", "curvature"]
    assert other.file_bytes < again.file_bytes
    seeded = compress(
        checkpoint,
        dataset,
        report.bpw_budget,
        tmp_path / "c.gguf",
        work=work,
        settings=SMALL,
        seed=1,
    )
    assert seeded.reused == []


def test_metadata_that_grew_is_taken_off_the_tensors(
    made, checkpoint, dataset, tmp_path, monkeypatch
):
    report, _ = made
    foreseen = Assembly.fixed_bytes
    monkeypatch.setattr(Assembly, "fixed_bytes", lambda *a: foreseen(*a) - 5000)
    work = Path(report.path + ".work")
    out = tmp_path / "model.gguf"
    again = compress(checkpoint, dataset, report.bpw_budget, out, work=work, settings=SMALL)
    assert again.file_bytes == out.stat().st_size
    assert again.whole_file_bpw <= report.bpw_budget
    assert read_model(out).metadata.allocation["model.state_proj.weight"]["type"] == next(
        t.type for t in again.tensors if t.name == "model.state_proj.weight"
    )


def test_rtn_and_f16_go_the_same_way(made, checkpoint, dataset, tmp_path):
    report, _ = made
    out = tmp_path / "model.gguf"
    half = compress(checkpoint, dataset, None, out, recipe="f16", settings=SMALL)
    assert {t.type for t in half.tensors} == {"F16"} and half.bpw_budget is None
    assert half.held_out_action_error < 0.02
    rtn = compress(
        checkpoint, dataset, report.whole_file_bpw + 3, out, recipe="rtn", settings=SMALL
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
    report = compress(checkpoint, dataset, None, out, recipe=recipe, settings=SMALL)
    model = read_model(out)
    assert {t.type for t in model.tensors.values()} - {"I64", "I8"} == types
    assert {t.type for t in report.tensors} == {recipe.upper()} and report.bpw_budget is None
    assert report.held_out_action_error < limit
    assert report.file_bytes == out.stat().st_size and report.unreached == []
    assert model.metadata.provenance["recipe"] == recipe
    assert model.metadata.provenance["settings"]["bpw"] is None
    assert len(model.metadata.provenance["dataset_sha256"]) == 64


def test_the_policy_itself_has_no_action_error(checkpoint, dataset):
    loaded = compress_module.load_for_dataset(checkpoint, dataset)
    frames = compress_module.calibrate(loaded, dataset, n_held_out=3).held_out

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

    monkeypatch.setattr(compress_module, "check_parity", disagree)
    out = tmp_path / "model.gguf"
    out.write_text("older")
    with pytest.raises(ParityError):
        compress(checkpoint, dataset, 8, out, settings=SMALL)
    assert out.read_text() == "older"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [out]


def test_bad_input_is_named(checkpoint, dataset, tmp_path):
    out = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError):
        compress(tmp_path / "nothing", dataset, 3, out)
    with pytest.raises(DatasetError):
        compress(checkpoint, tmp_path / "nothing", 3, out)
    other = make_dataset(tmp_path / "other", episodes=2, length=2, action_dim=3)
    with pytest.raises(DatasetError, match="action: expected shape"):
        compress(checkpoint, other, 3, out)
    with pytest.raises(BudgetError, match="known: paper"):
        compress(checkpoint, dataset, 3, out, recipe="best")
    with pytest.raises(ModelFileError, match="folder"):
        compress(checkpoint, dataset, 3, tmp_path)
    assert not out.exists()
