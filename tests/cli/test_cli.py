"""The commands, end to end, on the reference policy: compress, inspect, verify, eval, compare."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actquant.cli import app
from actquant.format.checksums import seal

REFERENCE = Path(__file__).parents[2] / "exports" / "reference"
CHECKPOINT, CALIBRATION = REFERENCE / "checkpoint", REFERENCE / "calibration"
TASKS = "pick_cube,push_zone"

Run = Callable[..., Any]


def run(*words: object, fails: bool = False) -> Any:
    """A command with --json; its parsed output."""
    outcome = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert (outcome.exit_code != 0) == fails, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """The reference policy in f16."""
    path = folder / "f16.gguf"
    report = run("compress", CHECKPOINT, "--dataset", CALIBRATION, "--recipe", "f16", "--out", path)
    assert report["program_error"]["worst"] < 1e-4
    assert report["file_bytes"] == path.stat().st_size
    return path


@pytest.fixture(scope="module")
def result(folder: Path, model: Path) -> Path:
    path = folder / "f16.json"
    run("eval", model, "--tasks", TASKS, "--starts", "0:4", "--out", path)
    return path


def test_inspect_agrees_with_the_file(model: Path) -> None:
    report = run("inspect", model)
    size, parameters = model.stat().st_size, report["parameter_count"]
    assert report["whole_file_bpw"] == pytest.approx(8 * size / parameters)
    assert [stage["name"] for stage in report["stages"]] == ["vision", "prefix", "denoise"]
    assert len(report["action"]) == 7 and len(report["state"]) == 13
    stored = sum(group["n_weights"] for group in report["groups"] if group["group"] != "const")
    # What is missing is folded: position embeddings are stored as they are added.
    assert 0 <= parameters - stored < 0.002 * parameters


def test_verify_passes_and_stays_near_the_checkpoint(model: Path) -> None:
    report = run("verify", model, "--against", CHECKPOINT)
    assert report["passed"]
    own, reference, fresh = report["checks"]
    assert report["unit"] == "standard deviations of the actions"
    assert own["distance"]["worst"] < 1e-5 < own["distance"]["limit"]
    for measured in (reference, fresh):
        assert 0 < measured["distance"]["mean"] < 0.02 and measured["distance"]["limit"] is None


def test_verify_fails_on_a_file_that_was_changed(model: Path, folder: Path) -> None:
    data = bytearray(model.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)  # zeroed weights, not a broken file
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(data)
    assert "is damaged" in run("verify", damaged, fails=True)["message"]
    seal(damaged)  # as if it had been made so
    report = run("verify", damaged, fails=True)
    assert not report["passed"]


def test_the_policy_succeeds_in_closed_loop(result: Path) -> None:
    report = json.loads(result.read_text())
    overall = report["overall"]
    assert overall["n"] == 8
    assert overall["successes"] >= 6
    assert overall["successes"] == sum(e["success"] for e in report["episodes"])
    low, high = overall["wilson95"]
    assert low < overall["success_rate"] <= high
    assert set(report["tasks"]) == set(TASKS.split(","))


def test_the_same_evaluation_gives_the_same_episodes(
    model: Path, result: Path, folder: Path
) -> None:
    again = run("eval", model, "--tasks", TASKS, "--starts", "0:4", "--jobs", 1, "--out",
                folder / "again.json")  # fmt: skip
    assert again["episodes"] == json.loads(result.read_text())["episodes"]
    paired = run("compare", result, folder / "again.json")
    assert paired["overall"]["difference"] == 0
    assert paired["overall"]["mcnemar_p"] == 1


def test_without_eyes_it_fails_more_often(model: Path, result: Path, folder: Path) -> None:
    blind = run("eval", model, "--tasks", "pick_cube", "--starts", "0:4", "--grey-camera",
                "observation.images.wrist", "--out", folder / "blind.json")  # fmt: skip
    seeing = json.loads(result.read_text())["tasks"]["pick_cube"]
    assert blind["overall"]["mean_steps"] > seeing["mean_steps"]


def test_an_evaluation_goes_on_where_it_was_stopped(model: Path, folder: Path) -> None:
    from actquant.evaluation.evaluate import evaluate

    class Stopped(Exception):
        pass

    def stop(episode: object, done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    out = folder / "stopped.json"
    arguments: dict[str, Any] = {"env": "ur3e", "tasks": ["push_zone"], "starts": "0:4", "out": out}
    with pytest.raises(Stopped):
        evaluate(model, **arguments, jobs=1, on_episode=stop)
    assert not out.exists()
    seen: list[int] = []
    evaluate(model, **arguments, jobs=1, on_episode=lambda episode, *_: seen.append(episode.start))
    assert seen == [2, 3]
    assert len(json.loads(out.read_text())["episodes"]) == 4
    assert not list(folder.glob("stopped.json.*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["eval", "{model}", "--env", "mars", "--out", "{out}"], "no environment 'mars'"),
        (["eval", "{model}", "--tasks", "juggle", "--out", "{out}"], "no task 'juggle'"),
        (["eval", "{model}", "--starts", "a:b", "--out", "{out}"], "is no range"),
        (["eval", "nowhere.gguf", "--out", "{out}"], "there is nothing at nowhere.gguf"),
        (["inspect", "{foreign}"], "is not a GGUF file"),
        (["verify", "{truncated}"], "truncated"),
        (
            ["compress", "nowhere", "--dataset", "{dataset}", "--out", "{out}"],
            "nowhere is no folder, and no repository of the hub",
        ),
        (
            ["compress", "{checkpoint}", "--dataset", "{dataset}", "--bpw", "1", "--recipe", "rtn",
             "--out", "{out}"],
            "feasible minimum",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_told_plainly(words: list[str], told: str, model: Path, folder: Path) -> None:
    (folder / "foreign.gguf").write_bytes(b"not a model at all" * 100)
    (folder / "truncated.gguf").write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    names = {
        "model": model,
        "out": folder / "never",
        "foreign": folder / "foreign.gguf",
        "truncated": folder / "truncated.gguf",
        "checkpoint": CHECKPOINT,
        "dataset": CALIBRATION,
    }
    answer = run(*(word.format(**names) for word in words), fails=True)
    assert told in answer["message"]
    assert not (folder / "never").exists()


def test_a_checkpoint_alone_is_converted(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    answer = run(
        "compress",
        str(CHECKPOINT),
        "--out",
        str(out),
        "--recipe",
        "q8_0",
        "--control-rate-hz",
        "20",
    )
    assert answer["file_bytes"] == out.stat().st_size
    assert answer["file_error"]["worst"] < 0.1 and answer["program_error"]["worst"] < 1e-4
    assert run("verify", str(out))["passed"]
    memory = run("inspect", str(out))["memory"]
    assert memory["peak_rss_bytes"] > memory["weights_bytes"] > 0
    options = ("bench", str(out), "--n", "1", "--operators")
    costs = run(*options)["profile"]["operators"]
    assert {cost["stage"] for cost in costs} == {"vision", "prefix", "denoise"}
    shown = CliRunner().invoke(app, list(options))
    assert shown.exit_code == 0 and "of reach" in shown.stdout and "linear" in shown.stdout


def test_the_version_is_the_packages() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert shown.stdout.split() == ["actquant", metadata.version("actquant")]
