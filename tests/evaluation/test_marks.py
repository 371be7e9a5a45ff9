"""What nobody may overlook who reads a number: marks of results, and `--comparable`."""

import json
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console
from typer.testing import CliRunner

from actquant.capture.policy import convert_f32
from actquant.cli import app, tables
from actquant.common.errors import EvaluationError
from actquant.common.machine import total_memory
from actquant.environments import base
from actquant.evaluation.compare import compare
from actquant.evaluation.evaluate import _most_jobs, evaluate
from actquant.evaluation.report import write_report
from actquant.evaluation.result import EvaluationResult
from actquant.hub.push import push
from actquant.sweep.page import write_page
from actquant.sweep.sweep import SweepReport, SweepRow

SCHEMA = Path(__file__).parents[2] / "docs" / "result.schema.json"
MARK = "stand-in visuals"


@pytest.fixture(autouse=True)
def worlds(monkeypatch):
    for name in ("FastSuite", "MarkedSuite", "PublishedSuite"):
        monkeypatch.setitem(base.SUITES, name, f"fast_world:{name}")


@pytest.fixture(scope="module")
def model(loaded, tmp_path_factory) -> Path:
    return convert_f32(loaded, tmp_path_factory.mktemp("model") / "policy.gguf")


def run(model: Path, out: Path | None, env: str = "MarkedSuite", **options) -> EvaluationResult:
    return evaluate(model, env=env, out=out, jobs=1, **{"starts": "0:4", **options})


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})
    return done.exit_code, " ".join(done.output.split())


def test_the_result_says_so_and_follows_the_schema(model, tmp_path):
    result = run(model, tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(written, json.loads(SCHEMA.read_text()))
    of = result.provenance
    assert written["provenance"]["marks"] == of.marks == [MARK]
    assert of.environment == {"most steps": "6"} and of.versions["mujoco"] == "0.0.1"
    assert [e.task for e in result.episodes] == ["reach"] * 4 + ["lift"] * 4
    assert run(model, None, "FastSuite").provenance.marks == []


def test_every_table_has_the_mark(model, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    run(model, b)
    words = ("--env", "MarkedSuite", "--starts", "0:4", "--jobs", 1, "--out", a)
    code, said = command("eval", model, *words)
    assert code == 0 and f"in MarkedSuite ({MARK})" in said
    assert "no number here may be set beside a published one" in said
    code, said = command("compare", a, b)
    assert code == 0 and said.count(MARK) == 2
    assert compare(a, b).marks == [MARK]
    code, said = command("report", a, b, "--out", tmp_path / "page.html")
    assert code == 0 and MARK in said


def test_every_table_of_a_page_has_the_mark(model, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    run(model, a)
    run(model, b)
    assert write_report([a, b], tmp_path / "page.html").marks == [MARK]
    page = (tmp_path / "page.html").read_text()
    parts = page.split("<table>")[1:]
    assert len(parts) == 6 and all(MARK in part.split("</table>")[0] for part in parts)
    assert f"{MARK.capitalize()}: no number here" in page


def test_a_page_of_two_worlds_marks_the_one(model, tmp_path):
    run(model, tmp_path / "a.json")
    run(model, tmp_path / "b.json", "PublishedSuite")
    write_report([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"a ({MARK})" in page and f"b ({MARK})" not in page


def test_a_sweep_has_the_mark(tmp_path):
    row = SweepRow(name="f16", recipe="f16", bpw_budget=None, seed=0, file_bytes=9, action_error=1)
    row.action_error_standard_error = 0.1
    row.n, row.successes, row.success_by_task = 4, 2, {"reach": (2, 4)}
    report = SweepReport(
        checkpoint="c", dataset="d", env="libero_goal", marks=[MARK], starts="0:4", date="",
        machine="", rows=[row], page="",
    )  # fmt: skip
    write_page(report, {}, tmp_path / "sweep.html")
    assert (tmp_path / "sweep.html").read_text().count(f"success ({MARK})") == 2
    console = Console(width=200)
    with console.capture() as shown:
        for part in tables.sweep(report):
            console.print(part)
    assert f"libero_goal ({MARK})" in shown.get()


def test_marked_and_unmarked_cannot_be_paired(model, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    run(model, a)
    run(model, b)
    result = EvaluationResult.load(b)
    for change in ({"marks": []}, {"environment": {"most steps": "7"}}):
        result.provenance = result.provenance.model_copy(update=change)
        b.write_text(result.model_dump_json())
        with pytest.raises(EvaluationError, match="paired: (marks|most steps) is"):
            compare(a, b)
        result = EvaluationResult.load(a)


def test_nothing_marked_is_pushed(model, tmp_path):
    run(model, tmp_path / "r.json")
    with pytest.raises(EvaluationError, match=f"was found with {MARK}"):
        push(model, "some/policy", results=[tmp_path / "r.json"], card=tmp_path / "card.md")


def test_starts_that_there_are_not_are_refused(model):
    with pytest.raises(EvaluationError, match="has the starts 0 to 3, and 7 is asked for"):
        run(model, None, starts="2:8")


@pytest.mark.parametrize(
    ("env", "words", "told"),
    [
        ("FastSuite", [], "there are no published numbers of FastSuite"),
        ("MarkedSuite", [], "no number found with stand-in visuals may be set beside"),
        ("PublishedSuite", ["--starts", "0:3"], "--comparable takes --starts 0:4"),
        ("PublishedSuite", ["--tasks", "lift"], "--comparable takes all 2 tasks"),
        ("PublishedSuite", ["--wrong-instruction"], "takes nothing from the policy"),
    ],
)
def test_what_is_not_comparable_is_refused(model, tmp_path, env, words, told):
    words = ["--starts", "0:4", *words, "--comparable", "--jobs", 1]
    code, said = command("eval", model, "--env", env, *words, "--out", tmp_path / "r.json")
    assert code == 1 and told in said
    assert not (tmp_path / "r.json").exists()


def test_what_is_comparable_says_so(model, tmp_path):
    run(model, tmp_path / "r.json", "PublishedSuite", comparable=True)
    assert EvaluationResult.load(tmp_path / "r.json").provenance.comparable


def test_processes_are_as_many_as_cores_and_memory_allow():
    assert _most_jobs(4, 0) == 4 and _most_jobs(4, 1) == 4
    assert _most_jobs(64, total_memory() // 3) == 3
    assert _most_jobs(64, 2 * total_memory()) == 1
