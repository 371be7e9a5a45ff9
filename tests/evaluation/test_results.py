"""Results say how they came about, and blame nobody for what a simulator does."""

import json
import sys
from pathlib import Path

import fast_world
import jsonschema
import numpy as np
import pytest
from fast_world import FAILING, FastSuite, FastWorld
from gguf import GGUFReader
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app
from actquant.common.errors import EvaluationError
from actquant.control.policy import model_sha256
from actquant.environments import base
from actquant.evaluation.compare import compare
from actquant.evaluation.evaluate import evaluate
from actquant.evaluation.recording import LARGEST_VIDEO_BYTES, Recording, write_video
from actquant.evaluation.result import EvaluationResult, schema
from actquant.evaluation.rollout import Ablation
from actquant.format.checksums import seal

SCHEMA = Path(__file__).parents[2] / "docs" / "result.schema.json"


@pytest.fixture(scope="module")
def model(loaded, tmp_path_factory) -> Path:
    return convert_f32(loaded, tmp_path_factory.mktemp("model") / "policy.gguf")


@pytest.fixture(autouse=True)
def world(monkeypatch):
    monkeypatch.setitem(base.SUITES, "fast", "fast_world:FastSuite")
    monkeypatch.setattr(FastWorld, "breaks", {})
    monkeypatch.setattr(FastWorld, "sick", frozenset())


def run(model: Path, out: Path | None, **options) -> EvaluationResult:
    return evaluate(model, env="fast", starts="0:4", out=out, jobs=1, **options)


def test_the_published_schema_is_the_code_s():
    assert SCHEMA.read_text() == schema(), (
        "run python -m actquant.evaluation.result > docs/result.schema.json"
    )


def test_a_result_follows_the_schema_and_says_what_it_is_of(model, tmp_path):
    result = run(model, tmp_path / "r.json", seed=7)
    written = json.loads((tmp_path / "r.json").read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(written)
    assert EvaluationResult.load(tmp_path / "r.json") == result
    of = result.provenance
    assert (of.schema_version, of.seed, of.tasks) == (3, 7, ["reach", "lift"])
    assert of.model_sha256 == model_sha256(model)
    assert of.model_facts.bytes == model.stat().st_size and of.model_facts.whole_file_bpw > 30
    assert of.versions["python"] == sys.version.split()[0]
    assert of.versions.keys() >= {"actquant", "numpy", "mujoco", "lerobot"}
    assert of.conventions.action_names and of.conventions.control_rate_hz == 10
    assert of.command[1:] == sys.argv[1:]
    failed = {(e.task, e.start) for e in result.episodes if not e.success}
    assert failed == FAILING
    assert result.latency_ms.percentiles[50] == pytest.approx(result.latency_ms.p50, abs=1e-3)


def test_a_field_too_many_breaks_the_schema(model, tmp_path):
    written = json.loads(run(model, None).model_dump_json())
    written["provenance"]["mood"] = "good"
    with pytest.raises(jsonschema.ValidationError, match="mood"):
        jsonschema.validate(written, json.loads(SCHEMA.read_text()))


def test_a_simulator_that_breaks_once_is_tried_again_anew(model, tmp_path):
    FastWorld.breaks[3] = 1
    before = FastSuite.opened
    result = run(model, tmp_path / "r.json")
    assert FastSuite.opened == before + 3  # for the tasks' names, for the worker, and again
    assert result.overall.n == 8 and not result.not_counted
    FastWorld.breaks.clear()
    assert result.episodes == run(model, None).episodes


def test_a_simulator_that_keeps_breaking_is_no_failure_of_the_policy(model, tmp_path):
    FastWorld.breaks[3] = 100
    out = tmp_path / "r.json"
    result = run(model, out)
    FastWorld.breaks.clear()
    assert [(e.task, e.start, e.attempts) for e in result.not_counted] == [
        ("reach", 3, 3),
        ("lift", 3, 3),
    ]
    assert result.not_counted[0].error == (
        "step 2: FloatingPointError: the solver of reach <diverged>"
    )
    assert (result.overall.n, result.overall.successes) == (6, 3)
    # The same call tries those again, and no others.
    seen: list[tuple[str, int]] = []
    again = run(model, out, on_episode=lambda e, *_: seen.append((e.task, e.start)))
    assert seen == [("reach", 3), ("lift", 3)]
    assert again.episodes == run(model, None).episodes
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_what_does_not_count_pairs_with_nothing(model, tmp_path):
    run(model, tmp_path / "whole.json")
    FastWorld.breaks[3] = 100
    run(model, tmp_path / "broken.json")
    assert compare(tmp_path / "whole.json", tmp_path / "broken.json").overall.n == 6


def test_a_state_that_is_no_number_is_the_simulator_s_failure(model):
    FastWorld.sick = frozenset({0})
    result = run(model, None, steps_per_chunk=2)
    assert {e.error for e in result.not_counted} == {"observation.state is not finite"}
    assert {e.start for e in result.not_counted} == {0}


def test_a_simulator_that_always_breaks_gives_no_result(model, tmp_path):
    FastWorld.breaks |= dict.fromkeys(range(4), 100)
    with pytest.raises(EvaluationError, match="failed in each of 8 episodes; the first: step 2"):
        run(model, tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_a_policy_that_gives_nan_fails_by_name(model, tmp_path):
    sick = tmp_path / "sick.gguf"
    sick.write_bytes(model.read_bytes())
    reader = GGUFReader(sick, "r+")
    (bias,) = [t for t in reader.tensors if t.name.endswith("action_out_proj.b")]
    bias.data[:] = np.nan
    reader.data.flush()
    seal(sick)
    result = run(sick, None)
    assert result.overall.n == 8 and result.overall.successes == 0 and not result.not_counted
    told = {episode.failure for episode in result.episodes}
    (only,) = told
    name = result.provenance.conventions.action_names[0]
    assert only == f"the policy gave a non-finite action: step 0, {name} of chunk 0"
    assert result.latency_ms is None


def test_the_command_names_what_does_not_count(model, tmp_path):
    FastWorld.breaks[1] = 100
    words = ["eval", model, "--env", "fast", "--starts", "0:2", "--jobs", 1, "--out"]
    outcome = CliRunner().invoke(app, [*map(str, words), str(tmp_path / "r.json")])
    assert outcome.exit_code == 0, outcome.output
    assert "not counted: reach, start 1 the simulator failed 3 times: step 2" in " ".join(
        outcome.output.split()
    )


def test_failures_are_filmed_and_nothing_changes(model, tmp_path):
    films = tmp_path / "films"
    result = run(model, tmp_path / "r.json", videos=films)
    kept = {(e.task, e.start): e.recording for e in result.episodes if e.recording}
    assert kept.keys() == FAILING and kept["lift", 2] == "films/r-lift-2.mp4"
    plain = run(model, None)
    assert [(e.task, e.start, e.success, e.steps) for e in result.episodes] == [
        (e.task, e.start, e.success, e.steps) for e in plain.episodes
    ]
    about = Recording.beside(tmp_path / kept["lift", 2])
    assert about is not None and about.instruction == "lift <it>"
    assert len(about.actions) == fast_world.STEPS
    assert len(about.actions[0]) == len(about.action_names)
    frames = frames_of(tmp_path / kept["lift", 2])
    assert len(frames) == fast_world.STEPS + 1
    assert frames[0].shape == (120, 160, 3) and frames[2][60, 55, 0] > 150 > frames[0][60, 55, 0]
    everything = run(model, tmp_path / "all.json", videos=films, all_videos=True)
    assert all(e.recording for e in everything.episodes)


def frames_of(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_films_go_over_nothing_that_is_not_ours(model, tmp_path):
    (tmp_path / "r-reach-1.mp4").write_text("somebody's film")
    words = ["eval", model, "--env", "fast", "--starts", "0:2", "--jobs", 1, "--videos", tmp_path]
    command = [*map(str, words), "--out", str(tmp_path / "r.json")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "say --force" in refused.output
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 0  # ours by now
    alone = CliRunner().invoke(app, [*command[:-4], "--all-videos", "--out", "x.json"])
    assert alone.exit_code == 2 and "--videos FOLDER" in alone.output


def test_a_film_of_noise_is_made_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 256, 256, 3), np.uint8)
    write_video(tmp_path / "noise.mp4", list(noise), 10)
    assert (tmp_path / "noise.mp4").stat().st_size <= LARGEST_VIDEO_BYTES
    assert len(frames_of(tmp_path / "noise.mp4")) == 30


def test_a_camera_to_grey_out_is_named_as_the_policy_does(tmp_path):
    """Before the policy is opened: there is none."""
    scene = FastSuite.cameras[0]
    renames = {scene: "observation.images.front"}
    for named, wrong in (({}, "observation.images.front"), (renames, scene)):
        with pytest.raises(EvaluationError, match=f"has no camera '{wrong}'; it has"):
            evaluate(tmp_path / "none.gguf", env="fast", renames=named, ablation=Ablation(wrong))
